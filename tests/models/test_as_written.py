"""What users write in place of our parts acts in training as it does in acting.

Every test runs with the plain networks and with kernels.
"""

import dataclasses
from collections import Counter

import pytest
import torch
from tiny import (
    CATEGORICAL,
    IMAGE,
    RSSM_CONFIG,
    VECTORS,
    WORLD_MODEL,
    A,
    B,
    D,
    H,
    K,
    N,
    S,
    T,
    make_agent,
    make_batch,
    make_state,
)
from torch import nn
from torch.testing import assert_close

from dreamer.models.latents import CategoricalLatent
from dreamer.models.rssm import RSSM, GRUCell
from dreamer.models.world_model import WorldModel

M = 13
OBS_SHAPES = IMAGE | VECTORS
UNIFORM = 0.06  # share of the uniform distribution in the mixture; the floor is UNIFORM / K


@dataclasses.dataclass(frozen=True)
class UniformMix(CategoricalLatent):
    """Categorical latents of which no class is ever impossible."""

    def to_stats(self, outputs):
        probs = super().to_stats(outputs).softmax(-1)
        return ((1 - UNIFORM) * probs + UNIFORM / self.classes).log()


def with_sharp_outputs(rssm: RSSM) -> RSSM:
    """Without the mixture, most probabilities of these networks are far below the floor."""
    with torch.no_grad():
        for layer in (rssm.obs_dist, *(prior.out for prior in rssm.priors)):
            layer.weight.mul_(1000)
    return rssm


@pytest.mark.parametrize("latent", [UniformMix(S, K), CATEGORICAL], ids=["mixed", "plain"])
def test_uniform_mixture_of_a_latent_subclass_has_its_floor_everywhere(latent, optimized):
    rssm = optimized(with_sharp_outputs(RSSM(M, A, latent, RSSM_CONFIG)))
    is_first = torch.zeros(T, B, dtype=torch.bool)
    embed, action = torch.randn(T, B, M), torch.randn(T, B, A)
    observed = rssm.observe(embed, action, is_first)
    step = rssm.obs_step(make_state(latent, B), action[0], embed[0], is_first[0])
    seen = []
    img_step = rssm.img_step
    rssm.img_step = lambda *args, **kwargs: seen.append(img_step(*args, **kwargs)) or seen[-1]
    with torch.no_grad():
        rssm.imagine(make_state(latent, N), lambda features, noise: torch.zeros(N, A), H)
    imagined = [state.stats for state in seen]
    assert len(imagined) == H
    lowest = [x.softmax(-1).min().item() for x in (observed.stats, step.stats, *imagined)]
    for probability in lowest:
        if isinstance(latent, UniformMix):
            assert probability == pytest.approx(UNIFORM / K, rel=1e-3)
        else:
            assert probability < 0.1 * UNIFORM / K


class CountingGRUCell(GRUCell):
    """Remembers slowly, and counts its steps."""

    calls = 0

    def forward(self, x, deter):
        type(self).calls += 1
        return 0.5 * deter + 0.5 * super().forward(x, deter)


def test_subclass_of_the_gru_cell_is_used_everywhere(optimized):
    model = make_agent(obs_shapes=OBS_SHAPES).world_model
    ours = model.rssm.gru
    model.rssm.gru = CountingGRUCell(ours.linear.in_features - D, D, layer_norm=True)
    model.rssm.gru.load_state_dict(ours.state_dict())
    optimized(model)
    before = CountingGRUCell.calls
    posterior = model.loss(make_batch(obs_shapes=OBS_SHAPES)).posterior
    assert CountingGRUCell.calls == before + T
    starts = posterior.detach().flatten_time()
    for graph in (True, False):
        with torch.set_grad_enabled(graph):
            dream = model.imagine(starts, None, lambda features, noise: torch.zeros(N, A), H)
        state = model.rssm.img_step(starts, torch.zeros(N, A))
        # Half of the old state is kept, in dreams as in a single step.
        assert_close(dream.features[1, :, S * K :], state.deter)
        assert (state.deter - 0.5 * starts.deter).abs().max() <= 0.5


CONTAINERS = (nn.ModuleList, nn.ModuleDict)  # never called


def test_forward_hooks_on_every_module_fire_in_the_loss(optimized):
    model = optimized(make_agent(obs_shapes=OBS_SHAPES).world_model)
    fired = Counter()
    modules = {
        name: module
        for name, module in model.named_modules()
        # The world model and the RSSM have methods, but no forward pass.
        if not isinstance(module, (*CONTAINERS, WorldModel, RSSM))
    }
    for name, module in modules.items():
        module.register_forward_hook(lambda *_, name=name: fired.update([name]))
    model.loss(make_batch(obs_shapes=OBS_SHAPES))
    assert set(fired) == set(modules)


def test_hook_that_changes_an_output_changes_the_loss_and_gets_its_gradient(optimized):
    results = []
    for is_optimized in (False, True):
        model = make_agent(obs_shapes=OBS_SHAPES).world_model
        gain = torch.tensor(1.5, requires_grad=True)
        for conv in (model.decoder.image.convs[1], model.encoder.image.convs[2]):
            conv.register_forward_hook(lambda module, inputs, output, gain=gain: gain * output)
        if is_optimized:
            optimized(model)
        noise = torch.zeros(T, B, S, K)
        output = model.loss(make_batch(obs_shapes=OBS_SHAPES), noise=noise)
        output.loss.backward()
        results.append((output.loss.detach(), gain.grad))
    assert results[0][1] != 0
    assert_close(results[1], results[0])


WEIGHTS = {
    "uniform": torch.full((T, B), 0.3),
    "importance": torch.linspace(0, 2, T * B).view(T, B),
    "padding": (torch.arange(T)[:, None] < torch.tensor([T, 3, 5])).float(),
}


@pytest.mark.parametrize("weight", WEIGHTS.values(), ids=WEIGHTS)
def test_image_log_probabilities_may_be_weighted_by_step(weight, optimized):
    data = make_batch(obs_shapes=OBS_SHAPES)
    plain = make_agent(obs_shapes=OBS_SHAPES).world_model.decoder
    features = torch.randn(T, B, plain.image.dense.in_features, requires_grad=True)
    normal = torch.distributions.Normal(plain(features)["image"].mean, 1.0)
    log_prob = normal.log_prob(data.obs["image"] / 255 - 0.5).sum((-1, -2, -3))
    loss = -(weight * log_prob).sum()
    expected = torch.autograd.grad(loss, [features, *plain.image.parameters()])

    decoder = optimized(make_agent(obs_shapes=OBS_SHAPES).world_model).decoder
    weighted = -(weight * decoder.log_prob(features, data.obs)["image"]).sum()
    actual = torch.autograd.grad(weighted, [features, *decoder.image.parameters()])
    assert_close(weighted, loss)
    assert_close(actual, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("graph", [True, False])
def test_imagined_features_are_a_tensor_that_a_linear_layer_accepts(graph, optimized):
    agent = optimized(make_agent())
    start = make_state(CATEGORICAL, N)
    with torch.set_grad_enabled(graph):
        model, heads = agent.world_model, agent.actor_critic
        trajectory = model.imagine(start, None, heads.act, H)
        assert type(trajectory.features) is torch.Tensor
        reward = nn.Linear(model.feature_size, 1)(trajectory.features)
    assert reward.shape == (H + 1, N, 1)


def test_config_of_the_model_stays_what_it_was(optimized):
    """Kernels change neither names nor shapes: a checkpoint of one form is one of the other."""
    plain, other = make_agent(obs_shapes=OBS_SHAPES), optimized(make_agent(obs_shapes=OBS_SHAPES))
    other.load_state_dict(plain.state_dict())
    assert_close(other.state_dict(), plain.state_dict(), rtol=0, atol=0)
    assert other.config.world_model == WORLD_MODEL
