"""Crafter: survive, gather and build in an open world, with 22 achievements to unlock.

The runner builds it from conf/env/crafter.yaml. No other file imports crafter.
"""

from collections import defaultdict
from functools import partial
from typing import Any, Unpack

import numpy as np

from dreamer.envs.base import GroupOptions, Task, TimeLimit
from dreamer.envs.group import EnvGroup, Observation, SingleEnv, Transition
from dreamer.envs.processes import make_group
from dreamer.envs.tasks import find_task
from dreamer.schema.validation import checked_call
from dreamer.types import ActionSpace

IMAGE_SIZE = 64  # pixels, both edges
PICTURE_SIZE = 288  # pixels, both edges, of what is rendered for people: 32 for each of 9 tiles


@checked_call
def make_crafter(
    task: Task,
    *,
    time_limit_frames: TimeLimit,
    **group: Unpack[GroupOptions],
) -> EnvGroup:
    """Build E worlds.

    Args:
        task: "reward", +1 when an achievement is unlocked in the episode and 0.1 for each point of
            health won or lost; or "noreward", always 0.
        time_limit_frames: The episode is cut here: `is_last` without `is_terminal`.
        group: See `make_group`; the seed is that of the worlds and of what happens in them.

    Raises:
        ImportError: crafter is not installed.
        ValueError: Unknown task, or a number out of its range.

    Source: Hafner 2021, https://arxiv.org/abs/2109.06780
    """
    rewarded = find_task(task, ["reward", "noreward"], "Crafter") == "reward"
    try:
        import crafter  # noqa: F401
    except ImportError as error:
        raise ImportError("Crafter needs `pip install 'crafter>=1.8.3,<1.9'`") from error
    return make_group(
        partial(Crafter, rewarded, time_limit_frames),
        action_repeat=1,
        **group,
        # Of Table 1 of the paper: the mean return of an episode.
        reference_returns={"random": 2.1, "gamer": 14.3} if rewarded else None,
    )


class Crafter(SingleEnv):
    """One world.

    At the end of an episode it tells which achievements were unlocked, as 0 or 1 each, so that
    means over episodes are the success rates of the paper, and how many.
    """

    name = "Crafter"
    obs_shapes = {"image": (3, IMAGE_SIZE, IMAGE_SIZE)}

    def __init__(self, rewarded: bool, time_limit_frames: int):
        """Make a world of the paper's size."""
        import crafter

        self._env: Any = crafter.Env(reward=rewarded, length=time_limit_frames, seed=0)
        self.action_space = ActionSpace(len(self._env.action_names), discrete=True)

    def reset(self, seed: int | None) -> Observation:
        """See `SingleEnv`."""
        if seed is not None:
            # Every world is laid out by this seed and the number of the episode.
            self._env._seed, self._env._episode = seed, 0
        image = self._env.reset()
        self._order_the_creatures()
        return _observe(image)

    def step(self, action: np.ndarray) -> Transition:
        """See `SingleEnv`."""
        image, reward, ended, info = self._env.step(int(action.argmax()))
        return Transition(
            _observe(image),
            float(reward),
            is_terminal=info["discount"] == 0,
            is_last=bool(ended),
            episode_metrics=_successes(info["achievements"]) if ended else {},
        )

    def render(self) -> np.ndarray:
        """See `SingleEnv`."""
        return self._env.render((PICTURE_SIZE, PICTURE_SIZE))

    def close(self) -> None:
        """See `SingleEnv`; there is nothing to free."""

    def _order_the_creatures(self) -> None:
        """Let the same seed give the same episode in every process.

        Crafter keeps the creatures of an area in a set, whose order follows from where they lie in
        memory, and draws those that vanish by their position in it.
        """
        world = self._env._world
        areas = defaultdict(_OrderedSet)
        for creature in world.objects:
            areas[world.chunk_key(creature.pos)].add(creature)
        world._chunks = areas


class _OrderedSet(dict[Any, None]):
    """What Crafter does with a set, in the order of insertion."""

    def add(self, item: Any) -> None:
        self[item] = None

    def remove(self, item: Any) -> None:
        del self[item]


def _observe(image: np.ndarray) -> Observation:
    return {"image": np.ascontiguousarray(image.transpose(2, 0, 1))}


def _successes(counts: dict[str, int]) -> dict[str, float]:
    """Turn how often each achievement was made into whether it was."""
    unlocked = {f"achievement/{name}": float(count > 0) for name, count in counts.items()}
    return {**unlocked, "achievements": sum(unlocked.values())}
