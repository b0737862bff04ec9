"""One environment behind our interface, and how E of them form a group that steps together.

Suites whose environments are Python objects write a `SingleEnv` each and pass its makers to
`EnvGroup`, which also handles environments that fail during a run. This file knows no suite.
"""

import sys
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from dreamer.envs.rendering import resize, take_picture
from dreamer.envs.tasks import print_once, require_at_least
from dreamer.types import ActionSpace, TimeStep

Observation = dict[str, np.ndarray]  # of one environment, without a leading axis


class EnvironmentFault(RuntimeError):  # noqa: N818 -- a fault, not an error of ours
    """An environment did what it must not: raised, hung, died, or gave what is no observation."""


class Transition(NamedTuple):
    """What one environment says after a policy step, or after a reset."""

    obs: Observation  # image (C, 64, 64) uint8; a vector (O,) float32; arrays of their own
    reward: float = 0.0  # raw, summed over the action repeat
    is_terminal: bool = False
    is_last: bool = False
    episode_metrics: Mapping[str, float] = {}  # of the episode that ends here


class SingleEnv(ABC):
    """One environment, in this process or another.

    Whoever writes one gives the two attributes and the four abstract methods; any of them may
    raise whatever it likes, and `EnvGroup` restarts the environment.

    A group asks in two phases, first all members to start and then each to finish, so that members
    in other processes work at the same time. They override the three methods of the two phases.
    """

    obs_shapes: dict[str, tuple[int, ...]]  # image (C, 64, 64) uint8; a vector (O,) float32
    action_space: ActionSpace
    user_spaces: Any = None  # `GymSpaces`, where users know it by Gymnasium's spaces

    notes: tuple[str, ...] = ()  # what people should know of it, in sentences
    name: str = "environment"  # what messages call it

    @abstractmethod
    def reset(self, seed: int | None) -> Observation:
        """Begin an episode; with a seed the random stream begins anew, with None it goes on."""

    @abstractmethod
    def step(self, action: np.ndarray) -> Transition:
        """Make one policy step, the action repeat included; action (A,), see `ActionSpace`."""

    @abstractmethod
    def render(self) -> np.ndarray:
        """Return (height, width, 3) uint8, the environment as it stands, for people.

        Whoever asks lets `take_picture` see to what else it returns or raises.
        """

    @abstractmethod
    def close(self) -> None:
        """Free what the environment holds; harmless a second time."""

    def start_reset(self, seed: int | None) -> None:
        """Ask for a reset; never raises and does not wait."""
        self._asked: Callable[[], Transition] = lambda: Transition(self.reset(seed))

    def start_step(self, action: np.ndarray) -> None:
        """Ask for a step; never raises and does not wait."""
        self._asked = partial(self.step, action)

    def finish(self) -> Transition:
        """Wait for what was asked for last; raises what went wrong on the way."""
        return self._asked()


class EnvGroup:
    """E environments, each an object of its own, behind the `VectorEnvs` protocol.

    An environment that fails in a step ends its episode as if cut by a time limit, on its last
    good observation and without a reward; the next step resets a new one in its place.
    """

    def __init__(
        self,
        makers: Sequence[Callable[[], SingleEnv]],
        *,
        seed: int,
        action_repeat: int,
        max_restarts: int,
        reference_returns: dict[str, float] | None = None,
    ):
        """Make every environment; the attributes are read when all have been asked for.

        Args:
            makers: One per environment, called again to replace it; all make the same kind.
            seed: Of the random streams; environment e's follows from the seed and e.
            action_repeat: Frames per policy step; repeating is the members' business.
            max_restarts: Of each environment, until the run ends with its fault.
            reference_returns: See `VectorEnvs`.

        Raises:
            ValueError: A number out of its range, or environments of several kinds.
        """
        require_at_least(1, count=len(makers), action_repeat=action_repeat)
        require_at_least(0, seed=seed, max_restarts=max_restarts)
        self.count = len(makers)
        self.action_repeat = action_repeat
        self.reference_returns = reference_returns or {}
        self._makers, self._max_restarts = makers, max_restarts
        self._rngs = [np.random.default_rng([seed, env]) for env in range(self.count)]
        self.members: list[SingleEnv] = []
        try:
            self.members += [make() for make in makers]
            self.obs_shapes, self.action_space = kind = self._kind(0)
            for env in range(self.count):
                if self._kind(env) != kind:
                    raise ValueError(
                        "Expect all environments to have the same spaces, actually: 0 has "
                        f"{kind}, {env} has {self._kind(env)}"
                    )
        except BaseException:
            self.close()
            raise
        self.user_spaces = self.members[0].user_spaces
        for note in self.members[0].notes:
            print_once(note)
        self.restarts = [0] * self.count  # so far
        self._unseeded = [True] * self.count  # made anew: the next reset gets a seed
        self._broken = [False] * self.count  # to be replaced before the next reset
        self._obs: list[Observation | None] = [None] * self.count  # the last good ones
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
        """See `VectorEnvs`; pictures of other sizes take that of the first environment.

        Raises:
            RenderingFault: An environment gave no picture. All of them can go on.
        """
        pictures = [take_picture(member.render, member.name) for member in self.members]
        return np.stack([resize(picture, *pictures[0].shape[:2]) for picture in pictures])

    def close(self) -> None:
        """See `VectorEnvs`."""
        while self.members:
            _close(self.members.pop())

    def _kind(self, env: int) -> tuple[dict[str, tuple[int, ...]], ActionSpace]:
        return self.members[env].obs_shapes, self.members[env].action_space

    def _start_reset(self, env: int) -> None:
        if self._broken[env]:
            _close(self.members[env])
            self._replace(env)
        seed = int(self._rngs[env].integers(2**31)) if self._unseeded[env] else None
        self._unseeded[env] = False
        self.members[env].start_reset(seed)

    def _replace(self, env: int) -> None:
        while self._broken[env]:
            try:
                self.members[env] = self._makers[env]()
            except Exception as fault:
                self._note(env, fault)
            else:
                self._broken[env], self._unseeded[env] = False, True

    def _finish(self, env: int, is_first: bool) -> Transition:
        """Return what an environment says, or what stands for it where it failed."""
        try:
            transition = self.members[env].finish()
            self._check(transition)
        except Exception as fault:
            self._note(env, fault)
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
                f"Expect observations {list(self.obs_shapes)}, actually: {list(transition.obs)}"
            )
        for key, shape in self.obs_shapes.items():
            value = transition.obs[key]
            dtype = np.dtype(np.uint8 if len(shape) == 3 else np.float32)
            if value.shape != shape or value.dtype != dtype:
                raise EnvironmentFault(
                    f"Expect observation `{key}` to be {shape} {dtype}, "
                    f"actually: {value.shape} {value.dtype}"
                )
            if dtype.kind == "f" and not np.isfinite(value).all():
                raise EnvironmentFault(f"Expect `{key}` to be finite, actually: {value}")
        if not np.isfinite(transition.reward):
            raise EnvironmentFault(f"Expect the reward to be finite, actually: {transition.reward}")

    def _note(self, env: int, fault: Exception) -> None:
        """Report a fault, and mark the environment for replacement while that is allowed."""
        trace = "".join(traceback.format_exception(fault))
        if self._obs[env] is None or self.restarts[env] == self._max_restarts:
            when = "in its first reset" if self._obs[env] is None else "once more"
            print(f"environment {env} failed {when}:\n{trace}", file=sys.stderr)
            raise EnvironmentFault(
                f"Environment {env} failed {when}, after {self.restarts[env]} restarts of at most "
                f"`max_restarts` {self._max_restarts}: {type(fault).__name__}: {fault}"
            ) from fault
        self.restarts[env] += 1
        self._broken[env] = True
        print(
            f"environment {env} failed and is restarted, for the {self.restarts[env]}. time of "
            f"at most {self._max_restarts}:\n{trace}",
            file=sys.stderr,
        )


def _close(member: SingleEnv) -> None:
    try:
        member.close()
    except Exception:  # a broken environment may not even close; the run goes on without it
        print(f"an environment did not close:\n{traceback.format_exc()}", file=sys.stderr)
