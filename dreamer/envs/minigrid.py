"""MiniGrid and BabyAI: small rooms with doors, keys and goals, seen from the agent's position.

Runs build them from conf/env/minigrid.yaml. No other file imports minigrid.
"""

from functools import partial
from typing import Annotated, Any, Literal, Unpack

import gymnasium
import numpy as np

from dreamer.envs.base import GroupOptions, Task
from dreamer.envs.group import EnvGroup, Observation, SingleEnv, Transition
from dreamer.envs.minigrid_truth import RoomTruth
from dreamer.envs.processes import make_group
from dreamer.envs.tasks import find_task
from dreamer.schema.types import PositiveCount, doc
from dreamer.schema.validation import checked_call
from dreamer.types import ActionSpace

IMAGE_SIZE = 64  # pixels, both edges
TILE_SIZE = 8  # pixels, both edges of one of the 7 x 7 visible tiles, before resizing


@checked_call
def make_minigrid(
    task: Task,
    *,
    observation: Annotated[
        Literal["pixels", "symbolic"],
        doc("Observe the 7 x 7 visible tiles as an RGB image, or their contents one-hot."),
    ],
    map: Annotated[
        bool, doc("Provide probes with the map, the agent's place on it, and the cells seen.")
    ] = False,
    goals: Annotated[bool, doc("Provide probes with the vector to the goal tile.")] = False,
    layouts: Annotated[
        PositiveCount | None,
        doc("Number of different layouts; null: every episode has a new one."),
    ] = None,
    **group: Unpack[GroupOptions],
) -> EnvGroup:
    """Build E copies of one task.

    Args:
        task: A registered id, with or without its prefix and version: "DoorKey-6x6" is
            "MiniGrid-DoorKey-6x6-v0", "BabyAI-GoToLocal" is "BabyAI-GoToLocal-v0". Without a
            version, the newest.
        observation: How the agent observes the 7 x 7 tiles in front of it: "pixels" is an RGB
            image of them; "symbolic" is the content of each and the agent's direction, one-hot.
        map: Add what map probes need to the observations; no agent sees it.
        goals: Add what goals probes need; the task must have a goal tile.
        layouts: An episode has one of this many layouts, those of the seeds 0, 1, ...; they are
            the same in every run. The start is part of a layout.
        group: See `make_group`; the seed determines the layouts of the rooms.

    Raises:
        ImportError: minigrid is not installed.
        ValueError: The task is unknown, or an option is out of range.

    The mission, a sentence, is not observed, as in the authors' example. Tasks whose mission
    changes between episodes, such as BabyAI's, are therefore only partly solvable.

    Source: Chevalier-Boisvert et al. 2023, https://arxiv.org/abs/2306.13831
    """
    try:
        import minigrid  # noqa: F401 (registers its ids)
    except ImportError as error:
        raise ImportError("MiniGrid needs `pip install 'minigrid>=3.2,<4'`") from error
    names = _names()
    return make_group(
        partial(
            MiniGrid,
            names[find_task(task, names, "MiniGrid")],
            observation == "pixels",
            with_map=map,
            with_goals=goals,
            layouts=layouts,
        ),
        action_repeat=1,
        **group,
    )


def _names() -> dict[str, str]:
    """Return the registered ids by all their accepted names."""
    names = {}
    ids = sorted(i for i in gymnasium.registry if i.startswith(("MiniGrid-", "BabyAI-")))
    for id_ in ids:  # sorted: the newest version comes last and gets the name without a version
        name, _, _ = id_.rpartition("-v")
        names |= {id_: id_, name: id_, name.removeprefix("MiniGrid-"): id_}
        names[id_.removeprefix("MiniGrid-")] = id_
    return names


class MiniGrid(SingleEnv):
    """One MiniGrid or BabyAI environment.

    At the end of an episode it reports `visited_states`, the number of different states that the
    episode visited: where everything is, what is open or locked, and the agent's direction.
    """

    def __init__(
        self,
        id_: str,
        pixels: bool,
        *,
        layouts: int | None = None,
        with_map: bool = False,
        with_goals: bool = False,
    ):
        """Make the environment registered under `id_`.

        For `layouts` see `make_minigrid`, for the last two `RoomTruth`.
        """
        import minigrid  # noqa: F401 (registers its ids in this process)
        from minigrid.core import constants

        # Gymnasium's checker is slow; `EnvGroup` checks the observations.
        env = gymnasium.make(id_, render_mode="rgb_array", disable_env_checker=True)
        self.name = id_
        self._env: gymnasium.Env[Any, Any] = env
        self._room: Any = env.unwrapped
        assert isinstance(env.action_space, gymnasium.spaces.Discrete)
        self.action_space = ActionSpace(int(env.action_space.n), discrete=True)
        self._pixels = pixels
        # Of each tile: object, colour, and state (open, closed or locked).
        self._kinds = [len(constants.OBJECT_TO_IDX), len(constants.COLOR_TO_IDX), 3]
        edge = self._room.agent_view_size
        if pixels:
            self.obs_shapes = {"image": (3, IMAGE_SIZE, IMAGE_SIZE)}
            # Nearest-neighbour resizing, as in the authors' code.
            self._nearest = ((np.arange(IMAGE_SIZE) + 0.5) * edge * TILE_SIZE / IMAGE_SIZE).astype(
                int
            )
        else:
            self.obs_shapes = {"tiles": (edge**2 * sum(self._kinds),), "direction": (4,)}
        self._truth = RoomTruth(self._room, with_map=with_map, with_goals=with_goals)
        self.obs_shapes |= self._truth.shapes
        self._layouts = layouts
        self._rng = np.random.default_rng()  # draws layouts
        self._visited: set[tuple[Any, ...]] = set()  # the states of this episode
        self._tiles: list[Any] = []  # the contents of the grid in the latest state
        self._things: tuple[Any, ...] = ()  # of these, positions, kinds and colours of non-walls
        self._doors: list[Any] = []

    def reset(self, seed: int | None) -> Observation:
        """See `SingleEnv`."""
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        if self._layouts is not None:
            seed = int(self._rng.integers(self._layouts))
        obs, _ = self._env.reset(seed=seed)
        self._visited = {self._state()}
        self._truth.reset()
        return self._observe(obs)

    def step(self, action: np.ndarray) -> Transition:
        """See `SingleEnv`."""
        obs, reward, terminated, truncated, _ = self._env.step(int(action.argmax()))
        self._visited.add(self._state())
        ended = terminated or truncated
        metrics = {"visited_states": float(len(self._visited))} if ended else {}
        return Transition(self._observe(obs), float(reward), terminated, ended, metrics)

    def render(self) -> np.ndarray:
        """See `SingleEnv`: the whole grid, with the visible tiles highlighted."""
        image: Any = self._env.render()
        return image

    def close(self) -> None:
        """See `SingleEnv`."""
        self._env.close()

    def _state(self) -> tuple[Any, ...]:
        """Return the state of the room, for counting; walls stay as they are in an episode."""
        room = self._room
        if room.grid.grid != self._tiles:  # compares identities, which is fast; seldom true
            self._tiles = [*room.grid.grid]
            things = [(i, x) for i, x in enumerate(self._tiles) if x and x.type != "wall"]
            self._doors = [x for _, x in things if x.type == "door"]
            self._things = tuple((i, x.type, x.color) for i, x in things)
        return (
            *room.agent_pos,
            room.agent_dir,
            room.carrying and room.carrying.encode(),
            self._things,
            *[(door.is_open, door.is_locked) for door in self._doors],
        )

    def _observe(self, obs: dict[str, Any]) -> Observation:
        return self._view(obs) | self._truth.observe(obs["image"])

    def _view(self, obs: dict[str, Any]) -> Observation:
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
