"""Every kernel against the plain class that it stands for, in both precisions."""

import copy
import dataclasses

import pytest
import torch
from tiny import (
    DECODER,
    ENCODER,
    IMAGE,
    PLAN2EXPLORE,
    VECTORS,
    A,
    B,
    D,
    K,
    S,
    T,
    make_agent,
    make_batch,
    make_obs,
)
from torch import nn
from torch.testing import assert_close

from dreamer.agent import DreamerAgent
from dreamer.distributions import Normal
from dreamer.kernels import KERNELS, chunked, ensemble, fingerprint, optimize
from dreamer.kernels.chunked import chunked_scores
from dreamer.kernels.conv import unit_normal_log_prob
from dreamer.models.ensemble import Ensemble
from dreamer.models.observations import Decoder, Encoder
from dreamer.models.vision import ConvDecoder, ConvEncoder

CPU = torch.device("cpu")
OBS_SHAPES = IMAGE | VECTORS
every_kernel = pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.fast.__name__)


@pytest.fixture(autouse=True)
def small_is_large(monkeypatch):
    monkeypatch.setattr(chunked, "CHUNK", 8)  # three chunks of T * B rows
    monkeypatch.setattr(ensemble, "ROWS", 8)


def whole_agent() -> DreamerAgent:
    """An agent with every part that has a kernel."""
    return make_agent(obs_shapes=OBS_SHAPES, components={"explore": PLAN2EXPLORE})


def results(module: nn.Module) -> list[torch.Tensor]:
    """What a module of any kind computes, and the gradients of its input and its parameters."""
    torch.manual_seed(1)
    parameters = [p for p in module.parameters() if p.requires_grad]
    match module:
        case Decoder():
            x = torch.randn(T, B, S * K + D, requires_grad=True)
            scores = module.log_prob(x, make_obs(OBS_SHAPES, T, B))
            y = torch.stack([*scores.values()])
        case nn.Conv2d():  # 2 x 2 pixels
            x = torch.randn(B, module.in_channels, 6, 6, requires_grad=True)
            y = module(x)
        case nn.ConvTranspose2d():
            size = 1 if module.in_channels == 96 else 6
            x = torch.randn(B, module.in_channels, size, size, requires_grad=True)
            y = module(x)
        case Ensemble():
            x = torch.randn(T, B, S * K + D + A, requires_grad=True)
            with torch.no_grad():
                without_gradients = module.disagreement(x)
            y = torch.stack([module.disagreement(x), without_gradients])
        case _:
            x = torch.randn(T, B, 1, 64, 64)
            y = module(x)
    weight = torch.randn(y.shape)
    inputs = [x, *parameters] if x.requires_grad else parameters
    gradients = torch.autograd.grad((weight * y).sum(), inputs, allow_unused=True)
    return [y.detach(), *(g for g in gradients if g is not None)]


def modules_of(kernel, network: nn.Module) -> list[nn.Module]:
    return [module for module in kernel.where(network) if type(module) is kernel.plain]


@every_kernel
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bf16"])
def test_kernel_has_the_results_and_gradients_of_the_plain_class(kernel, dtype):
    """In bfloat16, as near to the plain float32 as the plain bfloat16 is, or nearly so."""
    plain, other = (whole_agent().requires_grad_(True) for _ in range(2))
    names = {module: name for name, module in plain.named_modules()}
    chosen = [names[module] for module in modules_of(kernel, plain)]
    assert chosen
    optimize(other, CPU)
    assert any(type(other.get_submodule(name)) is kernel.fast for name in chosen)
    for name in chosen:
        module = plain.get_submodule(name)
        exact = results(module)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            expected = results(module)
            actual = results(other.get_submodule(name))
        assert len(actual) == len(expected) >= 2
        for ours, rounded, true in zip(actual, expected, exact, strict=True):
            error, rounding = (ours - true).norm(), (rounded - true).norm()
            assert error <= 1e-5 * true.norm() + 2 * rounding, name
            assert ours.shape == true.shape


@every_kernel
def test_subclass_of_the_plain_class_is_left_alone(kernel):
    subclass = type("Mine", (kernel.plain,), {})
    agent = whole_agent()
    mine = modules_of(kernel, agent)
    assert mine
    for module in mine:
        module.__class__ = subclass
    optimize(agent, CPU)
    assert {type(module) for module in mine} == {subclass}


@pytest.mark.parametrize("part", ["decoder.image.norms.1.norm", "encoder.image.norms.1.norm"])
def test_networks_with_a_part_that_is_not_ours_run_as_they_are(part):
    """A batch norm among them sees the whole batch, not chunks of it."""
    models = []
    for is_optimized in (False, True):
        model = make_agent(obs_shapes=IMAGE).world_model
        channels = model.get_submodule(part.replace(".norms.1.norm", ".convs.1")).out_channels
        norm = nn.Sequential(Permute(0, 3, 1, 2), nn.BatchNorm2d(channels), Permute(0, 2, 3, 1))
        model.set_submodule(part, norm)
        if is_optimized:
            optimize(model, CPU)
        torch.manual_seed(0)
        data = make_batch(obs_shapes=IMAGE)
        features = torch.randn(T, B, model.feature_size)
        score = model.decoder.log_prob(features, data.obs)["image"]
        models.append((model.encoder(data.obs), score))
    assert_close(models[1], models[0])


class Permute(nn.Module):
    def __init__(self, *axes):
        super().__init__()
        self.axes = axes

    def forward(self, x):
        return x.permute(self.axes)


def test_another_device_has_no_kernels():
    agent = whole_agent()
    before = [type(module) for module in agent.modules()]
    assert optimize(agent, torch.device("cuda")) == []
    assert [type(module) for module in agent.modules()] == before


def test_kernels_put_in_place_are_named():
    every = [kernel.fast.__name__ for kernel in KERNELS]
    assert optimize(whole_agent(), CPU) == every
    assert optimize(make_agent(obs_shapes=VECTORS), CPU) == ["ChunkedDecoder"]


# Chunks


def test_chunks_are_of_one_size_nearly_and_scores_are_those_of_the_whole():
    layer, sizes = nn.Linear(5, 5), []

    def score(x, target):
        sizes.append(len(x))
        return -(torch.tanh(layer(x)) - target).square().sum(-1)

    x, target = torch.randn(21, 5, requires_grad=True), torch.randn(21, 5)
    with torch.no_grad():
        scores = chunked_scores(score, x, target, [*layer.parameters()])
    assert sizes == [7, 7, 7]
    assert_close(scores, score(x, target))
    assert not scores.requires_grad


def test_unit_normal_log_prob_is_that_of_a_normal_with_its_gradient():
    channels_last = {"memory_format": torch.channels_last}
    value = torch.randn(5, 2, 3, 4).contiguous(**channels_last)
    mean = torch.randn(5, 2, 3, 4).contiguous(**channels_last).requires_grad_()
    ours = unit_normal_log_prob(mean, value)
    expected = Normal(mean, 1.0, event_dims=3).log_prob(value)
    assert_close(ours, expected)
    weights = torch.randn(5)
    (of_ours,) = torch.autograd.grad(ours, mean, weights)
    (of_expected,) = torch.autograd.grad(expected, mean, weights)
    assert_close(of_ours, of_expected)
    assert of_ours.is_contiguous(**channels_last)


def test_frozen_parameters_get_no_gradient_and_the_others_theirs():
    decoder = Decoder(S * K + D, IMAGE, DECODER)
    features, obs = torch.randn(T, B, S * K + D), make_obs(IMAGE, T, B)
    decoder.image.convs[1].requires_grad_(False)
    decoder.log_prob(features, obs)["image"].mean().backward()
    expected = {k: p.grad for k, p in decoder.named_parameters()}
    decoder.zero_grad()
    optimize(decoder, CPU)
    decoder.log_prob(features, obs)["image"].mean().backward()
    actual = {k: p.grad for k, p in decoder.named_parameters()}
    assert expected["image.convs.1.weight"] is actual["image.convs.1.weight"] is None
    for name, gradient in expected.items():
        if gradient is not None:
            assert_close(actual[name], gradient, rtol=1e-3, atol=1e-6)


def test_weights_have_channels_last_and_so_have_their_gradients():
    encoder = Encoder(IMAGE, ENCODER)
    optimize(encoder, CPU)
    encoder.load_state_dict({k: x.contiguous() for k, x in encoder.state_dict().items()})
    encoder(make_obs(IMAGE, B)).sum().backward()
    for conv in encoder.image.convs:
        assert conv.weight.is_contiguous(memory_format=torch.channels_last)
        assert conv.weight.grad.stride() == conv.weight.stride()


def test_what_a_hook_sees_is_not_overwritten_later(optimized):
    decoder = Decoder(S * K + D, IMAGE, dataclasses.replace(DECODER))
    optimized(decoder)
    seen = []
    decoder.image.convs[1].register_forward_hook(lambda module, x, y: seen.append((y, y.clone())))
    decoder.log_prob(torch.randn(T, B, S * K + D), make_obs(IMAGE, T, B))["image"].sum().backward()
    assert seen
    for output, before in seen:
        assert torch.equal(output, before)


# What users do to networks


def test_a_frozen_decoder_still_tells_the_features_their_gradient():
    gradients = []
    for is_optimized in (False, True):
        decoder = make_agent(obs_shapes=IMAGE).world_model.decoder.requires_grad_(False)
        if is_optimized:
            optimize(decoder, CPU)
        torch.manual_seed(0)
        features = torch.randn(T, B, S * K + D, requires_grad=True)
        score = decoder.log_prob(features, make_obs(IMAGE, T, B))["image"]
        gradients += torch.autograd.grad(score.mean(), features)
    assert_close(gradients[1], gradients[0])


OTHER_SETTINGS = [{"stride": 1}, {"padding": 1}, {"bias": False}, {"dilation": 2}, {"groups": 2}]


@pytest.mark.parametrize("change", [*OTHER_SETTINGS, {"padding_mode": "reflect"}])
def test_convolutions_with_other_settings_are_left_alone(change):
    encoder = ConvEncoder(1, ENCODER.image)
    old = encoder.convs[3]
    settings = {"kernel_size": 4, "stride": 2} | change
    encoder.convs[3] = nn.Conv2d(old.in_channels, old.out_channels, **settings)
    optimize(encoder, CPU)
    assert type(encoder.convs[3]) is nn.Conv2d


@pytest.mark.parametrize("change", OTHER_SETTINGS)
def test_transposed_convolutions_with_other_settings_are_left_alone(change):
    decoder = ConvDecoder(S * K + D, 1, DECODER.image)
    old = decoder.convs[2]
    decoder.convs[2] = nn.ConvTranspose2d(
        old.in_channels,
        2 * (old.out_channels // 2) or 2,
        **{"kernel_size": 6, "stride": 2} | change,
    )
    optimize(decoder, CPU)
    assert type(decoder.convs[2]) is nn.ConvTranspose2d


def test_hooks_on_all_modules_fire():
    model = make_agent(obs_shapes=IMAGE).world_model
    optimize(model, CPU)
    seen = set()
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: seen.add(module))
    try:
        model.decoder.log_prob(torch.randn(T, B, S * K + D), make_obs(IMAGE, T, B))
    finally:
        handle.remove()
    assert {model.decoder, model.decoder.image, *model.decoder.image.convs} <= seen


def test_a_batch_without_images_passes():
    agent = make_agent(obs_shapes=IMAGE)
    plain = copy.deepcopy(agent)
    optimize(agent, CPU)
    none = make_obs(IMAGE, 0)
    assert_close(agent.world_model.encoder(none), plain.world_model.encoder(none))


def test_every_kernel_is_written_for_the_code_as_it_is():
    """Whoever edits such a function changes its kernel as well, and then `written_for`."""
    found = {k.fast.__name__: fingerprint(k.restates) for k in KERNELS if k.restates}
    assert found == {k.fast.__name__: k.written_for for k in KERNELS if k.restates}


def edited_forward(self, image):
    return torch.zeros(*image.shape[:-3], self.output_size)


def test_a_kernel_is_not_used_when_its_method_is_edited(monkeypatch):
    monkeypatch.setattr(ConvEncoder, "forward", edited_forward)
    encoder = Encoder(IMAGE, ENCODER)
    with pytest.warns(UserWarning, match="ChunkedConvEncoder is not used, .*ConvEncoder.forward"):
        used = optimize(encoder, CPU)
    assert "ChunkedConvEncoder" not in used
    assert not encoder(make_obs(IMAGE, T, B)).any()


class Documented:
    def method(self, x):
        """Add one."""
        # Nothing more.
        return x + 1


class Bare:
    def method(self, x):
        return x + 1


class Other:
    def method(self, x):
        return x + 2


def test_a_fingerprint_ignores_comments_and_docstrings():
    documented, bare, other = (fingerprint([(x, "method")]) for x in (Documented, Bare, Other))
    assert documented == bare != other
