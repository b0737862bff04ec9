"""The losses, as pure functions of tensors.

The world model and the actor-critic call them. They know no modules, configuration or logging.
Every function names its source, an equation of https://arxiv.org/abs/2010.02193 if no other.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)  # the normaliser of a unit normal


def lambda_return(
    reward: Tensor, value: Tensor, discount: Tensor, bootstrap: Tensor, lambda_: float
) -> Tensor:
    """Mix all n-step returns of an imagined trajectory, weighting longer ones by lambda.

    R[t] = r[t] + d[t] * ((1 - lambda) * v[t+1] + lambda * R[t+1]),   R[H] = v[H] = bootstrap.
    lambda = 0 gives one-step targets, lambda = 1 the discounted sum.

    Args:
        reward: (H, N) reward on arriving at t.
        value: (H, N) critic's estimate at t; only t >= 1 is used.
        discount: (H, N) gamma times the probability that the episode continues after t.
        bootstrap: (N,) value of the state after the last reward.
        lambda_: in [0, 1].

    Returns:
        (H, N) targets. Differentiable in every input.

    Source: Eq. 4, with the reward of arriving at t, as in the authors' code.
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
    """Compute the cumulative predicted discount of each imagined state: w[t] = prod_{i<t} d[i].

    The product is shifted by one: a discount applies to what follows its state.

    Args:
        discount: (H+1, N).

    Returns:
        (H+1, N) with w[0] = 1. Differentiable; the losses detach it.

    Source: section 2.2, "loss terms weighted by the cumulative predicted discount factors".
    """
    return torch.cat([torch.ones_like(discount[:1]), discount[:-1]]).cumprod(0)


def gae_weight(continues: Tensor) -> Tensor:
    """Compute the probability that the episode runs on after each state: w[t] = prod_{i<=t} c[i].

    Unlike in `trajectory_weight`, the end at t itself counts, and gamma does not.

    Args:
        continues: (H+1, N) probability that the episode continues after t.

    Returns:
        (H+1, N). Differentiable; the losses detach it.

    Source: PyDreamer, https://github.com/jurgisp/pydreamer
    """
    return continues.cumprod(0)


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
    """KL balancing: train the prior towards the posterior faster than the reverse.

    Args:
        posterior_stats: (T, B, S, P).
        prior_stats: (T, B, S, P).
        kl_divergence: maps two such statistics to their KL divergence (T, B) in nats.
        balance: in (0, 1), the share of the prior's gradient. Exactly 0.5 is the plain KL; its
            gradient is twice that of values near 0.5, and `free_avg` is ignored.
        free_nats: below this the loss has no gradient.
        forward: minimise KL(prior || posterior), not KL(posterior || prior).
        free_avg: apply the free nats to the mean over T and B, not to each entry.

    Returns:
        The loss (), with gradients into both statistics, and the KL divergence (T, B) in nats,
        detached.

    Source: section 2.1, Algorithm 2.
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


def sampled_kl(
    posterior_stats: Tensor,
    prior_stats: Tensor,
    stoch: Tensor,
    log_prob: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Estimate the KL divergence from the sample itself: log q(z) - log p(z).

    Args:
        posterior_stats: (..., S, P).
        prior_stats: (..., S, P).
        stoch: (..., S, K) the posterior's samples.
        log_prob: maps such statistics and samples to log-densities (...) in nats.

    Returns:
        (...) in nats, may be negative. Gradients flow into both statistics, and into the samples if
        those of `log_prob` do: so for Gaussian latents, not for categorical ones.

    Source: Burda et al. 2016, "Importance Weighted Autoencoders", https://arxiv.org/abs/1509.00519
    """
    return log_prob(posterior_stats, stoch) - log_prob(prior_stats, stoch)


def importance_weighted(loss: Tensor) -> Tensor:
    """Combine the losses of several samples to the bound of IWAE: -log mean exp(-loss).

    It is at most the mean of the losses, and as tight as more samples make it.

    Args:
        loss: (..., I) negative log-weights of I samples, in nats.

    Returns:
        (...) in nats. A sample's gradient is weighted by its share, softmax(-loss).

    Source: Eq. 8 of https://arxiv.org/abs/1509.00519
    """
    return math.log(loss.shape[-1]) - torch.logsumexp(-loss, -1)


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
    """Maximise the lambda return, by Reinforce or through the dynamics, and the entropy.

    Args:
        log_prob: (L, N) of the first L imagined actions; None where `dynamics_mix` is 1.
        entropy: (L, N) of the policy, in nats.
        target: (L, N) returns that the actions are credited with.
        baseline: (L, N) values of the states in which the actions were chosen.
        weight: (L, N).
        dynamics_mix: 0 is Reinforce, 1 is gradients through the dynamics, values between mix both.
        entropy_scale: weight of the entropy bonus.

    Returns:
        The loss (). Reinforce differentiates `log_prob`, the dynamics term `target`, the bonus
        `entropy`. Advantage and weight are detached.

    Source: Eq. 6.
    """
    # Differs from the paper: its rho weights Reinforce, `dynamics_mix` weights the dynamics.
    objective = entropy_scale * entropy
    if dynamics_mix > 0:
        objective = objective + dynamics_mix * target
    if dynamics_mix < 1:
        assert log_prob is not None
        objective = objective + (1 - dynamics_mix) * log_prob * (target - baseline).detach()
    return -(weight.detach() * objective).mean()


def critic_loss(
    value: Tensor, target: Tensor, weight: Tensor, *, constant: float = HALF_LOG_2PI
) -> Tensor:
    """Regress the critic onto the targets: negative log-likelihood under a unit normal.

    Args:
        value: (H, N) of the critic.
        target: (H, N) lambda returns, detached here.
        weight: (H, N), detached here.
        constant: the normaliser, 0.919; 0 leaves half the squared error.

    Returns:
        The loss (), 0.5 * squared error + 0.919 per step. Gradients flow into `value` only.

    Source: Eq. 5.
    """
    nll = 0.5 * (value - target.detach()).square() + constant
    return (weight.detach() * nll).mean()


def mean_where(loss: Tensor, mask: Tensor) -> Tensor:
    """Average a loss (T, B) over the entries of a mask (T, B): (), nan if there are none."""
    return (loss * mask).sum() / mask.sum()
