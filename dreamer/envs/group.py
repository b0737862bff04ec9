"""The interface of a single environment, and the group in which E of them step together.

Suites whose environments are Python objects subclass `SingleEnv` and pass functions that make one
to `EnvGroup`, which also restarts environments that fail. This file knows no suite.
"""

import math
import sys
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np

from dreamer.envs.faults import EnvironmentFault, build_error, describe, is_fault, one_line
from dreamer.envs.rendering import call_render, resize
from dreamer.envs.tasks import print_once, require_at_least
from dreamer.envs.watch import Watchdog
from dreamer.types import ActionSpace, TimeStep, obs_dtype

Observation = dict[str, np.ndarray]  # of one environment, without a leading axis

LARGEST = float(np.finfo(np.float32).max)
Result = TypeVar("Result")


class Transition(NamedTuple):
    """The result of one environment's policy step or reset."""

    obs: Observation  # images (C, 64, 64) uint8, vectors (O,) float32; not reused by later steps
    reward: float = 0.0  # raw, summed over the action repeat
    is_terminal: bool = False
    is_last: bool = False
    episode_metrics: Mapping[str, float] = {}  # of the episode that ends here


class Fault(NamedTuple):
    """A fault after which an environment was restarted."""

    line: str
    traceback: str


class SingleEnv(ABC):
    """One environment, in this process or another.

    A subclass sets the two attributes and implements the four abstract methods. They may raise any
    exception; `EnvGroup` then restarts the environment.

    A group steps in two phases: it starts all members, then waits for each. Members in other
    processes therefore run in parallel; they override `start_reset`, `start_step` and `finish`.
    """

    obs_shapes: dict[str, tuple[int, ...]]  # images (C, 64, 64) uint8, vectors (O,) float32
    action_space: ActionSpace
    user_spaces: Any = None  # `GymSpaces` of a Gymnasium environment, else None

    notes: tuple[str, ...] = ()  # sentences to print once, such as left-out observations
    name: str = "environment"  # for messages

    @abstractmethod
    def reset(self, seed: int | None) -> Observation:
        """Start an episode; a seed restarts the random stream, None continues it."""

    @abstractmethod
    def step(self, action: np.ndarray) -> Transition:
        """Make one policy step, including the action repeat; action (A,), see `ActionSpace`."""

    @abstractmethod
    def render(self) -> np.ndarray:
        """Return an image of the current state, (height, width, 3) uint8.

        Callers use `call_render`, which checks the result.
        """

    @abstractmethod
    def close(self) -> None:
        """Release all resources; a second call does nothing."""

    def start_reset(self, seed: int | None) -> None:
        """Request a reset; does not wait and does not raise."""
        self._request: Callable[[], Transition] = lambda: Transition(self.reset(seed))

    def start_step(self, action: np.ndarray) -> None:
        """Request a step; does not wait and does not raise."""
        self._request = partial(self.step, action)

    def finish(self) -> Transition:
        """Wait for the latest request and return its result, or raise its exception."""
        return self._request()


class EnvGroup:
    """E separate environments behind the `VectorEnvs` protocol.

    If an environment fails in a step, its episode ends as if by a time limit, with its last valid
    observation and reward 0. The next step replaces the environment and resets the new one.
    """

    def __init__(
        self,
        makers: Sequence[Callable[[], SingleEnv]],
        *,
        seed: int,
        action_repeat: int,
        max_restarts: int,
        hang_seconds: float | None = None,
        name: str = "environment",
        reference_returns: dict[str, float] | None = None,
    ):
        """Make every environment; their attributes are read after all of them have been started.

        Args:
            makers: One function per environment, called again to replace it. All environments
                must have the same spaces.
            seed: Seed of the random streams; that of environment e is derived from it and e.
            action_repeat: Frames per policy step; the members do the repeating.
            max_restarts: Restarts allowed per environment; the next failure ends the run.
            hang_seconds: Time limit of each call of a member; None: none, as members in processes
                have their own.
            name: Of the environment, for messages.
            reference_returns: See `VectorEnvs`.

        Raises:
            ValueError: A number is out of range, the environments have different spaces, or one
                cannot be built.
            ImportError: A package is missing.
            EnvironmentFault: An environment cannot be built for another reason.
        """
        require_at_least(1, count=len(makers), action_repeat=action_repeat)
        require_at_least(0, seed=seed, max_restarts=max_restarts)
        self.count = len(makers)
        self.action_repeat = action_repeat
        self.reference_returns = reference_returns or {}
        self._makers, self._max_restarts, self.name = makers, max_restarts, name
        self._watchdog = None if hang_seconds is None else Watchdog(hang_seconds, name)
        self._rngs = [np.random.default_rng([seed, env]) for env in range(self.count)]
        self.members: list[SingleEnv] = []
        try:
            self._build()
            self.obs_shapes, self.action_space = kind = self._kind(0)
            for env in range(self.count):
                if self._kind(env) != kind:
                    raise ValueError(
                        "All environments must have the same spaces, got "
                        f"{kind} for 0 and {self._kind(env)} for {env}"
                    )
        except BaseException:
            self.close()
            raise
        self.user_spaces = self.members[0].user_spaces
        for note in self.members[0].notes:
            print_once(note)
        self.restarts = [0] * self.count
        self.faults: list[Fault] = []  # after which an environment was restarted
        self._episodes, self._steps = [0] * self.count, [0] * self.count  # steps of the episode
        self._unseeded = [True] * self.count  # new: its first reset gets a seed
        self._broken = [False] * self.count  # replace it before the next reset
        self._obs: list[Observation | None] = [None] * self.count  # the last valid ones
        self._is_last = np.zeros(self.count, bool)
        self.episode_metrics: list[Mapping[str, float]] = [{}] * self.count

    def reset(self) -> TimeStep:
        """See `VectorEnvs`."""
        self._is_last = np.ones(self.count, bool)
        return self.step(np.zeros((self.count, self.action_space.size), np.float32))

    def step(self, action: np.ndarray) -> TimeStep:
        """See `VectorEnvs`."""
        assert action.shape == (self.count, self.action_space.size), action.shape
        is_first = self._is_last
        for env, member in enumerate(self.members):
            if is_first[env]:
                self._start_reset(env)
            else:
                member.start_step(action[env])
        transitions = [self._finish(env, bool(is_first[env])) for env in range(self.count)]
        self._is_last = np.array([x.is_last for x in transitions], bool)
        self.episode_metrics = [x.episode_metrics for x in transitions]
        return TimeStep(
            {key: np.stack([x.obs[key] for x in transitions]) for key in self.obs_shapes},
            np.array([x.reward for x in transitions], np.float32),
            is_first,
            self._is_last,
            np.array([x.is_terminal for x in transitions], bool),
        )

    def render(self) -> np.ndarray:
        """See `VectorEnvs`; all images are resized to that of the first environment.

        Raises:
            RenderingFault: An environment returned no image. All of them can continue.
        """
        images = [
            call_render(lambda member=member: self._call(member.render), member.name)
            for member in self.members
        ]
        return np.stack([resize(image, *images[0].shape[:2]) for image in images])

    def close(self) -> None:
        """See `VectorEnvs`."""
        while self.members:
            self._close(self.members.pop())
        if self._watchdog is not None:
            self._watchdog.close()

    def _build(self) -> None:
        """Make all members; their errors name the environment."""
        try:
            for make in self._makers:
                self.members.append(self._call(make))
            self._kind(0)  # waits for a process
        except BaseException as error:
            if not is_fault(error):
                raise
            raise build_error(self.name, error) from error

    def _call(self, call: Callable[[], Result]) -> Result:
        """Call something of a member, with the time limit if there is one."""
        return call() if self._watchdog is None else self._watchdog.run(call)

    def _close(self, member: SingleEnv) -> None:
        try:
            self._call(member.close)
        except BaseException as error:  # a broken one may fail to close; the run continues
            if not is_fault(error):
                raise
            print(f"{self.name} failed to close: {describe(error)}", file=sys.stderr)

    def _kind(self, env: int) -> tuple[dict[str, tuple[int, ...]], ActionSpace]:
        return self.members[env].obs_shapes, self.members[env].action_space

    def _start_reset(self, env: int) -> None:
        if self._broken[env]:
            self._close(self.members[env])
            self._replace(env)
        seed = int(self._rngs[env].integers(2**31)) if self._unseeded[env] else None
        self._unseeded[env] = False
        self.members[env].start_reset(seed)

    def _replace(self, env: int) -> None:
        while self._broken[env]:
            try:
                self.members[env] = self._call(self._makers[env])
            except BaseException as fault:
                self._handle_failure(env, fault, "when it was made again")
            else:
                self._broken[env], self._unseeded[env] = False, True

    def _finish(self, env: int, is_first: bool) -> Transition:
        """Return an environment's transition; after a failure, end its episode or reset again."""
        if is_first:
            self._episodes[env], self._steps[env] = self._episodes[env] + 1, 0
        else:
            self._steps[env] += 1
        when = f"in step {self._steps[env]}" if self._steps[env] else "in the reset"
        try:
            transition = self._call(self.members[env].finish)
            self._check(transition)
        except BaseException as fault:
            self._handle_failure(env, fault, f"{when} of episode {self._episodes[env]}")
        else:
            self._obs[env] = transition.obs
            return transition
        if not is_first:
            last_good = self._obs[env]
            assert last_good is not None
            return Transition(last_good, is_last=True)
        self._start_reset(env)
        return self._finish(env, is_first)

    def _check(self, transition: Transition) -> None:
        if transition.obs.keys() != self.obs_shapes.keys():
            raise EnvironmentFault(
                f"Observations must be {list(self.obs_shapes)}, got {list(transition.obs)}"
            )
        for key, shape in self.obs_shapes.items():
            value = transition.obs[key]
            dtype = np.dtype(obs_dtype(shape))
            if value.shape != shape or value.dtype != dtype:
                raise EnvironmentFault(
                    f"Observation `{key}` must be {shape} {dtype}, got {value.shape} {value.dtype}"
                )
            if dtype.kind == "f" and not np.isfinite(value).all():
                raise EnvironmentFault(
                    f"Observation `{key}` must be finite, got {one_line(str(value))}"
                )
        if not math.isfinite(transition.reward):
            raise EnvironmentFault(f"The reward must be finite, got {transition.reward}")
        if abs(transition.reward) > LARGEST:
            raise EnvironmentFault(
                f"The reward must be at most {LARGEST:.2g} in size, as float32 is, got "
                f"{transition.reward:g}. Scale the rewards"
            )

    def _handle_failure(self, env: int, fault: BaseException, when: str) -> None:
        """Report a failure; mark the environment for replacement, at most `max_restarts` times."""
        if not is_fault(fault):
            raise fault
        line, is_first = describe(fault), self._obs[env] is None
        if is_first or self.restarts[env] == self._max_restarts:
            raise EnvironmentFault(
                f"Environment {env} ({self.name}) failed "
                f"{'in its first reset' if is_first else f'again, {when}'}, after "
                f"{self.restarts[env]} of `max_restarts` {self._max_restarts} restarts: {line}. "
                "Correct it, and repeat the command"
            ) from fault
        self.restarts[env] += 1
        self._broken[env] = True
        self.faults.append(Fault(line, "".join(traceback.format_exception(fault))))
        print(
            f"environment {env} ({self.name}) failed {when}: {line}. Restart {self.restarts[env]} "
            f"of at most {self._max_restarts}; its episode counts as cut short.",
            file=sys.stderr,
        )
