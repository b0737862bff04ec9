"""A small environment with any spaces, and some of it registered, as a user's module would."""

import copy

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text, Tuple

SIGHT = Dict(
    camera=Dict(left=Box(0, 255, (20, 30, 3), np.uint8)),
    joints=Box(-np.inf, np.inf, (2, 2)),
    gear=Discrete(3),
    mission=Text(9),
)


class Toy(gymnasium.Env):
    """Shows samples of its observation space; records its actions; ends after `length` steps."""

    def __init__(self, observations=SIGHT, actions=None, length=4, terminal=True):
        self.observation_space = copy.deepcopy(observations)  # with random numbers of its own
        self.action_space = actions or Discrete(2)
        self.length, self.terminal = length, terminal
        self.actions, self.time = [], 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.time = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.actions.append(action)
        self.time += 1
        ended = self.time == self.length
        obs = self.observation_space.sample()
        return obs, float(self.time), ended and self.terminal, ended and not self.terminal, {}


def register(name, **kwargs):
    gymnasium.register(f"toys/{name}-v0", "toys:Toy", max_episode_steps=9, kwargs=kwargs)


register("Plain")
register("MultiDiscrete", actions=MultiDiscrete([3, 2], start=[1, 0]))
register("MultiBinary", actions=MultiBinary(3), observations=Box(0, 1, (12, 12), np.float32))
register("Bounded", actions=Box(0, 10, (3,)), observations=Tuple([Discrete(2), Box(-1, 1, ())]))
register("Unbounded", actions=Box(-np.inf, np.inf, (3,)))


def fail(render_mode=None):
    """Fail as a window does that finds no screen."""
    raise NameError('Cannot connect to "None"')


gymnasium.register("toys/Blind-v0", fail)
