"""The interface of a group of environments, and the options that all suites have.

Each suite's `make_*` function returns a `VectorEnvs`, which the collector steps. This file knows no
suite, no policy and no replay.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Protocol, TypedDict, runtime_checkable

import numpy as np

from dreamer.schema.types import Count, Positive, PositiveCount, doc
from dreamer.types import ActionSpace, TimeStep

# Keys that suites share.
Task = Annotated[str, doc("Name of the task; `task` sets it.")]
EnvCount = Annotated[PositiveCount, doc("Environments that step together.", source="the paper: 1")]
ActionRepeat = Annotated[PositiveCount, doc("Length of a policy step.", unit="frames")]
TimeLimit = Annotated[
    PositiveCount, doc("Length of an episode, after which it is cut.", unit="frames")
]
Processes = Annotated[
    bool | Literal["auto"],
    doc("Give each environment a process; auto: where there are several, and several cores."),
]
HangSeconds = Annotated[
    Positive,
    doc("A process that does not answer for so long is killed and restarted.", unit="seconds"),
]
MaxRestarts = Annotated[Count, doc("Restarts of each environment in a run.")]


class GroupOptions(TypedDict):
    """How environments form a group; most suites pass these on to `make_group`."""

    count: EnvCount
    seed: int
    processes: Processes
    hang_seconds: HangSeconds
    max_restarts: MaxRestarts


class VectorEnvs(Protocol):
    """E environments of one task that step together, and restart themselves one step late.

    # time step   ...  [is_last]   [is_first]   [      ]
    # action              a1 ignored    a2 the episode's first

    The step after `is_last[e]` ignores action[e] and returns environment e's reset observation
    with `is_first[e]`, reward 0 and no other flag: such a transition is no policy step.

    Environment e draws its randomness from a stream of its own, derived from the seed and e only:
    the same seed and actions give the same steps, whatever the number of environments.
    """

    count: int  # E
    obs_shapes: dict[str, tuple[int, ...]]  # of one environment: (C, 64, 64) uint8, (O,) float32
    action_space: ActionSpace
    action_repeat: int  # frames per policy step
    reference_returns: dict[str, float]  # raw, of "random" and of better players; may be empty

    def reset(self) -> TimeStep:
        """Start a new episode everywhere; the random streams go on where they were."""
        ...

    def step(self, action: np.ndarray) -> TimeStep:
        """Make one policy step, or the reset that is due, in every environment.

        Args:
            action: (E, A) float32, one-hot if the action space is discrete, else in [-1, 1].
        """
        ...

    def render(self) -> np.ndarray:
        """Return (E, height, width, 3) uint8, the latest step as a picture for people."""
        ...

    def close(self) -> None:
        """Free the emulators; nothing may be called afterwards."""
        ...


@runtime_checkable
class ReportsEpisodes(Protocol):
    """Environments with more to tell of an episode than its return and length."""

    # Of each environment whose episode ended with the latest step, by name; for the metrics.
    episode_metrics: Sequence[Mapping[str, float]]


@runtime_checkable
class StepsInBackground(Protocol):
    """Environments that can step while their caller does something else.

    Between the two calls `render` shows the step before, and nothing else may be called.
    """

    def start_step(self, action: np.ndarray) -> None:
        """Begin with what `VectorEnvs.step` does."""
        ...

    def finish_step(self) -> TimeStep:
        """Wait for the end of it."""
        ...


def episode_metrics(envs: VectorEnvs, env: int) -> Mapping[str, float]:
    """Return what an environment tells of the episode that its latest step has ended."""
    return envs.episode_metrics[env] if isinstance(envs, ReportsEpisodes) else {}
