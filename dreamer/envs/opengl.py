"""Finds out how MuJoCo can draw on a machine without a screen.

Suites that render with it ask before they build their environments. Environments in other
processes inherit the answer, an environment variable. This file knows no suite.
"""

import functools
import os
import subprocess
import sys

# By preference: the system's packages each needs, on Debian and Ubuntu.
PACKAGES = {"egl": "libegl1 libgl1", "osmesa": "libosmesa6"}
PATIENCE = 120  # seconds that a trial may take

# Everything that can fail: the libraries, a context, and MuJoCo's own set-up of it.
_TRIAL = """
import mujoco
context = mujoco.GLContext(64, 64)
context.make_current()
model = mujoco.MjModel.from_xml_string("<mujoco/>")
mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
"""


class NoRenderer(RuntimeError):  # noqa: N818 -- it says what is missing
    """Nothing on this machine can draw; the message says what was tried and what to install."""


@functools.cache
def choose_renderer() -> str:
    """Set MUJOCO_GL to what works, unless the user has set it, and return it.

    EGL first, on the GPU where there is one, then OSMesa, which draws on the CPU. Each is tried in
    a process of its own, for the libraries of one that failed would be in the way of the next.
    To be called before anything imports dm_control, which reads the variable then.

    Raises:
        NoRenderer: Neither works, or the one that the user has set does not.
    """
    wish = os.environ.get("MUJOCO_GL")
    problems = []
    for name in [wish] if wish else PACKAGES:
        problem = _try(name)
        if problem is None:
            os.environ["MUJOCO_GL"] = name
            return name
        problems.append(f"MUJOCO_GL={name} fails: {problem}")
    raise NoRenderer(
        f"MuJoCo cannot draw on this machine. {'. '.join(problems)}. EGL needs `apt-get install "
        f"{PACKAGES['egl']}` (and an NVIDIA driver, to use the GPU), OSMesa `apt-get install "
        f"{PACKAGES['osmesa']}`; either will do"
        + (", and MUJOCO_GL is best left unset." if wish else ".")
    )


def _try(name: str) -> str | None:
    """Return what is wrong with a renderer, or None."""
    try:
        trial = subprocess.run(
            [sys.executable, "-c", _TRIAL],
            env=os.environ | {"MUJOCO_GL": name},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
    except subprocess.TimeoutExpired:
        return f"it does not answer within {PATIENCE} s"
    if trial.returncode == 0:
        return None
    lines = trial.stderr.strip().splitlines()
    return lines[-1] if lines else f"exit code {trial.returncode}"
