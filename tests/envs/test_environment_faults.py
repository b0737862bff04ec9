"""The table of docs/environment_faults.md, row by row, here and in a process of its own."""

import os
import re
import signal
import threading
import time
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from dreamer.callbacks.interrupt import Interrupt
from dreamer.envs.diagnostics import diagnose, find_warnings
from dreamer.envs.faults import EnvironmentFault
from dreamer.envs.rendering import RenderingFault
from dreamer.envs.user import make_group_with

PAGE = Path(__file__).parents[2] / "docs" / "environment_faults.md"
OPTIONS = dict(
    count=1,
    seed=0,
    action_repeat=1,
    time_limit_frames=100,
    grayscale=False,
    flat_keys="$^",
    hang_seconds=60,
    max_restarts=9,
    kwargs={},
)
OBS = {"x": np.zeros(2, np.float32)}
STAY = np.eye(2, dtype=np.float32)[[0]]


class Env(gymnasium.Env):
    """Ends after three steps; its subclasses have a fault in the second step."""

    observation_space = spaces.Dict(x=spaces.Box(-1, 1, (2,), np.float32))
    action_space = spaces.Discrete(2)
    resets = 0

    def reset(self, *, seed=None, options=None):
        self.time, self.resets = 0, self.resets + 1
        return OBS, {}

    def step(self, action):
        self.time += 1
        result = OBS, 1.0, self.time == 3, False, {}
        return self.fault(result) if self.time == 2 else result

    def fault(self, result):
        return result


def returns(change):
    """An environment whose step returns something else."""
    return type("Env", (Env,), {"fault": lambda self, result: change(*result)})


def reward(value):
    return returns(lambda obs, reward, *rest: (obs, value, *rest))


def shows(value):
    return returns(lambda obs, *rest: ({"x": value}, *rest))


def raises(error):
    def fault(self, result):
        raise error

    return type("Env", (Env,), {"fault": fault})


def hang(*_):
    time.sleep(60)


class OldReset(Env):
    def reset(self, *, seed=None, options=None):
        return super().reset()[0]


class OldStep(Env):
    def step(self, action):
        obs, reward, done, _, info = super().step(action)
        return obs, reward, done, info


class NoInfo(Env):
    def reset(self, *, seed=None, options=None):
        return super().reset()[0], None

    def step(self, action):
        return *super().step(action)[:4], None


class Empty(Env):
    observation_space = spaces.Dict(
        x=spaces.Box(-1, 1, (2,), np.float32), goal=spaces.Box(-1, 1, (0,), np.float32)
    )


class Integers(Env):
    def reset(self, *, seed=None, options=None):
        super().reset()
        return {"x": np.array([0, 1])}, {}


class LaterReset(Env):
    def reset(self, *, seed=None, options=None):
        result = super().reset()
        return self.again() if self.resets == 2 else result

    def again(self):
        raise OSError("the level is gone")


class LaterHang(LaterReset):
    again = hang


class NoClose(Env):
    def close(self):
        raise OSError("still in use")


class NoRender(Env):
    metadata, render_mode = {"render_modes": ["rgb_array"]}, "rgb_array"

    def render(self):
        raise OSError("no screen")


class FirstReset(Env):
    def reset(self, *, seed=None, options=None):
        raise OSError("no level")


class NoBounds(Env):
    action_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)


def cannot_be_built(error):
    def fail(self):
        raise error

    return type("Env", (Env,), {"__init__": fail})


WORDS = {  # what the check says of accepted faults
    "the reward is an array of one number": "The reward is an array of one number. This is",
    "the flags are arrays of one value": "`terminated` or `truncated` is an array of one",
    "`reset` returns only the observation": "`reset` returns only the observation, as in the old",
    "`step` returns four values": "`step` returns four values, as in the old Gym. This is",
    "the information is None": "The information is None instead of a dictionary. This is",
    "a part of the observation has no numbers": "`goal` is ignored: Box(",
    "the observation is of integers first, then of floats": "`x` is int64, its space float32.",
    "the observation is of float64 and outside its space": "`x` is above the upper bounds of its",
    "`close` raises an exception": "Broken failed to close: OSError: still in use",
    "`render` raises an exception": "Videos will show observations, because Broken: `render`",
}
RESTART, ACCEPTED, END = "restart", "accepted", "the run ends"
FAULTS = {
    "the reward is an array of one number": (reward(np.array([1.0])), ACCEPTED),
    "the reward is not a number": (reward(None), "The reward must be a number, got None"),
    "the reward is NaN": (reward(np.nan), "The reward must be finite, got nan"),
    "the reward is 1e39": (reward(1e39), "The reward must be at most 3.4e+38 in size"),
    "the flags are arrays of one value": (
        returns(lambda obs, r, *_: (obs, r, np.array([False]), np.array(0), {})),
        ACCEPTED,
    ),
    "the flags are no truth values": (
        returns(lambda obs, r, *_: (obs, r, "no", False, {})),
        "`terminated` must be true or false, got 'no'",
    ),
    "`reset` returns only the observation": (OldReset, ACCEPTED),
    "`step` returns four values": (OldStep, ACCEPTED),
    "`step` returns three values": (returns(lambda *all_: all_[:3]), "got 3 values"),
    "`step` returns nothing": (returns(lambda *_: None), "`step` must return observation"),
    "the information is None": (NoInfo, ACCEPTED),
    "a part of the observation has no numbers": (Empty, ACCEPTED),
    "the observation is of integers first, then of floats": (Integers, ACCEPTED),
    "the observation is of float64 and outside its space": (shows(np.array([0.5, 9])), ACCEPTED),
    "the observation has another shape": (shows(np.zeros(3)), "`x` must have shape (2,), got (3,)"),
    "the observation lacks a part": (
        returns(lambda obs, *rest: ({}, *rest)),
        "The observation must have `x`, got {}",
    ),
    "the observation contains NaN": (shows(np.float32([0, np.nan])), "`x` must be finite"),
    "the observation is 1e39": (shows(np.array([0, 1e39])), "`x` must be at most 3.4e38 in size"),
    "the observation is text": (shows("left"), "`x` must be an array of numbers, got 'left'"),
    "`step` raises an exception": (raises(KeyError("door")), "KeyError: 'door' ("),
    "`step` raises SystemExit": (raises(SystemExit(3)), "SystemExit: 3 ("),
    "`step` raises KeyboardInterrupt": (raises(KeyboardInterrupt()), "KeyboardInterrupt ("),
    "`step` hangs": (type("Env", (Env,), {"fault": hang}), "did not answer within `hang_seconds`"),
    "a later `reset` raises an exception": (LaterReset, "OSError: the level is gone ("),
    "a later `reset` hangs": (LaterHang, "did not answer within `hang_seconds`"),
    "`close` raises an exception": (NoClose, ACCEPTED),
    "`render` raises an exception": (NoRender, ACCEPTED),
    "the first `reset` raises an exception": (FirstReset, "OSError: no level ("),
    "the constructor raises an exception": (cannot_be_built(OSError("no port")), "no port"),
    "the constructor raises SystemExit": (cannot_be_built(SystemExit("bye")), "SystemExit: bye"),
    "the action space has no bounds": (NoBounds, "Actions must have finite bounds"),
    "the process dies": (
        type("Env", (Env,), {"fault": lambda *_: os._exit(7)}),
        "Its process died with exit code 7",
    ),
}
ROWS = dict(
    re.findall(r"^\| (.+?) \| (accepted|restart|the run ends)\b.*\|$", PAGE.read_text(), re.M)
)
HERE = [fault for fault in FAULTS if fault != "the process dies"]


def test_every_row_of_the_table_is_tested():
    assert ROWS.keys() == FAULTS.keys()
    assert len(ROWS) >= 25


@pytest.fixture(autouse=True)
def signals_of_a_run():
    """As in a run, Ctrl-C raises no KeyboardInterrupt: one that is raised is the environment's."""
    with Interrupt().listening():
        yield


def make(fault, **options):
    limit = {"hang_seconds": 0.4} if "hangs" in fault else {}
    return make_group_with(named(FAULTS[fault][0]), **OPTIONS | limit | options)


def named(cls):
    return type("Broken", (cls,), {"__module__": cls.__module__})


def play(envs, steps=7):
    try:
        played = [envs.reset()] + [envs.step(STAY) for _ in range(steps)]
        render(envs)
        return played
    finally:
        envs.close()


def render(envs):
    try:
        envs.render()
    except RenderingFault as fault:
        assert "OSError: no screen" in str(fault)


def check(fault, capsys, **options):
    outcome, message = ROWS[fault], FAULTS[fault][1]
    if outcome == END:
        with pytest.raises((EnvironmentFault, ValueError)) as raised:
            play(make(fault, **options))
        text = str(raised.value)
        assert message in text
        assert "Broken" in text
        assert "\n" not in text
        return
    envs = make(fault, **options)
    steps = play(envs)
    assert all(np.isfinite(step.reward).all() for step in steps)
    said = capsys.readouterr().err
    if outcome == ACCEPTED:
        assert envs.restarts == [0]
        assert [bool(step.is_last[0]) for step in steps] == [False, False, False, True] * 2
        return
    assert envs.restarts[0] >= 1
    lines = said.splitlines()
    assert len(lines) == envs.restarts[0]
    when = "in the reset of episode 2" if "reset" in fault else "in step 2 of episode 1"
    assert lines[0].startswith(f"environment 0 (Broken) failed {when}: ")
    assert message in lines[0]
    assert "Restart 1 of at most 9" in lines[0]


@pytest.mark.parametrize("fault", HERE)
def test_a_fault_in_this_process(fault, capsys):
    check(fault, capsys, processes=False)


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_a_process_of_its_own(fault, capsys):
    if "hangs" in fault:  # the time to start it counts, too
        check(fault, capsys, processes=True, hang_seconds=8)
    else:
        check(fault, capsys, processes=True)


def test_too_many_faults_end_the_run_with_one_line(capsys):
    envs = make("`step` raises an exception", processes=False, max_restarts=2)
    with pytest.raises(
        EnvironmentFault,
        match=r"^Environment 0 \(Broken\) failed again, in step 2 of episode 3, after 2 of "
        r"`max_restarts` 2 restarts: KeyError: 'door' \(.*py:\d+ in fault\)\. Correct it",
    ):
        play(envs, 20)
    assert capsys.readouterr().err.count("\n") == 2


def test_ctrl_c_in_an_environment_is_no_fault():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            play(make("`step` raises KeyboardInterrupt", processes=False))
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_hang_in_another_thread_is_a_restart(capsys):
    played = []

    class Spinning(Env):
        def fault(self, result):
            while True:
                pass

    envs = make_group_with(Spinning, **OPTIONS | {"hang_seconds": 0.4, "processes": False})
    thread = threading.Thread(target=lambda: played.extend(play(envs)))
    thread.start()
    thread.join(30)
    assert len(played) == 8
    assert "did not answer within `hang_seconds` 0.4" in capsys.readouterr().err


@pytest.mark.parametrize("fault", [fault for fault in HERE if ROWS[fault] != END])
def test_the_check_reports_it_in_advance(fault, capsys):
    envs = make(fault, processes=False)
    found = diagnose(envs, lambda step: STAY, 9)
    envs.close()
    lines = find_warnings(
        found, repeatable=True, sequence=2, across_episodes=True, tanh_rewards=False
    )
    said = "\n".join(lines) + capsys.readouterr().err
    words = WORDS.get(fault, FAULTS[fault][1])
    assert words in said
    if ROWS[fault] == RESTART:
        assert f"failed {found.restarts} times" in said
        assert "Traceback" in found.faults[0].traceback
