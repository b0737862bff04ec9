"""Rewards on a support, losses by sign, and ends apart from gamma."""

import dataclasses

import pytest
import torch
from tiny import (
    VECTORS,
    WORLD_MODEL,
    A,
    B,
    H,
    N,
    T,
    fit,
    gradients_of,
    head,
    make_agent,
    make_batch,
    make_state,
    weights_of,
)
from torch.testing import assert_close

from dreamer.agent import NonFiniteError
from dreamer.class_distributions import Discrete
from dreamer.models.model_heads import ModelHeadConfig, transform_reward
from dreamer.models.reward_heads import (
    CategoricalRewardConfig,
    SignedRewardConfig,
    TerminalHeadConfig,
)

OPTIONS = {k: v for k, v in vars(head()).items() if k != "distribution"}
SUPPORT = [-10.0, 0.0, 1.0, 10.0]


def categorical(**options) -> CategoricalRewardConfig:
    options = {"support": SUPPORT, "scale": 1.0} | options
    return CategoricalRewardConfig(**OPTIONS, distribution="categorical", gradients=True, **options)


def terminal() -> TerminalHeadConfig:
    return TerminalHeadConfig(**OPTIONS, distribution="binary", gradients=True, scale=1.0)


def make_model(heads, transform="tanh"):
    torch.manual_seed(0)
    config = dataclasses.replace(WORLD_MODEL, heads=heads, reward_transform=transform)
    return config.build(VECTORS, A)


def rewards(*values: float):
    torch.manual_seed(1)
    row = torch.tensor(values)
    return make_batch()._replace(reward=row[torch.randint(len(row), (T, B))])


def test_a_reward_counts_as_the_nearest_value_and_the_lower_of_two():
    support = torch.tensor(SUPPORT)
    value = torch.tensor([-13.0, -10.0, -5.0, -4.9, 0.49, 0.5, 0.51, 5.5, 6.0, 99.0])
    index = Discrete(torch.zeros(10, 4), support).index(value)
    assert index.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 3, 3]


def test_a_number_on_a_support_has_the_moments_of_its_probabilities():
    torch.manual_seed(0)
    logits, support = torch.randn(6, 4), torch.tensor(SUPPORT)
    number, probs = Discrete(logits, support), logits.softmax(-1)
    assert_close(number.mean, probs @ support)
    assert_close(number.mode, support[logits.argmax(-1)])
    assert_close(number.entropy, -(probs * probs.log()).sum(-1))
    assert_close(number.log_prob(torch.full((6,), 8.0)), probs[:, 3].log())
    noise = torch.zeros(6, 4)
    noise[:, 1] = 1e3
    assert_close(number.sample(noise), torch.zeros(6))


@pytest.mark.parametrize("transform", ["identity", "tanh", "sign", "log1p"])
def test_the_support_is_transformed_like_the_rewards(transform):
    support = [-0.5, 0.0, 3.0]
    model = make_model({"reward": categorical(support=support)}, transform)
    prediction = model.heads["reward"](torch.zeros(1, model.feature_size))
    assert_close(prediction.support, transform_reward(torch.tensor(support), transform))


def test_the_categorical_head_learns_and_the_dream_has_its_mean():
    model = make_model({"reward": categorical()}, "identity")
    batch = rewards(*SUPPORT)
    output = model.loss(batch)
    prediction = model.heads["reward"](output.posterior.features)
    label = torch.stack([batch.reward == value for value in SUPPORT]).float().argmax(0)
    expected = torch.nn.functional.cross_entropy(
        prediction.logits.flatten(0, 1), label.flatten(), reduction="none"
    )
    assert_close(output.log_probs["reward"], -expected.unflatten(0, (T, B)))
    output.loss.backward()
    assert gradients_of(model.heads["reward"])["out.out.weight"].any()
    start = make_state(model.config.latent, N)
    dream = model.imagine(start, None, lambda x, n: torch.zeros(N, A), H)
    assert_close(dream.reward, model.heads["reward"](dream.features).mean)
    assert "heads.reward.out.support" not in model.state_dict()


def test_losses_are_also_logged_by_class_and_missing_ones_are_nan():
    model = make_model({"reward": categorical()}, "identity")
    batch = rewards(-10.0, 0.0, 10.0)
    output = model.loss(batch)
    for k, value in enumerate(SUPPORT):
        ours = output.metrics[f"world_model/reward_nll_where_{k}"]
        where = batch.reward == value
        expected = -output.log_probs["reward"][where].mean()  # nan of nothing
        assert_close(ours, expected.detach(), equal_nan=True)
    assert output.metrics["world_model/reward_nll_where_2"].isnan()


def test_losses_are_also_logged_by_sign_and_at_ends():
    signed = SignedRewardConfig(**vars(head()), gradients=True, scale=1.0)
    model = make_model({"reward": signed, "terminal": terminal()})
    batch = rewards(-2.0, 0.0, 3.0)
    output = model.loss(batch)
    for name, where in {
        "reward_nll_where_-1": batch.reward < 0,
        "reward_nll_where_1": batch.reward > 0,
        "terminal_nll_where_1": batch.is_terminal,
    }.items():
        head_name = name.partition("_")[0]
        assert_close(
            output.metrics[f"world_model/{name}"],
            -output.log_probs[head_name][where].mean().detach(),
        )


def test_a_terminal_head_learns_hard_ends_and_gamma_enters_the_dream_only():
    heads = {"reward": WORLD_MODEL.heads["reward"], "terminal": terminal()}
    model, batch = make_model(heads), make_batch()
    output = model.loss(batch)
    logits = model.heads["terminal"](output.posterior.features).logits
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        logits, batch.is_terminal.float()
    )
    assert_close(output.losses["terminal"], expected)
    assert_close(output.loss, sum((output.losses | output.obs_losses).values()))

    start, ends = make_state(model.config.latent, N), batch.is_terminal.flatten()
    dream = model.imagine(start, ends, lambda x, n: torch.zeros(N, A), H)
    probability = model.heads["terminal"](dream.features).mean
    gamma = model.config.discount
    assert_close(dream.discount[1:], gamma * (1 - probability[1:]))
    assert_close(dream.discount[0], gamma * (~ends).float())
    dream = model.imagine(start, None, lambda x, n: torch.zeros(N, A), H)
    probability = model.heads["terminal"](dream.features).mean
    assert_close(dream.discount, gamma * (1 - probability))


def test_two_heads_for_ends_are_refused():
    with pytest.raises(ValueError, match="must have `discount` or `terminal`, got both"):
        make_model(WORLD_MODEL.heads | {"terminal": terminal()})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"support": [1.0]}, r"`support` must be two or more ascending values, got \[1.0\]"),
        ({"support": [1.0, 0.0]}, r"`support` must be two or more ascending values"),
        ({"shape": [2]}, r"`shape` must be \(\) for a categorical reward"),
    ],
)
def test_impossible_supports_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        categorical(**options)


def test_a_support_outside_the_transform_is_refused():
    with pytest.raises(ValueError, match=r"`support` must be finite after the `reward_transform`"):
        make_model({"reward": categorical(support=[-2.0, 0.0])}, "log1p")


def test_log1p_is_not_finite_below_minus_one():
    reward = torch.tensor([-2.0, -1.0, 0.0, 1.0])
    transformed = transform_reward(reward, "log1p")
    assert transformed[0].isnan() and transformed[1] == -torch.inf
    assert_close(transformed[2:], torch.tensor([0.0, 0.6931472]))


def test_an_update_with_log1p_of_less_than_minus_one_stops_and_changes_no_weight():
    agent = make_agent(world_model=dataclasses.replace(WORLD_MODEL, reward_transform="log1p"))
    before = weights_of(agent.world_model)
    with pytest.raises(NonFiniteError, match="The world_model loss .* check the rewards"):
        fit(agent, [rewards(0.0, -2.0)])
    after = weights_of(agent.world_model)
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_a_plain_head_has_no_groups():
    plain = ModelHeadConfig(**vars(head()), gradients=True, scale=1.0)
    assert plain.groups(plain.build(5, torch.tanh), torch.zeros(T, B)) == {}
