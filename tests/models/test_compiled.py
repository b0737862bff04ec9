"""Compiled activations: the numbers of torch's own, compiled once."""

import copy

import pytest
import torch
import torch.nn.functional as F
from tiny import DISCRETE, IMAGE, fit, make_agent, make_batch, weights_of
from torch.testing import assert_close

from dreamer.models.compiled import LARGE, compile_activations, compiled_elu

# With and without gaps, in both layouts, the end of another one, small.
TENSORS = {
    "rows": lambda: torch.randn(LARGE // 64 + 3, 64),
    "channels last": lambda: torch.randn(LARGE // 720 + 1, 9, 10, 8).permute(0, 3, 1, 2),
    "end": lambda: torch.randn(2, LARGE // 64, 70)[1],
    "gaps": lambda: torch.randn(LARGE // 32, 70)[:, 3:40],
    "small": lambda: torch.randn(4, 5),
}


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("make", TENSORS.values(), ids=TENSORS)
def test_results_and_gradients_are_those_of_elu(make, dtype):
    source = make().to(dtype)
    source[0, 0], source[1, 0], source[2, 0] = -200.0, -1e-6, 0.0
    results = []
    for elu in (compiled_elu, lambda x: F.elu(x, inplace=True)):
        leaf = source.clone().requires_grad_()
        y = elu(leaf * 1)
        (grad,) = torch.autograd.grad(y, leaf, torch.full_like(y, 3))
        plain = elu(source.clone())
        results.append([y.detach(), grad, plain])
    for actual, expected in zip(*results, strict=True):
        assert actual.stride() == expected.stride()
        assert_close(actual, expected)
    changed = source.clone()
    assert compiled_elu(changed) is changed and not changed.equal(source)


@pytest.mark.slow
@pytest.mark.usefixtures("small_is_large")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_fifty_updates_give_the_losses_of_eager_ones_and_compile_nothing_anew(precision):
    agents, losses = [make_agent(DISCRETE, obs_shapes=IMAGE) for _ in range(2)], []
    agents[1].load_state_dict(copy.deepcopy(agents[0].state_dict()))
    compile_activations(agents[1])
    of_modules = [getattr(module, "activation", None) for module in agents[1].modules()]
    assert of_modules.count(compiled_elu) > 10
    for agent in agents:
        torch.manual_seed(1)
        batches = [make_batch(DISCRETE, IMAGE, seed=n) for n in range(50)]
        torch.compiler.set_stance("fail_on_recompile")
        try:
            metrics = fit(agent, batches, precision=precision)
        finally:
            torch.compiler.set_stance("default")
        losses.append([m["world_model/loss"].item() for m in metrics])
    assert len(losses[0]) == 50 and losses[0][0] != losses[0][-1]
    relative = 1e-4 if precision == "32-true" else 2e-2
    assert losses[1] == pytest.approx(losses[0], rel=relative)
    if precision == "32-true":
        assert_close(weights_of(agents[1]), weights_of(agents[0]), rtol=1e-2, atol=1e-3)
