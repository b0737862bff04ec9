"""The interface of a group of environments, and the options that all suites share.

Each suite's `make_*` function returns a `VectorEnvs`, which the collector steps. This file knows no
suite, no policy and no replay.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Protocol, TypedDict, runtime_checkable

import numpy as np

from dreamer.schema.types import Count, Positive, PositiveCount, doc
from dreamer.types import ActionSpace, TimeStep

# Keys that several suites have.
Task = Annotated[str, doc("Name of the task; `task` sets it.")]
EnvCount = Annotated[PositiveCount, doc("Environments that step together.", source="the paper: 1")]
ActionRepeat = Annotated[PositiveCount, doc("Length of a policy step.", unit="frames")]
TimeLimit = Annotated[PositiveCount, doc("Maximum length of an episode.", unit="frames")]
Processes = Annotated[
    bool | Literal["auto"],
    doc("Run each environment in its own process; auto: if there are several, and several cores."),
]
HangSeconds = Annotated[
    Positive,
    doc("Restart an environment that has not answered for this long.", unit="seconds"),
]
MaxRestarts = Annotated[Count, doc("Maximum number of restarts of each environment in a run.")]


class GroupOptions(TypedDict):
    """Options of a group of environments; most suites pass them on to `make_group`."""

    count: EnvCount
    seed: int
    processes: Processes
    hang_seconds: HangSeconds
    max_restarts: MaxRestarts


class VectorEnvs(Protocol):
    """E environments of one task that step together and reset automatically, one step later.

    # time step   ...  [is_last]   [is_first]   [      ]
    # action              a1 ignored    a2 the episode's first

    The step after `is_last[e]` ignores action[e] and returns environment e's reset observation
    with `is_first[e]`, reward 0 and no other flag. It does not count as a policy step.

    Environment e has its own random stream, derived from the seed and e only. The same seed and
    actions give the same steps for any number of environments.
    """

    count: int  # E
    obs_shapes: dict[str, tuple[int, ...]]  # of one environment: (C, 64, 64) uint8, (O,) float32
    action_space: ActionSpace
    action_repeat: int  # frames per policy step
    reference_returns: dict[str, float]  # raw, of "random" and better players; may be empty

    def reset(self) -> TimeStep:
        """Start a new episode in every environment; the random streams continue."""
        ...

    def step(self, action: np.ndarray) -> TimeStep:
        """Make one policy step, or the pending reset, in every environment.

        Args:
            action: (E, A) float32, one-hot if the action space is discrete, else in [-1, 1].
        """
        ...

    def render(self) -> np.ndarray:
        """Return images of the latest step, (E, height, width, 3) uint8."""
        ...

    def close(self) -> None:
        """Release all resources; no method may be called afterwards."""
        ...


@runtime_checkable
class ReportsEpisodes(Protocol):
    """Environments that report more about an episode than its return and length."""

    # Metrics of each environment whose episode ended with the latest step, by name.
    episode_metrics: Sequence[Mapping[str, float]]


@runtime_checkable
class StepsInBackground(Protocol):
    """Environments that can step while their caller does something else.

    Between the two calls, `render` shows the previous step; no other method may be called.
    """

    def start_step(self, action: np.ndarray) -> None:
        """Start a `VectorEnvs.step`."""
        ...

    def finish_step(self) -> TimeStep:
        """Wait until the step is done and return it."""
        ...


def episode_metrics(envs: VectorEnvs, env: int) -> Mapping[str, float]:
    """Return the metrics that an environment reports about the episode that has just ended."""
    return envs.episode_metrics[env] if isinstance(envs, ReportsEpisodes) else {}
