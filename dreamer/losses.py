"""The mathematics of DreamerV2's losses, as pure functions of tensors.

The world model and the actor-critic call them; they know no module, no configuration and no
logging. Every function names its equation in the paper (https://arxiv.org/abs/2010.02193).
"""

from collections.abc import Callable

import torch
from torch import Tensor


def lambda_return(
    reward: Tensor, value: Tensor, discount: Tensor, bootstrap: Tensor, lambda_: float
) -> Tensor:
    """Mix all n-step returns of an imagined trajectory, weighting longer ones by lambda.

    R[t] = r[t] + d[t] * ((1 - lambda) * v[t+1] + lambda * R[t+1]),   R[H] = v[H] = bootstrap.
    lambda = 0 gives one-step targets, lambda = 1 the discounted sum.

    Args:
        reward: (H, N) reward on arriving at t.
        value: (H, N) critic's estimate at t; only t >= 1 is used.
        discount: (H, N) gamma times the probability that the episode goes on after t.
        bootstrap: (N,) value of the state after the last reward.
        lambda_: in [0, 1].

    Returns:
        (H, N) targets. Differentiable in every input.

    Source: Eq. 4, in the form of the authors' code, whose reward is that of arriving at t.
    """
    assert reward.shape == value.shape == discount.shape, (reward.shape, value.shape)
    assert bootstrap.shape == reward.shape[1:], (bootstrap.shape, reward.shape)
    next_value = torch.cat([value[1:], bootstrap[None]])
    one_step = reward + discount * (1 - lambda_) * next_value
    decay = lambda_ * discount
    target = bootstrap
    targets = []
    for t in reversed(range(reward.shape[0])):
        target = one_step[t] + decay[t] * target
        targets.append(target)
    return torch.stack(targets[::-1])


def trajectory_weight(discount: Tensor) -> Tensor:
    """Probability that each imagined state is still alive, discounted: w[t] = prod_{i<t} d[i].

    The product is shifted by one: a discount says what follows its state, not the state itself.

    Args:
        discount: (H+1, N).

    Returns:
        (H+1, N) with w[0] = 1. Carries gradients; the losses detach it.

    Source: section 2.2, "loss terms weighted by the cumulative predicted discount factors".
    """
    return torch.cat([torch.ones_like(discount[:1]), discount[:-1]]).cumprod(0)


def balanced_kl(
    posterior_stats: Tensor,
    prior_stats: Tensor,
    kl_divergence: Callable[[Tensor, Tensor], Tensor],
    *,
    balance: float,
    free_nats: float,
    forward: bool,
    free_avg: bool,
) -> tuple[Tensor, Tensor]:
    """Train the prior towards the posterior faster than the posterior towards the prior.

    Args:
        posterior_stats: (T, B, S, P).
        prior_stats: (T, B, S, P).
        kl_divergence: maps two such statistics to their divergence (T, B) in nats.
        balance: in (0, 1), the share of the prior's gradient. Exactly 0.5 is the plain KL, whose
            gradient is twice that of the balanced form in the limit, and ignores `free_avg`.
        free_nats: below this the loss has no gradient.
        forward: minimise KL(prior || posterior) instead.
        free_avg: apply the free nats to the mean over T and B instead of to each entry.

    Returns:
        The loss (), with gradients into both statistics, and the divergence (T, B) in nats,
        without.

    Source: Eq. 3 and Algorithm 2.
    """
    assert posterior_stats.shape == prior_stats.shape, (posterior_stats.shape, prior_stats.shape)
    left, right = (prior_stats, posterior_stats) if forward else (posterior_stats, prior_stats)
    # Differs from the paper: there, alpha = 0.5 would only halve the gradient.
    if balance == 0.5:
        value = kl_divergence(left, right)  # (T, B)
        return value.clamp_min(free_nats).mean(), value.detach()
    divergences = kl_divergence(left, right.detach()), kl_divergence(left.detach(), right)
    if free_avg:
        left_loss, right_loss = (kl.mean().clamp_min(free_nats) for kl in divergences)
    else:
        left_loss, right_loss = (kl.clamp_min(free_nats).mean() for kl in divergences)
    mix = balance if forward else 1 - balance
    return mix * left_loss + (1 - mix) * right_loss, divergences[0].detach()


def actor_loss(
    log_prob: Tensor | None,
    entropy: Tensor,
    target: Tensor,
    baseline: Tensor,
    weight: Tensor,
    *,
    dynamics_mix: float,
    entropy_scale: float,
) -> Tensor:
    """Prefer actions that led to more than the baseline, by either gradient, and stay random.

    Args:
        log_prob: (H-1, N) of the imagined actions; None where `dynamics_mix` is 1.
        entropy: (H-1, N) of the policy, in nats.
        target: (H-1, N) lambda-returns of the states that the actions led to.
        baseline: (H-1, N) values of the states in which they were chosen.
        weight: (H-1, N).
        dynamics_mix: 0 is reinforce, 1 is straight through the dynamics, between is both.
        entropy_scale: weight of the entropy bonus.

    Returns:
        The loss (). Reinforce differentiates `log_prob`, the dynamics part differentiates
        `target`; both the entropy. Advantage and weight are constants.

    Source: Eq. 6.
    """
    # Differs from the paper: its rho weighs reinforce, `dynamics_mix` (as in the code) dynamics.
    objective = entropy_scale * entropy
    if dynamics_mix > 0:
        objective = objective + dynamics_mix * target
    if dynamics_mix < 1:
        assert log_prob is not None
        objective = objective + (1 - dynamics_mix) * log_prob * (target - baseline).detach()
    return -(weight.detach() * objective).mean()


def critic_loss(value: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Regress the critic onto the targets: negative log-likelihood under a unit normal.

    Args:
        value: (H, N) of the critic that learns.
        target: (H, N) lambda-returns, constants here.
        weight: (H, N), constants here.

    Returns:
        The loss (), 0.5 * squared error + 0.919 per step. Gradients flow into `value` only.

    Source: Eq. 5.
    """
    nll = 0.5 * (value - target.detach()).square() + HALF_LOG_TAU
    return (weight.detach() * nll).mean()


HALF_LOG_TAU = 0.9189385332046727  # 0.5 * log(2 * pi), the unit normal's normaliser
