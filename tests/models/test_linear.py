"""Dense layers give one product, in whichever form they multiply."""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F

from dreamer.models.linear import FEW_ROWS, Linear, linear


@pytest.fixture(params=[1, 2, 3])
def cores(request) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("leading", [(), (1,), (2,), (1, 1), (2, 3), (FEW_ROWS,), (FEW_ROWS + 1,)])
@pytest.mark.parametrize("units", [12, 7])
def test_rows_of_any_number_give_the_same_product(cores, leading, units):
    x, weight, bias = torch.randn(*leading, 5), torch.randn(units, 5), torch.randn(units)
    with torch.no_grad():
        y = linear(x, weight, bias)
    assert y.shape == (*leading, units)
    torch.testing.assert_close(y, F.linear(x, weight, bias), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 4])
def test_few_rows_of_views_give_the_same_product(cores, rows):
    x, weight, bias = torch.randn(5, rows).t(), torch.randn(5, 12).t(), torch.randn(12)
    with torch.no_grad():
        y = linear(x, weight, bias)
    torch.testing.assert_close(y, F.linear(x, weight, bias), rtol=1e-5, atol=1e-5)


def test_gradients_reach_inputs_and_weights():
    layer, x = Linear(5, 12), torch.randn(1, 5, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None and layer.weight.grad is not None and layer.bias.grad is not None
    torch.testing.assert_close(x.grad, layer.weight.sum(0, keepdim=True))
    torch.testing.assert_close(layer.weight.grad, x.expand(12, 5).detach())
    torch.testing.assert_close(layer.bias.grad, torch.ones(12))
