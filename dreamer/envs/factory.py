"""What every suite of environments offers, and the few words that suites share.

Each suite's `make_*` function returns an `Envs`; the collector steps it and the runner reads its
shapes. This file knows no suite, no policy and no replay.
"""

import difflib
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Literal, Protocol, runtime_checkable

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


class Envs(Protocol):
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
        """Begin with what `Envs.step` does."""
        ...

    def finish_step(self) -> TimeStep:
        """Wait for the end of it."""
        ...


def episode_metrics(envs: Envs, env: int) -> Mapping[str, float]:
    """Return what an environment tells of the episode that its latest step has ended."""
    return envs.episode_metrics[env] if isinstance(envs, ReportsEpisodes) else {}


def find_task(task: str, known: Iterable[str], suite: str) -> str:
    """Return the known name that `task` means, whatever its case and separators.

    Raises:
        ValueError: No such task; the message names the nearest ones.
    """
    names = {_letters(name): name for name in known}
    if _letters(task) not in names:
        nearest = difflib.get_close_matches(_letters(task), names, n=3, cutoff=0.5) or sorted(names)
        choices = ", ".join(f"`{names[match]}`" for match in nearest)
        raise ValueError(f"Unknown {suite} task `{task}`. The nearest: {choices}")
    return names[_letters(task)]


def enlarge(image: np.ndarray, factor: int) -> np.ndarray:
    """Turn observed images into pictures for people.

    Args:
        image: (E, C, height, width) uint8; one channel is grey, three are RGB.
        factor: Edge of the square, in pixels, that each pixel becomes.

    Returns:
        (E, factor * height, factor * width, 3) uint8.
    """
    colour = np.broadcast_to(image, (len(image), 3, *image.shape[2:])).transpose(0, 2, 3, 1)
    return colour.repeat(factor, 1).repeat(factor, 2)


def require_at_least(minimum: int, **values: int) -> None:
    """Refuse settings below `minimum`, naming the first of them.

    Raises:
        ValueError: A value is too small.
    """
    for name, value in values.items():
        if value < minimum:
            raise ValueError(f"`{name}` must be at least {minimum}, got {value}")


@functools.cache
def say_once(line: str) -> None:
    """Print a line; environments of one kind would say it again and again."""
    print(line)


def _letters(name: str) -> str:
    return "".join(filter(str.isalnum, name)).lower()
