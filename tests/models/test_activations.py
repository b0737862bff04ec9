"""Activations: the values and gradients of torch's own, compiled or with the gradient in place."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from dreamer.models import activations, ahead_of_time
from dreamer.models.activations import ACTIVATIONS, LARGE, activate, compiled_elu
from dreamer.models.mlp import MLP, Head, HeadConfig
from dreamer.models.vision import ConvConfig, ConvEncoder

# Each with whether it is for the compiled kernel: large, and without gaps in memory.
TENSORS = {
    "rows": (lambda: torch.randn(LARGE // 64 + 3, 64), True),
    "channels last": (lambda: torch.randn(LARGE // 720 + 1, 9, 10, 8).permute(0, 3, 1, 2), True),
    "end of another": (lambda: torch.randn(2, LARGE // 64, 70)[1], True),
    "gaps": (lambda: torch.randn(LARGE // 32, 70)[:, 3:40], False),
    "small": (lambda: torch.randn(4, 5), False),
}


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("make", "is_compiled"), TENSORS.values(), ids=TENSORS)
def test_results_and_gradients_are_those_of_elu(monkeypatch, make, is_compiled, dtype):
    kernel, calls = activations._kernel(dtype), []
    watched = lambda x: calls.extend(x) or kernel(x)  # noqa: E731
    monkeypatch.setattr(activations, "_kernel", lambda dtype: watched)
    x = make()
    x[0, 0], x[1, 0], x[2, 0] = -200.0, -1e-6, 0.0
    if dtype != x.dtype:
        x = torch.empty_strided(x.size(), x.stride(), dtype=dtype).copy_(x)
    expected = F.elu(x)
    leaf = x.detach().clone().requires_grad_()
    y, y_expected = compiled_elu(leaf * 1), F.elu_(leaf * 1)
    assert compiled_elu(x) is x
    assert_close([x, y], [expected, y_expected])
    grad, grad_expected = (
        torch.autograd.grad(z, leaf, torch.full_like(z, 3))[0] for z in (y, y_expected)
    )
    assert_close(grad, grad_expected)
    assert any(call.data_ptr() == x.data_ptr() for call in calls) == is_compiled


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
def test_what_is_compiled_serves_any_number_of_threads_and_is_read_from_the_disk(monkeypatch):
    monkeypatch.delattr(activations, "make")
    activations._kernel.cache_clear()
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            x = torch.randn(LARGE + threads)
            expected = F.elu(x)
            assert_close(compiled_elu(x), expected)
    finally:
        torch.set_num_threads(before)


OF_MANY_THREADS = """
import threading, torch
from dreamer.models.activations import LARGE, compiled_elu

def work(seed):
    x = torch.randn(LARGE + seed)
    for _ in range(300):
        compiled_elu(x)

threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
def test_threads_that_use_it_at_once_do_not_wait_for_ever(repository):
    command = [sys.executable, "-c", OF_MANY_THREADS]
    subprocess.run(command, cwd=repository, timeout=60, check=True)


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
def test_a_kernel_of_another_processor_is_not_taken(monkeypatch):
    monkeypatch.setattr(ahead_of_time, "_processor", lambda: "another")
    assert not activations._path(torch.float32).exists()


class Reader(torch.autograd.Function):
    """A layer that hands out a gradient and remembers it."""

    @staticmethod
    def forward(ctx, x, gradients):
        ctx.gradients = gradients
        return x.sin()

    @staticmethod
    def backward(ctx, *grad_outputs):
        ctx.gradients.append(grad_outputs[0] * 3)
        return ctx.gradients[-1], None


@pytest.mark.parametrize("shape", [(LARGE // 64, 64), (4, 5)], ids=["large", "small"])
@pytest.mark.parametrize("inner", [True, False])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_gradient_is_changed_in_place_only_of_large_inner_elus(name, inner, shape):
    activation, gradients = ACTIVATIONS[name], []
    x = torch.randn(shape, requires_grad=True)
    y = activate(activation, x * 1, inner=inner)
    assert_close(y, activation(x * 1))
    (grad,) = torch.autograd.grad(Reader.apply(y, gradients).sum(), x)
    assert_close(grad, 3 * torch.autograd.grad(activation(x * 1).sum(), x)[0])
    is_changed = name == "elu" and inner and x.numel() >= LARGE
    assert torch.equal(gradients[0], torch.full_like(x, 3)) != is_changed


def test_layers_are_inner_but_for_the_last_that_anybody_may_read():
    sizes = {"activation": "elu", "norm": "none"}
    assert [layer.inner for layer in MLP(3, [4, 5, 6], **sizes)] == [True, True, False]
    config = HeadConfig(layers=2, units=4, distribution="mse", **sizes)
    assert [layer.inner for layer in Head(3, (), config).trunk] == [True, True]


@pytest.mark.parametrize("norm", ["none", "layer"])
@pytest.mark.parametrize("images", [True, False], ids=["images", "vectors"])
def test_gradients_made_in_place_are_those_of_an_elu_that_changes_nothing(
    monkeypatch, images, norm
):
    def outcome():
        torch.manual_seed(0)
        config = ConvConfig(depth=4, kernels=(4, 4, 4, 4), activation="elu", norm=norm)
        head = HeadConfig(2, 64, "elu", norm, "trunc_normal")
        network = ConvEncoder(1, config) if images else Head(5, (3,), head)
        x = torch.randn(*((6, 1, 64, 64) if images else (LARGE // 16, 5)), requires_grad=True)
        y = network(x) if images else network(x).log_prob(torch.zeros(3))
        return torch.autograd.grad(y.sin().sum(), [x, *network.parameters()])

    in_place = outcome()
    plain = lambda activation, x, inner: F.elu(x)  # noqa: E731
    for module in ("vision", "mlp"):
        monkeypatch.setattr(f"dreamer.models.{module}.activate", plain)
    assert_close(in_place, outcome())
