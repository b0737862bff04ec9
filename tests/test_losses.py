"""Every loss against a slow form that is written differently, and where its gradients flow."""

import pytest
import torch
import torch.distributions as td
from tiny import B, H, K, S, T
from torch.testing import assert_close

from dreamer.losses import actor_loss, balanced_kl, critic_loss, lambda_return, trajectory_weight

N = B


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def imagined() -> tuple[torch.Tensor, ...]:
    """Reward, value, discount (H, N) and bootstrap (N,) in float64, all with gradients."""
    reward, value = torch.randn(2, H, N, dtype=torch.float64)
    discount = torch.rand(H, N, dtype=torch.float64)
    bootstrap = torch.randn(N, dtype=torch.float64)
    return tuple(x.requires_grad_() for x in (reward, value, discount, bootstrap))


def n_step_mixture(reward, value, discount, bootstrap, lambda_):
    """Eq. 4 spelt out: (1 - lambda) sum_n lambda^(n-1) G_n, the longest sum taking the rest."""
    values = [*value, bootstrap]
    targets = []
    for t in range(H):
        target = 0
        for n in range(1, H - t + 1):
            n_step, alive = 0, 1
            for k in range(t, t + n):
                n_step = n_step + alive * reward[k]
                alive = alive * discount[k]
            n_step = n_step + alive * values[t + n]
            share = lambda_ ** (n - 1) * (1 if t + n == H else 1 - lambda_)
            target = target + share * n_step
        targets.append(target)
    return torch.stack(targets)


@pytest.mark.parametrize("lambda_", [0.0, 0.3, 0.95, 1.0])
def test_lambda_return_is_the_mixture_of_n_step_sums(lambda_):
    inputs = imagined()
    assert_close(lambda_return(*inputs, lambda_), n_step_mixture(*inputs, lambda_))


@pytest.mark.parametrize("lambda_", [0.0, 0.7, 1.0])
def test_lambda_return_has_the_gradients_of_its_numbers(lambda_):
    assert torch.autograd.gradcheck(lambda *x: lambda_return(*x, lambda_), imagined())


def test_lambda_0_looks_one_step_ahead():
    reward, value, discount, bootstrap = imagined()
    target = lambda_return(reward, value, discount, bootstrap, 0.0)
    assert_close(target[:-1], reward[:-1] + discount[:-1] * value[1:])
    assert_close(target[-1], reward[-1] + discount[-1] * bootstrap)


def test_lambda_1_is_the_discounted_sum_without_any_value_but_the_last():
    reward, value, _, bootstrap = imagined()
    target = lambda_return(reward, value, torch.full_like(reward, 0.5), bootstrap, 1.0)
    powers = 0.5 ** torch.arange(H + 1, dtype=torch.float64)
    assert_close(target[0], powers @ torch.cat([reward, bootstrap[None]]))
    (gradient,) = torch.autograd.grad(target.sum(), value, allow_unused=True)
    assert gradient is None or not gradient.any()


def test_lambda_return_sees_nothing_behind_a_terminal_state():
    reward, value, discount, bootstrap = imagined()
    end = 2
    discount = discount.detach().clone()
    discount[end] = 0
    target = lambda_return(reward, value, discount, bootstrap, 0.9)
    future = torch.autograd.grad(target[: end + 1].sum(), (reward, value, bootstrap))
    assert not future[0][end + 1 :].any()
    assert not future[1][end + 1 :].any()
    assert not future[2].any()
    assert future[0][: end + 1].all()
    assert_close(target[end], reward[end])


def test_lambda_return_refuses_shapes_that_would_broadcast():
    reward, value, discount, bootstrap = imagined()
    with pytest.raises(AssertionError):
        lambda_return(reward, value, discount[:, :1], bootstrap, 0.9)
    with pytest.raises(AssertionError):
        lambda_return(reward, value, discount, bootstrap[:1], 0.9)


def test_weight_is_the_product_of_all_earlier_discounts():
    discount = torch.rand(H + 1, N)
    weight = trajectory_weight(discount)
    for t in range(H + 1):
        expected = torch.ones(N)
        for earlier in discount[:t]:
            expected = expected * earlier
        assert_close(weight[t], expected)


def test_weight_keeps_the_terminal_state_itself():
    discount = torch.tensor([[0.9], [0.0], [0.9], [0.9]])
    assert_close(trajectory_weight(discount), torch.tensor([[1.0], [0.9], [0.0], [0.0]]))


def divergence(left, right):
    """Of categoricals (..., S, K), by torch.distributions."""
    return td.kl_divergence(*(td.Independent(td.Categorical(logits=x), 1) for x in (left, right)))


def two_statistics(distance: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    left, right = torch.randn(2, T, B, S, K) * distance
    return left.requires_grad_(), right.requires_grad_()


def kl_loss(posterior, prior, *, balance=0.8, free_nats=0.0, forward=False, free_avg=True):
    return balanced_kl(
        posterior,
        prior,
        divergence,
        balance=balance,
        free_nats=free_nats,
        forward=forward,
        free_avg=free_avg,
    )


def gradients(loss, *inputs):
    return torch.autograd.grad(loss, inputs)


@pytest.mark.parametrize("balance", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("forward", [False, True])
def test_kl_value_is_the_divergence_in_the_chosen_direction(balance, forward):
    posterior, prior = two_statistics()
    loss, value = kl_loss(posterior, prior, balance=balance, forward=forward)
    expected = divergence(prior, posterior) if forward else divergence(posterior, prior)
    assert_close(value, expected)
    assert_close(loss, expected.mean())


@pytest.mark.parametrize("free_avg", [False, True])
@pytest.mark.parametrize("forward", [False, True])
@pytest.mark.parametrize("balance", [0.2, 0.8])
def test_prior_gets_the_share_balance_of_the_gradient_and_posterior_the_rest(
    balance, forward, free_avg
):
    posterior, prior = two_statistics()
    plain = divergence(*((prior, posterior) if forward else (posterior, prior)))
    to_posterior, to_prior = gradients(plain.mean(), posterior, prior)
    loss, value = kl_loss(posterior, prior, balance=balance, forward=forward, free_avg=free_avg)
    assert_close(value, plain.detach())
    actual = gradients(loss, posterior, prior)
    assert_close(actual, ((1 - balance) * to_posterior, balance * to_prior))


def test_balance_of_one_half_is_the_plain_kl_with_twice_the_gradient_of_its_neighbours():
    posterior, prior = two_statistics()
    plain = gradients(kl_loss(posterior, prior, balance=0.5)[0], posterior, prior)
    beside = gradients(kl_loss(posterior, prior, balance=0.5 + 1e-6)[0], posterior, prior)
    assert_close(plain, tuple(2 * x for x in beside), rtol=1e-4, atol=1e-7)
    assert_close(plain, gradients(divergence(posterior, prior).mean(), posterior, prior))


def test_free_nats_of_the_mean_stop_all_gradients_below_them():
    posterior, prior = two_statistics(distance=0.1)
    loss, value = kl_loss(posterior, prior, free_nats=1.0)
    assert value.max() < 1
    assert_close(loss, torch.tensor(1.0))
    assert not any(x.any() for x in gradients(loss, posterior, prior))


def test_free_nats_of_the_mean_leave_all_gradients_above_them():
    posterior, prior = two_statistics()
    free_nats = kl_loss(posterior, prior)[1].median().item() * 0.9
    loss, value = kl_loss(posterior, prior, free_nats=free_nats)
    assert value.min() < free_nats < value.mean()
    expected = gradients(kl_loss(posterior, prior)[0], posterior, prior)
    assert_close(gradients(loss, posterior, prior), expected)


@pytest.mark.parametrize(("balance", "free_avg"), [(0.8, False), (0.5, False), (0.5, True)])
def test_free_nats_of_each_entry_stop_the_gradients_of_those_below(balance, free_avg):
    posterior, prior = two_statistics()
    free_nats = kl_loss(posterior, prior)[1].median().item() + 1e-4
    options = {"balance": balance, "free_avg": free_avg}
    loss, value = kl_loss(posterior, prior, free_nats=free_nats, **options)
    full = gradients(kl_loss(posterior, prior, **options)[0], posterior, prior)
    above = value > free_nats
    assert 0 < above.sum() < above.numel()
    assert_close(loss, torch.where(above, value, free_nats).mean())
    for actual, unclipped in zip(gradients(loss, posterior, prior), full, strict=True):
        assert_close(actual, unclipped * above[..., None, None])


def test_kl_refuses_statistics_of_different_shapes():
    posterior, prior = two_statistics()
    with pytest.raises(AssertionError):
        kl_loss(posterior, prior[:1])


def actor_inputs() -> dict[str, torch.Tensor]:
    names = ("log_prob", "entropy", "target", "baseline", "weight")
    return {name: torch.rand(H - 1, N).requires_grad_() for name in names}


@pytest.mark.parametrize("mix", [0.0, 0.3, 1.0])
def test_actor_loss_is_the_weighted_mean_of_its_objectives(mix):
    inputs = actor_inputs()
    total = 0.0
    for log_prob, entropy, target, baseline, weight in zip(
        *(x.flatten().tolist() for x in inputs.values()), strict=True
    ):
        objective = mix * target + (1 - mix) * log_prob * (target - baseline) + 0.7 * entropy
        total -= weight * objective
    loss = actor_loss(**inputs, dynamics_mix=mix, entropy_scale=0.7)
    assert_close(loss.item(), total / (H - 1) / N)


@pytest.mark.parametrize("mix", [0.0, 0.3, 1.0])
def test_actor_gradient_flows_through_log_prob_and_target_by_their_shares_only(mix):
    inputs = actor_inputs()
    actor_loss(**inputs, dynamics_mix=mix, entropy_scale=0.0).backward()
    weight = inputs["weight"].detach() / (H - 1) / N
    advantage = (inputs["target"] - inputs["baseline"]).detach()
    zero = torch.zeros_like(weight)
    gradient = {k: zero if x.grad is None else x.grad for k, x in inputs.items()}
    assert_close(gradient["log_prob"], -(1 - mix) * weight * advantage)
    assert_close(gradient["target"], -mix * weight)
    assert not gradient["baseline"].any()
    assert not gradient["weight"].any()


def test_dynamics_need_no_log_prob():
    inputs = actor_inputs() | {"log_prob": None}
    assert actor_loss(**inputs, dynamics_mix=1.0, entropy_scale=0.1).isfinite()


def test_entropy_bonus_raises_entropy():
    logits = torch.randn(H - 1, N, K, requires_grad=True)
    zero = torch.zeros(H - 1, N)

    def entropy():
        return td.Categorical(logits=logits).entropy()

    before = entropy()
    loss = actor_loss(
        zero, before, zero, zero, torch.ones(H - 1, N), dynamics_mix=0.0, entropy_scale=1.0
    )
    loss.backward()
    with torch.no_grad():
        logits -= logits.grad
    assert (entropy() > before).all()


def test_critic_loss_is_the_weighted_negative_log_likelihood():
    value, target, weight = torch.rand(3, H, N)
    expected = -(weight * td.Normal(value, 1.0).log_prob(target)).mean()
    assert_close(critic_loss(value, target, weight), expected)


def test_critic_gradient_flows_into_the_value_only():
    value, target, weight = (torch.rand(H, N).requires_grad_() for _ in range(3))
    critic_loss(value, target, weight).backward()
    assert_close(value.grad, (weight * (value - target)).detach() / H / N)
    assert target.grad is None
    assert weight.grad is None
