"""Finds a renderer for MuJoCo on a machine without a screen.

Suites that render with MuJoCo call it before they build environments. Other processes inherit the
result, an environment variable. This file knows no suite.
"""

import functools
import os
import subprocess
import sys

# Renderers in order of preference, with the Debian and Ubuntu packages that each needs.
PACKAGES = {"egl": "libegl1 libgl1", "osmesa": "libosmesa6"}
TRIAL_SECONDS = 120  # time limit of a trial

# All that can fail: loading the libraries, making a context, and MuJoCo's set-up of it.
_TRIAL = """
import mujoco
context = mujoco.GLContext(64, 64)
context.make_current()
model = mujoco.MjModel.from_xml_string("<mujoco/>")
mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
"""


class NoRenderer(RuntimeError):  # noqa: N818 -- the name states the problem
    """No renderer works on this machine; the message lists the attempts and what to install."""


@functools.cache
def choose_renderer() -> str:
    """Set MUJOCO_GL to the first renderer that works, or keep the user's, and return it.

    EGL comes first, which uses a GPU if there is one, then OSMesa on the CPU. Each is tried in a
    separate process, because the libraries of a failed one would affect the next. Call this
    before importing dm_control, which reads the variable on import.

    Raises:
        NoRenderer: Neither works, or the user's does not.
    """
    requested = os.environ.get("MUJOCO_GL")
    problems = []
    for name in [requested] if requested else PACKAGES:
        problem = _try(name)
        if problem is None:
            os.environ["MUJOCO_GL"] = name
            return name
        problems.append(f"MUJOCO_GL={name} fails: {problem}")
    raise NoRenderer(
        f"MuJoCo cannot render on this machine. {'. '.join(problems)}. EGL needs `apt-get install "
        f"{PACKAGES['egl']}` (and an NVIDIA driver, to use the GPU), OSMesa `apt-get install "
        f"{PACKAGES['osmesa']}`; one of them is enough."
        + (" Leave MUJOCO_GL unset to choose automatically." if requested else "")
    )


def _try(name: str) -> str | None:
    """Return the error of a renderer; None if it works."""
    try:
        trial = subprocess.run(
            [sys.executable, "-c", _TRIAL],
            env=os.environ | {"MUJOCO_GL": name},
            capture_output=True,
            text=True,
            timeout=TRIAL_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {TRIAL_SECONDS} s"
    if trial.returncode == 0:
        return None
    lines = trial.stderr.strip().splitlines()
    return lines[-1] if lines else f"exit code {trial.returncode}"
