"""Crafter: survive, gather and build in an open world, with 22 achievements to unlock.

Runs build it from conf/env/crafter.yaml. No other file imports crafter.
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
RENDER_SIZE = 288  # pixels, both edges, of images in videos: 32 for each of 9 tiles


@checked_call
def make_crafter(
    task: Task,
    *,
    time_limit_frames: TimeLimit,
    **group: Unpack[GroupOptions],
) -> EnvGroup:
    """Build E worlds.

    Args:
        task: "reward" is +1 for each achievement when it is first unlocked in an episode, and
            +-0.1 for each point of health won or lost; "noreward" is always 0.
        time_limit_frames: The episode is truncated here: `is_last` without `is_terminal`.
        group: See `make_group`; the seed determines the worlds and all events in them.

    Raises:
        ImportError: crafter is not installed.
        ValueError: The task is unknown, or a number is out of range.

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
        name="Crafter",
        **group,
        # Mean return of an episode; Table 1 of the paper.
        reference_returns={"random": 2.1, "gamer": 14.3} if rewarded else None,
    )


class Crafter(SingleEnv):
    """One world.

    At the end of an episode it reports each achievement as 1 (unlocked) or 0, and their number.
    Means over episodes are the paper's success rates.
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
            # Crafter generates each world from this seed and the number of the episode.
            self._env._seed, self._env._episode = seed, 0
        image = self._env.reset()
        self._use_ordered_sets()
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
        return self._env.render((RENDER_SIZE, RENDER_SIZE))

    def close(self) -> None:
        """See `SingleEnv`; there is nothing to free."""

    def _use_ordered_sets(self) -> None:
        """Make episodes reproducible across processes.

        Crafter keeps the creatures of an area in a set and removes random ones by their position
        in it. The order of a set depends on memory addresses, so an ordered set replaces it.
        """
        world = self._env._world
        areas = defaultdict(_OrderedSet)
        for creature in world.objects:
            areas[world.chunk_key(creature.pos)].add(creature)
        world._chunks = areas


class _OrderedSet(dict[Any, None]):
    """The methods of a set that Crafter uses, in insertion order."""

    def add(self, item: Any) -> None:
        self[item] = None

    def remove(self, item: Any) -> None:
        del self[item]


def _observe(image: np.ndarray) -> Observation:
    return {"image": np.ascontiguousarray(image.transpose(2, 0, 1))}


def _successes(counts: dict[str, int]) -> dict[str, float]:
    """Convert the count of each achievement to 0 or 1, and add the number of unlocked ones."""
    unlocked = {f"achievement/{name}": float(count > 0) for name, count in counts.items()}
    return {**unlocked, "achievements": sum(unlocked.values())}
