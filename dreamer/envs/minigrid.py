"""MiniGrid and BabyAI: small rooms with doors, keys and goals, seen from the agent's place.

The runner builds them from conf/env/minigrid.yaml. No other file imports minigrid.
"""

from functools import partial
from typing import Annotated, Any, Literal, Unpack

import gymnasium
import numpy as np

from dreamer.envs.base import GroupOptions, Task
from dreamer.envs.group import EnvGroup, Observation, SingleEnv, Transition
from dreamer.envs.processes import make_group
from dreamer.envs.tasks import find_task
from dreamer.schema.types import doc
from dreamer.schema.validation import checked_call
from dreamer.types import ActionSpace

IMAGE_SIZE = 64  # pixels, both edges
TILE_SIZE = 8  # pixels, both edges of a tile of the agent's 7 x 7, before they are enlarged


@checked_call
def make_minigrid(
    task: Task,
    *,
    observation: Annotated[
        Literal["pixels", "symbolic"],
        doc("What is seen of the 7 x 7 tiles in view: an RGB image, or what is on them, one-hot."),
    ],
    **group: Unpack[GroupOptions],
) -> EnvGroup:
    """Build E copies of one task.

    Args:
        task: A registered id, with or without its prefix and version: "DoorKey-6x6" is
            "MiniGrid-DoorKey-6x6-v0", "BabyAI-GoToLocal" is "BabyAI-GoToLocal-v0". Without a
            version, the newest.
        observation: What the agent sees of the 7 x 7 tiles before it: "pixels" is an RGB image of
            them; "symbolic" is what stands on each, one-hot, and the direction it looks in.
        group: See `make_group`; the seed is that of how the rooms are laid out.

    Raises:
        ImportError: minigrid is not installed.
        ValueError: Unknown task, or an option out of its range.

    The mission, a sentence, is not observed: tasks whose mission changes from one episode to the
    next, BabyAI's above all, are then partly guesswork. The authors' example drops it as well.

    Source: Chevalier-Boisvert et al. 2023, https://arxiv.org/abs/2306.13831
    """
    try:
        import minigrid  # noqa: F401 (registers its ids)
    except ImportError as error:
        raise ImportError("MiniGrid needs `pip install 'minigrid>=3.2,<4'`") from error
    names = _names()
    return make_group(
        partial(MiniGrid, names[find_task(task, names, "MiniGrid")], observation == "pixels"),
        action_repeat=1,
        **group,
    )


def _names() -> dict[str, str]:
    """Return the registered ids by the names they go by."""
    names = {}
    ids = sorted(i for i in gymnasium.registry if i.startswith(("MiniGrid-", "BabyAI-")))
    for id_ in ids:  # a newer version comes later, and takes the name without one
        name, _, _ = id_.rpartition("-v")
        names |= {id_: id_, name: id_, name.removeprefix("MiniGrid-"): id_}
        names[id_.removeprefix("MiniGrid-")] = id_
    return names


class MiniGrid(SingleEnv):
    """One room, or several, behind which a reward lies."""

    def __init__(self, id_: str, pixels: bool):
        """Make the environment registered under `id_`."""
        import minigrid  # noqa: F401 (in another process, nobody has registered the ids yet)
        from minigrid.core import constants

        # The checker would test every step; `EnvGroup` checks what counts.
        env = gymnasium.make(id_, render_mode="rgb_array", disable_env_checker=True)
        self.name = id_
        self._env: gymnasium.Env[Any, Any] = env
        self._room: Any = env.unwrapped
        assert isinstance(env.action_space, gymnasium.spaces.Discrete)
        self.action_space = ActionSpace(int(env.action_space.n), discrete=True)
        self._pixels = pixels
        # Of each tile: what stands there, its colour, and whether it is open, closed or locked.
        self._kinds = [len(constants.OBJECT_TO_IDX), len(constants.COLOR_TO_IDX), 3]
        edge = self._room.agent_view_size
        if pixels:
            self.obs_shapes = {"image": (3, IMAGE_SIZE, IMAGE_SIZE)}
            # The nearest pixel, as the authors resize.
            self._nearest = ((np.arange(IMAGE_SIZE) + 0.5) * edge * TILE_SIZE / IMAGE_SIZE).astype(
                int
            )
        else:
            self.obs_shapes = {"tiles": (edge**2 * sum(self._kinds),), "direction": (4,)}

    def reset(self, seed: int | None) -> Observation:
        """See `SingleEnv`."""
        return self._observe(self._env.reset(seed=seed)[0])

    def step(self, action: np.ndarray) -> Transition:
        """See `SingleEnv`."""
        obs, reward, terminated, truncated, _ = self._env.step(int(action.argmax()))
        return Transition(self._observe(obs), float(reward), terminated, terminated or truncated)

    def render(self) -> np.ndarray:
        """See `SingleEnv`: the whole grid, with what the agent sees of it lit."""
        picture: Any = self._env.render()
        return picture

    def close(self) -> None:
        """See `SingleEnv`."""
        self._env.close()

    def _observe(self, obs: dict[str, Any]) -> Observation:
        if self._pixels:
            view = self._room.get_frame(tile_size=TILE_SIZE, agent_pov=True)  # (56, 56, 3)
            image = view[np.ix_(self._nearest, self._nearest)]
            return {"image": np.ascontiguousarray(image.transpose(2, 0, 1))}
        tiles = [
            np.eye(kinds, dtype=np.float32)[obs["image"][..., part]].ravel()
            for part, kinds in enumerate(self._kinds)
        ]
        direction = np.eye(4, dtype=np.float32)[obs["direction"]]
        return {"tiles": np.concatenate(tiles), "direction": direction}
