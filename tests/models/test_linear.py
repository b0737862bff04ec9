"""Dense layers give one product, in whichever form they multiply."""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

import dreamer.models.linear
from dreamer.models.linear import FEW_ROWS, Linear, Repeated, constant_weights, linear

MANY = 2 * FEW_ROWS


@pytest.fixture(params=[1, 2, 3])
def cores(request, monkeypatch) -> Iterator[int]:
    monkeypatch.setattr(dreamer.models.linear, "is_intel", lambda: False)
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
    assert_close(y, F.linear(x, weight, bias), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 4])
def test_few_rows_of_views_give_the_same_product(cores, rows):
    x, weight, bias = torch.randn(5, rows).t(), torch.randn(5, 12).t(), torch.randn(12)
    with torch.no_grad():
        y = linear(x, weight, bias)
    assert_close(y, F.linear(x, weight, bias), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("leading", [(8,), (2, 8), (33,)])
def test_on_intels_processors_some_rows_are_multiplied_by_parts(cores, leading, monkeypatch):
    monkeypatch.setattr(dreamer.models.linear, "is_intel", lambda: True)
    monkeypatch.setattr(dreamer.models.linear, "MANY_INPUTS", 5)
    by_parts, calls = dreamer.models.linear._by_parts, []
    watched = lambda *inputs: calls.append(inputs) or by_parts(*inputs)  # noqa: E731
    monkeypatch.setattr(dreamer.models.linear, "_by_parts", watched)
    x, weight, bias = torch.randn(*leading, 5), torch.randn(12, 5), torch.randn(12)
    with torch.no_grad():
        y = linear(x, weight, bias)
    assert len(calls) == (leading != (33,))  # rows: 8, 16, one too many
    assert y.is_contiguous()
    assert_close(y, F.linear(x, weight, bias), rtol=1e-5, atol=1e-5)


def test_gradients_reach_inputs_and_weights():
    layer, x = Linear(5, 12), torch.randn(1, 5, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None and layer.weight.grad is not None and layer.bias.grad is not None
    assert_close(x.grad, layer.weight.sum(0, keepdim=True))
    assert_close(layer.weight.grad, x.expand(12, 5).detach())
    assert_close(layer.bias.grad, torch.ones(12))


@pytest.mark.usefixtures("products")
@pytest.mark.parametrize("intel", [True, False])
@pytest.mark.parametrize("leading", [(3,), (2, 3), (4, 2, 3)])
def test_results_with_a_gradient_may_be_changed_in_place_without_copies(
    leading, intel, monkeypatch
):
    monkeypatch.setattr(dreamer.models.linear, "is_intel", lambda: intel)
    x, weight, bias = (
        torch.randn(shape, requires_grad=True) for shape in ((*leading, 5), (12, 5), (12,))
    )
    y = linear(x, weight, bias)
    assert not y._is_view()
    expected = F.linear(x, weight, bias)
    assert_close(y, expected)
    gradients = (torch.autograd.grad(F.elu_(z).sum(), [x, weight, bias]) for z in (y, expected))
    assert_close(*gradients)


@pytest.fixture
def by_onednn(monkeypatch) -> list[tuple[int, ...]]:
    """Products count as large from the first number on; grows by the shape of each."""
    if torch.float32 not in dreamer.models.linear._onednn_types():
        pytest.skip("torch is built without oneDNN")
    monkeypatch.setattr(dreamer.models.linear, "is_intel", lambda: False)
    shapes, multiply = [], dreamer.models.linear.multiply

    def noted(x, weight, bias=None):
        shapes.append(tuple(x.shape))
        return multiply(x, weight, bias)

    for name in ("LARGE", "LARGE_IN_DREAM", "LARGE_IN_SEQUENCE", "MANY_WEIGHTS"):
        monkeypatch.setattr(dreamer.models.linear, name, 0)
    monkeypatch.setattr(dreamer.models.linear, "multiply", noted)
    return shapes


def make_weight(kind: str) -> torch.Tensor:
    """(12, 5), as it lies, transposed, or a part of a larger one."""
    match kind:
        case "transposed":
            return torch.randn(5, 12).t()
        case "part":
            return torch.randn(12, 9)[:, 2:7]
        case _:
            return torch.randn(12, 5)


@pytest.mark.parametrize("leading", [(2,), (2, 3), (FEW_ROWS,)])
@pytest.mark.parametrize("kind", ["whole", "transposed", "part"])
def test_few_rows_and_many_weights_give_the_same_product(by_onednn, leading, kind):
    x, weight, bias = torch.randn(*leading, 5), make_weight(kind), torch.randn(12)
    with torch.no_grad():
        assert_close(linear(x, weight, bias), F.linear(x, weight, bias))
    assert by_onednn == [(*leading, 5)]


@pytest.mark.parametrize("leading", [(MANY,), (3, MANY), (1, 2, MANY)])
@pytest.mark.parametrize("kind", ["whole", "transposed", "part"])
def test_large_products_have_the_values_and_gradients_of_small_ones(by_onednn, leading, kind):
    weight, bias = make_weight(kind).requires_grad_(), torch.randn(12, requires_grad=True)
    x = torch.randn(*leading, 5, requires_grad=True)
    y, expected = linear(x, weight, bias), F.linear(x, weight, bias)
    assert by_onednn
    assert_close(y, expected)
    grad = torch.randn_like(y)
    parameters = x, weight, bias
    assert_close(
        torch.autograd.grad(y, parameters, grad), torch.autograd.grad(expected, parameters, grad)
    )
    with torch.no_grad():
        assert_close(linear(x, weight, bias), expected)


def test_a_large_product_may_be_changed_in_place(by_onednn):
    weight, bias = torch.randn(12, 5, requires_grad=True), torch.randn(12)
    x = torch.randn(3, MANY, 5)
    of_large, of_small = (
        torch.autograd.grad(F.elu_(product(x, weight, bias)).sum(), weight)
        for product in (linear, F.linear)
    )
    assert len(by_onednn) == 1  # and none for the gradient of x, which nobody wants
    assert_close(of_large, of_small)


def test_large_products_in_mixed_precision_are_those_of_autocast(by_onednn):
    if torch.bfloat16 not in dreamer.models.linear._onednn_types():
        pytest.skip("this processor has no bfloat16")
    weight, bias = torch.randn(12, 5, requires_grad=True), torch.randn(12, requires_grad=True)
    x = torch.randn(MANY, 5, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y, expected = linear(x, weight, bias), F.linear(x, weight, bias)
    assert by_onednn and y.dtype == torch.bfloat16
    assert_close(y, expected)
    grad, parameters = torch.randn_like(y), (x, weight, bias)
    gradients = torch.autograd.grad(y, parameters, grad)
    assert [g.dtype for g in gradients] == [torch.float32] * 3
    assert_close(gradients, torch.autograd.grad(expected, parameters, grad), rtol=0.02, atol=0.02)


def test_on_intels_processors_onednn_multiplies_in_bfloat16_or_by_weights_in_order(
    by_onednn, monkeypatch
):
    monkeypatch.setattr(dreamer.models.linear, "is_intel", lambda: True)
    weight, bias = torch.randn(12, 5, requires_grad=True), torch.randn(12)
    x = torch.randn(MANY, 5)
    expected = x @ weight.t() + bias
    assert_close(linear(x, weight, bias), expected)
    with torch.no_grad():
        assert_close(linear(x[:2], weight, bias), expected[:2])
    assert not by_onednn
    with torch.no_grad(), constant_weights():
        assert_close(linear(x, weight, bias), expected)
    assert len(by_onednn) == 1
    if torch.bfloat16 in dreamer.models.linear._onednn_types():
        with torch.autocast("cpu", torch.bfloat16):
            assert_close(linear(x, weight, bias).float(), expected, rtol=0.02, atol=0.05)
        assert len(by_onednn) == 2


@pytest.mark.parametrize("kind", ["whole", "transposed"])
def test_gradients_of_large_weights_lie_in_memory_as_the_weights_do(by_onednn, kind):
    weight, bias = make_weight(kind).requires_grad_(), torch.randn(12)
    (grad,) = torch.autograd.grad(linear(torch.randn(MANY, 5), weight, bias).sum(), weight)
    assert by_onednn
    assert grad.stride() == weight.stride()


def test_double_precision_stays_with_torch(by_onednn):
    x, weight, bias = torch.randn(MANY, 5).double(), torch.randn(12, 5).double(), torch.zeros(12)
    assert_close(linear(x, weight, bias.double()), x @ weight.t())
    assert not by_onednn


def test_constant_weights_are_ordered_once_and_forgotten(by_onednn):
    x, weight, bias = torch.randn(MANY, 5), torch.randn(12, 5), torch.zeros(12)
    before = x @ weight.t()
    with constant_weights(), torch.no_grad():
        assert_close(linear(x, weight, bias), before)
        weight += 1  # which nobody may do here; it shows that the weights are not read again
        assert_close(linear(x, weight, bias), before)
    with torch.no_grad():
        assert_close(linear(x, weight, bias), x @ weight.t())


def test_weights_with_a_gradient_are_read_even_if_they_are_said_to_be_constant(by_onednn):
    x, weight, bias = torch.randn(MANY, 5), torch.randn(12, 5, requires_grad=True), torch.zeros(12)
    with constant_weights():
        for _ in range(2):
            assert_close(linear(x, weight, bias), x @ weight.t())
            with torch.no_grad():
                weight += 1


@pytest.mark.usefixtures("products")
@pytest.mark.parametrize("kind", ["whole", "transposed", "part"])
@pytest.mark.parametrize("of_row", [False, True])
def test_repeated_products_are_those_of_the_weight(kind, of_row):
    weight, x, grad = make_weight(kind), torch.randn(4, 5), torch.randn(4, 12)
    offset = torch.randn(4, 12) if of_row else torch.randn(12)
    product, out = Repeated(weight, rows=4), torch.empty(4, 20)[:, 3:15]
    assert_close(product.forward(x, offset), x @ weight.t() + offset)
    assert product.forward(x, offset, out=out).data_ptr() == out.data_ptr()
    assert_close(out, x @ weight.t() + offset)
    assert_close(product.backward(grad), grad @ weight)
