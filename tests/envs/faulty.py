"""Environments with a fault each, by the name of the fault in docs/environment_faults.md.

Processes import this file: it must import little.
"""

import os
import time

import gymnasium
import numpy as np
from gymnasium import spaces

RESTART, ACCEPTED, END = "restart", "accepted", "the run ends"
OBS = {"x": np.zeros(2, np.float32)}


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


class Stop(BaseException):
    pass


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
    "`step` raises a BaseException": (raises(Stop("now")), "Stop: now ("),
    "`step` hangs": (type("Env", (Env,), {"fault": hang}), "did not answer within `hang_seconds`"),
    "a later `reset` raises an exception": (LaterReset, "OSError: the level is gone ("),
    "a later `reset` hangs": (LaterHang, "did not answer within `hang_seconds`"),
    "`close` raises an exception": (NoClose, ACCEPTED),
    "`render` raises an exception": (NoRender, ACCEPTED),
    "the first `reset` raises an exception": (FirstReset, "OSError: no level ("),
    "the constructor raises an exception": (cannot_be_built(OSError("no port")), "no port"),
    "the constructor raises ValueError": (
        cannot_be_built(ValueError("no size")),
        "Broken cannot be built: ValueError: no size (",
    ),
    "the constructor raises SystemExit": (cannot_be_built(SystemExit("bye")), "SystemExit: bye"),
    "the action space has no bounds": (NoBounds, "Actions must have finite bounds"),
    "the process dies": (
        type("Env", (Env,), {"fault": lambda *_: os._exit(7)}),
        "Its process died with exit code 7",
    ),
}
