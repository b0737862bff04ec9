"""What the world model's loss is made of, whom it trains, and what its dreams depend on."""

import dataclasses

import pytest
import torch
import torch.distributions as td
from tiny import (
    CATEGORICAL,
    GAUSSIAN,
    IMAGE,
    VECTORS,
    WORLD_MODEL,
    A,
    B,
    H,
    K,
    N,
    S,
    T,
    gradients_of,
    make_batch,
)
from torch.testing import assert_close

from dreamer.models.world_model import WorldModel, transform_reward

OBS_SHAPES = IMAGE | VECTORS
both = pytest.mark.parametrize("latent", [CATEGORICAL, GAUSSIAN], ids=["categorical", "gaussian"])


HEADS = WORLD_MODEL.heads


def with_heads(**changes):
    """The tiny model's heads, with some settings changed: by name, a dictionary of them."""
    return HEADS | {k: dataclasses.replace(HEADS[k], **change) for k, change in changes.items()}


def make_model(obs_shapes=OBS_SHAPES, **change) -> WorldModel:
    return WorldModel(dataclasses.replace(WORLD_MODEL, **change), obs_shapes, A)


def batch(obs_shapes=OBS_SHAPES):
    return make_batch(obs_shapes=obs_shapes)


@both
def test_loss_is_the_sum_of_its_parts(latent):
    output = make_model(latent=latent).loss(batch())
    assert list(output.losses) == ["kl", "reward", "discount"]
    assert list(output.obs_losses) == ["image", "angle", "speed"]
    assert_close(output.loss, sum((output.losses | output.obs_losses).values()))
    assert_close(output.losses["kl"], output.kl.mean())
    losses = output.losses | output.obs_losses
    for key, log_prob in (output.log_probs | output.obs_log_probs).items():
        assert log_prob.shape == (T, B)
        assert_close(losses[key], -log_prob.mean())


def test_scales_multiply_their_loss_and_the_others_count_once():
    scales = {"kl": 0.1, "image": 0.5}
    heads = with_heads(discount={"scale": 5.0})
    output = make_model(loss_scales=scales, heads=heads).loss(batch())
    losses = output.losses | output.obs_losses
    scales["discount"] = 5.0
    expected = sum(scales.get(k, 1.0) * x.item() for k, x in losses.items())
    assert_close(output.loss.item(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    "scales", [{"images": 1.0}, {"observations": {"kl": 1.0}}, {"reward": 1.0}]
)
def test_scale_of_an_unknown_loss_is_refused(scales):
    with pytest.raises(ValueError, match=r"`loss_scales` must be among .*'image'.*, got \['"):
        make_model(loss_scales=scales)


# Names of our own losses, targets, metrics and scales; an observation may have any of them.
OUR_NAMES = [
    *("kl", "reward", "discount", "continue", "loss", "kl_loss", "observations", "image"),
    *("is_first", "is_terminal", "prev_action", "posterior_entropy", "training", "type", "a.b"),
]


@pytest.mark.parametrize("name", OUR_NAMES)
@pytest.mark.parametrize("length", [T, B], ids=["oblong", "square"])
def test_observations_may_have_the_names_of_our_own_losses(name, length):
    """The same numbers as under another name, from the loss to every gradient."""

    def output(name, scales):
        torch.manual_seed(1)
        config = dataclasses.replace(
            WORLD_MODEL,
            encoder=dataclasses.replace(WORLD_MODEL.encoder, vector_keys=".*"),
            decoder=dataclasses.replace(WORLD_MODEL.decoder, vector_keys=".*"),
            loss_scales=scales,
            heads=with_heads(reward={"scale": 2.0}, discount={"scale": 5.0}),
        )
        model = WorldModel(config, {name: (5,)}, A)
        data = make_batch(obs_shapes={name: (5,)})
        data = data._replace(obs={name: data.obs[name][:length]})
        data = data._replace(**{k: getattr(data, k)[:length] for k in data._fields if k != "obs"})
        output = model.loss(data)
        output.loss.backward()
        return output, [p.grad for p in model.parameters()]

    scales = {"kl": 0.1}
    ours, gradients = output(name, scales | {"observations": {name: 3.0}})
    other, expected = output("plainly", scales | {"plainly": 3.0})
    assert_close(ours.loss, other.loss, rtol=0, atol=0)
    assert_close(gradients, expected, rtol=0, atol=0)
    assert_close(ours.losses, other.losses, rtol=0, atol=0)
    renamed = {k.replace("plainly", name): x for k, x in other.metrics.items()}
    assert_close(ours.metrics, renamed, rtol=0, atol=0)
    assert len(ours.metrics) == 8


def test_scale_of_an_observation_may_stand_beside_that_of_the_kl():
    model = make_model(loss_scales={"kl": 3.0, "image": 2.0, "observations": {"speed": 4.0}})
    assert model.scales == {"kl": 3.0, "reward": 1.0, "discount": 1.0}
    assert model.obs_scales == {"image": 2.0, "speed": 4.0}


def test_vectors_may_share_a_scale():
    model = make_model(loss_scales={"vectors": 9.0, "observations": {"speed": 4.0}})
    assert model.obs_scales == {"angle": 9.0, "speed": 4.0}
    config = dataclasses.replace(WORLD_MODEL, loss_scales={"vectors": 9.0})
    images = {key: shape for key, shape in OBS_SHAPES.items() if len(shape) == 3}
    assert WorldModel(config, images, A).obs_scales == {}
    # An observation may have that name.
    assert WorldModel(config, images | {"vectors": (2,), "angle": (3,)}, A).obs_scales == {
        "vectors": 9.0
    }


def test_only_the_scale_of_the_kl_may_be_a_schedule():
    scales = {"observations": {"image": "linear(1,0,5)"}}
    with pytest.raises(ValueError, match="must be a number"):
        make_model(loss_scales=scales)
    with pytest.raises(ValueError, match=r"`loss_scales.image` must be a number, got linear\(1,0"):
        make_model(loss_scales={"image": "linear(1,0,5)"})
    with pytest.raises(ValueError, match="`loss_scales.kl` must be a schedule whose values are at"):
        make_model(loss_scales={"kl": "linear(1,-1,5)"})


def test_kl_is_that_of_the_posterior_and_the_prior_of_the_same_step():
    output = make_model().loss(batch())
    posterior, prior = (
        td.Independent(td.OneHotCategorical(logits=x), 1)
        for x in (output.posterior.stats, output.prior_stats)
    )
    assert output.prior_stats.shape == (T, B, S, K)
    assert_close(output.kl, td.kl_divergence(posterior, prior))


def test_kl_below_the_free_nats_costs_them_and_trains_nothing():
    kl = dataclasses.replace(WORLD_MODEL.kl, free_nats=50.0)
    output = make_model(VECTORS, kl=kl).loss(batch(VECTORS))
    assert output.kl.max() < 50
    assert_close(output.losses["kl"], torch.tensor(50.0))
    assert not torch.autograd.grad(output.losses["kl"], output.posterior.stats)[0].any()


@pytest.mark.parametrize(
    ("switch", "keys"),
    [
        ("image_gradients", ["image", "angle", "speed"]),
        ("reward", ["reward"]),
        ("discount", ["discount"]),
    ],
)
@pytest.mark.parametrize("on", [True, False])
def test_switch_decides_whether_its_heads_train_the_latent_state(switch, keys, on):
    change = {"image_gradients": on}
    if switch in HEADS:
        change = {"heads": with_heads(**{switch: {"gradients": on}})}
    output = make_model(**change).loss(batch())
    for key, loss in (output.losses | output.obs_losses).items():
        gradient = torch.autograd.grad(
            loss, output.posterior.deter, retain_graph=True, allow_unused=True
        )[0]
        assert (gradient is not None and gradient.any()) == (on or key not in keys), key


def test_without_image_gradients_the_decoder_learns_and_the_encoder_gets_none_from_it():
    model = make_model(IMAGE, image_gradients=False)
    model.loss(batch(IMAGE)).obs_losses["image"].backward()
    assert gradients_of(model.decoder)
    assert not gradients_of(model.encoder)
    assert not gradients_of(model.rssm)


def test_loss_trains_every_parameter():
    model = make_model()
    model.loss(batch()).loss.backward()
    idle = [k for k, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


@pytest.mark.parametrize(
    ("transform", "function"),
    [("tanh", torch.tanh), ("sign", torch.sign), ("identity", lambda x: x)],
)
def test_reward_is_transformed_in_the_targets_only(transform, function):
    model = make_model(reward_transform=transform)
    data = batch()
    output = model.loss(data)
    mean = model.heads["reward"](output.posterior.features).mean
    expected = td.Normal(mean, 1.0).log_prob(function(data.reward))
    assert_close(output.log_probs["reward"], expected)
    assert_close(transform_reward(data.reward, transform), function(data.reward))

    start = output.posterior.flatten_time()
    dream = model.imagine(start, None, lambda features, noise: torch.zeros(N, A), H)
    assert_close(dream.reward, model.heads["reward"](dream.features).mean)


def test_discount_is_learned_as_gamma_or_nothing_at_the_end():
    model, data = make_model(), batch()
    output = model.loss(data)
    label = torch.full((T, B), 0.9)
    label[3, 2] = 0
    mean = model.heads["discount"](output.posterior.features).mean
    assert_close(output.log_probs["discount"], label * mean.log() + (1 - label) * (1 - mean).log())


@both
def test_loss_repeats_with_the_same_noise(latent):
    model, data = make_model(latent=latent), batch()
    noise = latent.draw_noise(torch.zeros(T, B, S, latent.statistics))
    first, second = model.loss(data, noise=noise), model.loss(data, noise=noise)
    assert_close(first.loss, second.loss, rtol=0, atol=0)


def test_metrics_have_no_graph():
    metrics = make_model().loss(batch()).metrics
    parts = ["reward_nll", "continue_nll"]
    parts += ["loss", "kl", "kl_loss", "posterior_entropy", "prior_entropy"]
    keys = {f"observations/{key}_nll" for key in OBS_SHAPES}
    assert set(metrics) == keys | {f"world_model/{part}" for part in parts}
    assert not any(x.requires_grad for x in metrics.values())
    assert all(x.shape == () for x in metrics.values())


def test_loss_refuses_a_batch_of_mixed_shapes():
    with pytest.raises(AssertionError):
        make_model().loss(batch()._replace(is_first=torch.zeros(B, T, dtype=torch.bool)))


# Imagination


def dream(model: WorldModel, is_terminal: torch.Tensor | None):
    torch.manual_seed(1)
    start = model.loss(batch(VECTORS)).posterior.detach().flatten_time()
    layer = torch.linspace(-1, 1, model.feature_size * A).view(-1, A)
    return model.imagine(start, is_terminal, lambda f, noise: torch.tanh(f @ layer), H)


def test_dream_without_a_graph_has_the_same_numbers():
    model, is_terminal = make_model(VECTORS), torch.zeros(N, dtype=torch.bool)
    with_graph = dream(model, is_terminal)
    with torch.no_grad():
        without = dream(model, is_terminal)
    assert_close(tuple(with_graph.detach()), tuple(without), rtol=0, atol=0)
    assert with_graph.reward.requires_grad
    assert not any(x.requires_grad for x in without)


def test_first_discount_is_that_of_the_replay_and_the_others_that_of_the_head():
    model = make_model(VECTORS)
    is_terminal = torch.arange(N) == 5
    trajectory = dream(model, is_terminal)
    assert_close(trajectory.discount[0], torch.where(is_terminal, 0.0, 0.9))
    head = model.heads["discount"](trajectory.features).mean
    assert_close(trajectory.discount[1:], head[1:])
    assert_close(
        dream(model, None).discount[0], model.heads["discount"](trajectory.features[0]).mean
    )


def test_without_a_discount_head_nothing_ends():
    model = make_model(VECTORS, heads=HEADS | {"discount": None})
    output = model.loss(batch(VECTORS))
    assert "discount" not in output.losses
    trajectory = dream(model, torch.ones(N, dtype=torch.bool))
    assert_close(trajectory.discount, torch.full((H + 1, N), 0.9))


# Prediction in the open loop


def open_loop(model: WorldModel, data, context: int) -> torch.Tensor:
    torch.manual_seed(3)
    return model.open_loop(data, context)["image"]


@both
def test_open_loop_sees_observations_of_the_context_and_no_later_ones(latent):
    model, data, context = make_model(latent=latent), batch(), 3
    images = open_loop(model, data, context)
    assert images.shape == (T, B, 1, 64, 64)
    assert images.min() >= 0
    assert images.max() <= 1

    later = {k: x.clone() for k, x in data.obs.items()}
    for value in later.values():
        value[context:] = 7
    assert_close(open_loop(model, data._replace(obs=later), context), images, rtol=0, atol=0)

    for t in range(context):
        changed = {k: x.clone() for k, x in data.obs.items()}
        for value in changed.values():
            value[t] = 7
        difference = (open_loop(model, data._replace(obs=changed), context) - images).abs()
        assert not difference[:t].any()
        assert difference[t].any()


def test_open_loop_predicts_from_the_last_state_of_the_context():
    model, data, context = make_model(latent=GAUSSIAN), batch(), 3
    images = open_loop(model, data, context)
    obs = {k: x.clone() for k, x in data.obs.items()}
    for value in obs.values():
        value[context - 1] = 7
    difference = (open_loop(model, data._replace(obs=obs), context) - images).abs()
    assert difference[context:].flatten(1).any(-1).all()


def test_open_loop_follows_the_actions():
    model, data, context = make_model(latent=GAUSSIAN), batch(), 3
    images = open_loop(model, data, context)
    action = data.prev_action.clone()
    action[5] = 1 - action[5]
    difference = (open_loop(model, data._replace(prev_action=action), context) - images).abs()
    assert not difference[:5].any()
    assert difference[5].any()


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        (
            WORLD_MODEL,
            {"reward_transform": "log"},
            "`reward_transform` must be tanh, .*`log`",
        ),
        (WORLD_MODEL, {"discount": 0.0}, r"`discount` must be in \(0, 1], got 0.0"),
        (WORLD_MODEL.kl, {"balance": 1.0}, r"`balance` must be in \(0, 1\), got 1.0"),
        (WORLD_MODEL.kl, {"free_nats": -1.0}, "`free_nats` must be at least 0, got -1.0"),
    ],
)
def test_config_refuses_values_out_of_range(part, change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(part, **change)


# Heads of one's own


class SumModel(WorldModel):
    """Also predicts the sum and the largest of the angles."""

    def targets(self, batch):
        angles = batch.obs["angle"]
        both = torch.stack([angles.sum(-1), angles.amax(-1)], -1)  # (T, B, 2)
        return super().targets(batch) | {"extremes": both}


def sum_model(**change) -> SumModel:
    extremes = dataclasses.replace(HEADS["reward"], shape=(2,), **change)
    config = dataclasses.replace(WORLD_MODEL, heads=HEADS | {"extremes": extremes})
    return SumModel(config, VECTORS, A)


def test_own_head_is_one_entry_and_one_target():
    model, data = sum_model(scale=3.0), batch(VECTORS)
    output = model.loss(data)
    log_prob = model.heads["extremes"](output.posterior.features).log_prob(
        model.targets(data)["extremes"]
    )
    assert_close(output.losses["extremes"], -log_prob.mean())
    assert_close(output.metrics["world_model/extremes_nll"], -log_prob.mean().detach())
    others = sum((output.losses | output.obs_losses).values()) - output.losses["extremes"]
    assert_close(output.loss, others + 3 * output.losses["extremes"])
    output.loss.backward()
    assert gradients_of(model.heads["extremes"]).keys() == {
        name for name, _ in model.heads["extremes"].named_parameters()
    }


@pytest.mark.parametrize("on", [True, False])
def test_own_head_trains_the_latent_state_if_it_may(on):
    output = sum_model(gradients=on).loss(batch(VECTORS))
    gradient = torch.autograd.grad(
        output.losses["extremes"], output.posterior.deter, allow_unused=True
    )[0]
    assert (gradient is not None and bool(gradient.any())) == on


def test_head_without_a_target_is_named():
    config = dataclasses.replace(WORLD_MODEL, heads=HEADS | {"lean": HEADS["discount"]})
    with pytest.raises(
        ValueError, match=r"`WorldModel.targets` must have a target .* none for `lean`"
    ):
        config.build(VECTORS, A).loss(batch(VECTORS))


def test_target_of_a_head_that_is_left_out_is_not_used():
    config = dataclasses.replace(sum_model().config, heads=HEADS | {"extremes": None})
    output = SumModel(config, VECTORS, A).loss(batch(VECTORS))
    assert list(output.losses) == ["kl", "reward", "discount"]


@pytest.mark.parametrize("heads", [{}, {"discount": HEADS["discount"]}, {"reward": None}])
def test_reward_head_must_be_there(heads):
    with pytest.raises(ValueError, match="`heads` must have a `reward`"):
        dataclasses.replace(WORLD_MODEL, heads=heads)


@pytest.mark.parametrize("name", ["kl", "keys", "a.b", "my head", ""])
def test_names_of_heads_that_cannot_be_are_refused(name):
    with pytest.raises(ValueError, match="The name of a head must consist of letters"):
        dataclasses.replace(WORLD_MODEL, heads=HEADS | {name: HEADS["reward"]})
