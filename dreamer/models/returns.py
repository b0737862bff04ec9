"""Returns: what the critic learns, and which steps of a trajectory count with which weight.

The actor-critic reads its losses from the strategy in its configuration. A strategy knows rewards,
values and discounts of trajectories, and no networks.
"""

from dataclasses import dataclass
from typing import Annotated, NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from dreamer.losses import gae_weight, lambda_return, trajectory_weight
from dreamer.schema.types import PositiveFraction, doc
from dreamer.schema.validation import check


class Targets(NamedTuple):
    """Targets of a trajectory (H+1, N, ...); the first L of its H actions train the actor."""

    target: Tensor  # (H, N) of the critic, differentiable
    action_target: Tensor  # (L, N) returns that the actions are credited with, differentiable
    baseline: Tensor  # (L, N) values of the states in which they were chosen
    weight: Tensor  # (L, N) of the actions, detached

    @property
    def steps(self) -> int:
        """L."""
        return len(self.action_target)

    @property
    def advantage(self) -> Tensor:
        """(L, N)."""
        return self.action_target - self.baseline


@runtime_checkable
class Returns(Protocol):
    """Interface of a strategy."""

    def targets(self, reward: Tensor, value: Tensor, discount: Tensor, lambda_: float) -> Targets:
        """Compute the targets of actor and critic.

        Args:
            reward: (H+1, N) reward on arriving at t.
            value: (H+1, N) the target critic's estimate.
            discount: (H+1, N) gamma times the probability that the episode continues after t.
            lambda_: in [0, 1].
        """
        ...

    def weight(self, discount: Tensor) -> Tensor:
        """Weigh the states that the critic learns from: (H+1, N) -> (H, N), detached."""
        ...

    def metrics(self, reward: Tensor, value: Tensor) -> dict[str, Tensor]:
        """Return metrics () of this strategy only, from (H+1, N) and the critic's (H, N)."""
        ...


@dataclass(frozen=True)
class LambdaReturns:
    """Lambda-returns of DreamerV2, weighted by the cumulative predicted discount.

    # states     [z0]   [z1]    z2     z3      H = 3
    # actions       [a1]   [a2]    a3          a_t was chosen in z_{t-1}
    # rewards    [r0]   [r1]   [r2]    r3      r_t is the reward of arriving at z_t
    # values     [v0]   [v1]   [v2]   [v3]
    # targets     t0    [t1]   [t2]            the actor: a_{t+1} has advantage t_{t+1} - v_t
    # targets    [t0]   [t1]   [t2]            the critic
    # weights    [ 1]   [w1]    w2     w3      probability that z_t is still alive

    Source: Eq. 4 of DreamerV2, and the authors' code.
    """

    def targets(self, reward: Tensor, value: Tensor, discount: Tensor, lambda_: float) -> Targets:
        """See `Returns`; L is H - 1."""
        weight = trajectory_weight(discount).detach()
        target = lambda_return(
            reward[:-1], value[:-1], discount[:-1], bootstrap=value[-1], lambda_=lambda_
        )
        return Targets(target, target[1:], value[:-2], weight[:-2])

    def weight(self, discount: Tensor) -> Tensor:
        """See `Returns`."""
        return trajectory_weight(discount)[:-1].detach()

    def metrics(self, reward: Tensor, value: Tensor) -> dict[str, Tensor]:
        """See `Returns`; there are none."""
        return {}


@dataclass(frozen=True)
class GAEReturns:
    """Generalised advantages, weighted by the probability that the episode still runs.

    # states     [z0]   [z1]   [z2]    z3      H = 3
    # actions       [a1]   [a2]   [a3]         a_t was chosen in z_{t-1}
    # rewards     r0    [r1]   [r2]   [r3]     r0 is not used
    # values     [v0]   [v1]   [v2]   [v3]
    # targets    [t0]   [t1]   [t2]            actor and critic: a_{t+1} has advantage t_t - v_t
    # weights    [w0]   [w1]   [w2]    w3      w_t includes the end at z_t, and no gamma

    Source: Schulman et al. 2015, https://arxiv.org/abs/1506.02438, as in PyDreamer,
    https://github.com/jurgisp/pydreamer
    """

    discount: Annotated[
        PositiveFraction, doc("Gamma, that of the world model; the weights leave it out.")
    ]

    def __post_init__(self):
        check(self)

    def targets(self, reward: Tensor, value: Tensor, discount: Tensor, lambda_: float) -> Targets:
        """See `Returns`; L is H."""
        target = lambda_return(
            reward[1:], value[:-1], discount[1:], bootstrap=value[-1], lambda_=lambda_
        )
        return Targets(target, target, value[:-1], self.weight(discount))

    def weight(self, discount: Tensor) -> Tensor:
        """See `Returns`."""
        # A discount head that includes gamma may predict slightly more than gamma.
        continues = (discount.detach() / self.discount).clamp_max(1)
        return gae_weight(continues)[:-1]

    def metrics(self, reward: Tensor, value: Tensor) -> dict[str, Tensor]:
        """See `Returns`: the rewards that count, and the value of the start states."""
        return {
            "imagine/reward_after_start": reward[1:].mean(),
            "imagine/reward_after_start_std": reward[1:].std(),
            "critic/start_value": value[0].mean(),
        }
