"""Loss scaling: what is skipped, how scales move, what fails, and updates in float16 on a CPU."""

import copy
import dataclasses
import itertools

import pytest
import torch
from tiny import (
    CATEGORICAL,
    CONTINUOUS,
    DISCRETE,
    GAUSSIAN,
    IMAGE,
    PLAN2EXPLORE,
    VECTORS,
    WORLD_MODEL,
    fit,
    make_agent,
    make_batch,
    weights_of,
)
from torch.testing import assert_close

from dreamer import loss_scaling
from dreamer.agent import DreamerAgent, NonFiniteError
from dreamer.finite_check import FiniteCheck
from dreamer.loss_scaling import FIRST_SCALE, GREATEST_SCALE, PATIENCE, LossScaling
from dreamer.precision import trainer_options

NAMES = ["model", "actor"]
HALF = trainer_options("16-mixed", "cpu")


def after(scaling: LossScaling, *norms: float, name: str = "model", loss: float = 1.0):
    """The last step's permission and metrics after checks of these norms."""
    for norm in norms:
        allowed, metrics = scaling.allow(name, torch.tensor(loss), torch.tensor(norm))
    return allowed.item(), {k: x.item() for k, x in metrics.items()}


def scale_of(scaling: LossScaling, name: str = "model") -> float:
    return scaling.saved()[name][0]


def test_gradients_of_a_scaled_loss_are_those_of_the_loss_after_unscaling():
    scaling, x = LossScaling(NAMES), torch.tensor([3.0, 5.0], requires_grad=True)
    scaling.scale("actor", x.square().sum()).backward()
    assert_close(x.grad, FIRST_SCALE * torch.tensor([6.0, 10.0]))
    assert x.grad is not None
    scaling.unscale("actor", [x.grad])
    assert_close(x.grad, torch.tensor([6.0, 10.0]), rtol=0, atol=0)


@pytest.mark.parametrize("norm", [torch.inf, torch.nan])
def test_an_overflow_skips_its_step_and_halves_its_scale_only(norm):
    scaling = LossScaling(NAMES)
    allowed, metrics = after(scaling, norm)
    assert allowed == 0
    assert metrics == {
        "grad_norm/model": 0,
        "grad_scale/model": FIRST_SCALE,
        "grad_overflow/model": 1,
    }
    assert (scale_of(scaling), scale_of(scaling, "actor")) == (FIRST_SCALE / 2, FIRST_SCALE)
    assert after(scaling, 3.0)[0] == after(scaling, 3.0, name="actor")[0] == 1
    assert scaling.read() is None


def test_a_scale_doubles_after_enough_good_steps_in_a_row(monkeypatch):
    monkeypatch.setattr(loss_scaling, "GROWTH_STEPS", 3)
    scaling = LossScaling(NAMES)
    scales = []
    for norm in (1.0, 1.0, torch.inf, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0):
        after(scaling, norm)
        scales.append(scale_of(scaling) / FIRST_SCALE)
    assert scales == [1, 1, 0.5, 0.5, 0.5, 1, 1, 1, 2]
    after(scaling, *[1.0] * 300)
    assert scale_of(scaling) == GREATEST_SCALE


def test_only_overflows_that_persist_at_the_least_scale_fail():
    scaling = LossScaling(NAMES)
    after(scaling, *[torch.inf] * 15)  # from 2^15 to 1
    assert scale_of(scaling) == 1
    after(scaling, *[torch.inf] * (PATIENCE - 1), 1.0, *[torch.inf] * (PATIENCE - 1))
    assert scaling.read() is None
    assert after(scaling, torch.inf)[0] == 0
    assert scaling.read() == "model"
    assert after(scaling, 1.0, name="actor")[0] == 0  # nothing learns after a failure


def test_a_loss_that_is_not_finite_fails_at_once():
    scaling = LossScaling(NAMES)
    assert after(scaling, 1.0, name="actor", loss=torch.nan)[0] == 0
    assert scaling.read() == "actor"


def test_scales_and_counts_are_restored_by_name(monkeypatch):
    monkeypatch.setattr(loss_scaling, "GROWTH_STEPS", 3)
    scaling, other = LossScaling(NAMES), LossScaling(["probe", *reversed(NAMES)])
    after(scaling, torch.inf, 1.0, 1.0)
    other.restore(copy.deepcopy(scaling.saved()))
    for one in (scaling, other):
        after(one, 1.0)
        assert scale_of(one) == FIRST_SCALE
        assert one.state_dict() == {}
    FiniteCheck(NAMES).restore(scaling.saved())  # another precision has none


# ------------------------------------------------------------------------------------- updates


SCALE = 2.0**6  # the first gradients of these agents do not overflow with it


@pytest.fixture
def small_scale(monkeypatch):
    monkeypatch.setattr(loss_scaling, "FIRST_SCALE", SCALE)


@pytest.mark.parametrize("name", ["world_model", "actor", "critic"])
def test_an_update_with_an_overflow_skips_that_network_and_goes_on(name, small_scale, monkeypatch):
    agent = make_agent()
    scale = LossScaling.scale

    def overflow(self, which, loss):
        late = 1e38 if which == name and agent.updates == 1 else 1.0  # inf after the scale
        return scale(self, which, loss * late) * late

    monkeypatch.setattr(LossScaling, "scale", overflow)
    weights = [weights_of(agent)]

    def step(batch):
        metrics = DreamerAgent.training_step(agent, batch, 0)
        weights.append(weights_of(agent))
        return metrics

    metrics = fit(agent, [make_batch(seed=n) for n in range(3)], step, **HALF)
    network = name if name == "world_model" else f"actor_critic.{name}"
    own = [k for k in weights[0] if k.startswith(f"{network}.")]
    for n, (old, new) in enumerate(itertools.pairwise(weights)):
        assert any(not torch.equal(old[k], new[k]) for k in own) == (n != 1)
        assert any(not torch.equal(old[k], new[k]) for k in old.keys() - own)
    scales = [m[f"grad_scale/{name}"].item() for m in metrics]
    assert scales == [SCALE, SCALE, SCALE / 2]
    assert [m[f"grad_overflow/{name}"].item() for m in metrics] == [0, 1, 0]
    assert all(x.isfinite() for m in metrics for x in m.values())


def test_overflows_without_an_end_stop_the_run_and_name_the_loss(monkeypatch):
    monkeypatch.setattr(loss_scaling, "PATIENCE", 2)
    monkeypatch.setattr(loss_scaling, "FIRST_SCALE", 2.0)
    agent = make_agent()
    before = weights_of(agent.actor_critic.critic)
    scale = LossScaling.scale
    monkeypatch.setattr(
        LossScaling,
        "scale",
        lambda self, name, loss: scale(self, name, loss) * (torch.inf if name == "critic" else 1),
    )
    message = "The critic loss or its gradient is not finite in update 2, frame 0"
    with pytest.raises(NonFiniteError, match=message):
        fit(agent, [make_batch()] * 5, **HALF)
    assert_close(weights_of(agent.actor_critic.critic), before, rtol=0, atol=0)


def test_scales_are_in_the_checkpoint_and_a_resumed_update_is_the_same(small_scale, monkeypatch):
    monkeypatch.setattr(loss_scaling, "GROWTH_STEPS", 2)
    batches = [make_batch(seed=n) for n in range(4)]

    def learn(agent, batches, states=None):
        def step(batch):
            if states and agent.updates == 3:
                for optimizer, state in zip(agent.trainer.optimizers, states, strict=True):
                    optimizer.load_state_dict(copy.deepcopy(state))
            torch.manual_seed(agent.updates)
            return DreamerAgent.training_step(agent, batch, 0)

        return fit(agent, batches, step, **HALF)

    whole, first, second = make_agent(), make_agent(), make_agent(seed=1)
    expected = learn(whole, batches)[-1]
    learn(first, batches[:3])
    checkpoint: dict = {}
    first.on_save_checkpoint(checkpoint)
    assert checkpoint["loss_scaling"]["actor"][:2] == [2 * SCALE, 1]
    second.load_state_dict(first.state_dict())
    second.finite_check = LossScaling(second.finite_check.names)
    second.on_load_checkpoint(copy.deepcopy(checkpoint))
    actual = learn(second, batches[3:], [x.state_dict() for x in first.trainer.optimizers])[-1]
    assert {k: x.item() for k, x in actual.items()} == {k: x.item() for k, x in expected.items()}
    assert_close(weights_of(second), weights_of(whole), rtol=0, atol=0)


def test_other_precisions_have_no_scales():
    agent, checkpoint = make_agent(), {}
    (metrics,) = fit(agent, [make_batch()])
    agent.on_save_checkpoint(checkpoint)
    assert type(agent.finite_check) is FiniteCheck
    assert checkpoint.keys() == {"counters"}
    assert not [key for key in metrics if key.startswith(("grad_scale", "grad_overflow"))]


@pytest.mark.parametrize("latent", [CATEGORICAL, GAUSSIAN], ids=["categorical", "normal"])
@pytest.mark.parametrize("space", [DISCRETE, CONTINUOUS], ids=["discrete", "continuous"])
def test_updates_in_float16_follow_those_in_float32(latent, space, small_scale):
    shapes = IMAGE | VECTORS
    batches = [make_batch(space, shapes, seed=n) for n in range(3)]
    metrics = []
    for options in ({}, HALF):
        agent = make_agent(
            space, obs_shapes=shapes, world_model=dataclasses.replace(WORLD_MODEL, latent=latent)
        )
        torch.manual_seed(2)
        metrics.append(
            [{k: x.item() for k, x in m.items()} for m in fit(agent, batches, **options)]
        )
    for full, half in zip(*metrics, strict=True):
        assert not any(half[k] for k in half if k.startswith("grad_overflow"))
        for key in [k for k in full if k.endswith(("loss", "nll", "kl", "entropy"))]:
            assert half[key] == pytest.approx(full[key], rel=0.005, abs=0.005), key
    assert metrics[0] != metrics[1]


def test_float16_scales_the_losses_of_components_as_well(small_scale):
    agent = make_agent(components={"explore": PLAN2EXPLORE})
    (metrics,) = fit(agent, [make_batch()], **HALF)
    scaled = {key for key in metrics if key.startswith("grad_scale/")}
    assert {f"grad_scale/explore_{name}" for name in ("ensemble", "actor", "critic")} < scaled
    assert all(metrics[key].item() == SCALE for key in scaled)


def test_small_gradients_survive_in_float16_only_because_of_the_scale(monkeypatch):
    tiny = dataclasses.replace(WORLD_MODEL, loss_scales={"kl": 0.0, "observations": {"angle": 0}})
    heads = {
        name: head and dataclasses.replace(head, scale=1e-7) for name, head in tiny.heads.items()
    }
    model = dataclasses.replace(tiny, heads=heads, loss_scales={"kl": 1e-7, "angle": 0, "speed": 0})
    norms = []
    for first in (1.0, FIRST_SCALE):
        monkeypatch.setattr(loss_scaling, "FIRST_SCALE", first)
        (metrics,) = fit(make_agent(world_model=model, seed=3), [make_batch()], **HALF)
        norms.append(metrics["grad_norm/world_model"].item())
    (metrics,) = fit(make_agent(world_model=model, seed=3), [make_batch()])
    assert norms[1] == pytest.approx(metrics["grad_norm/world_model"].item(), rel=0.05)
    assert norms[0] != pytest.approx(norms[1], rel=0.2)
