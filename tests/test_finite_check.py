"""What remembers the first loss that is not finite, on a CPU."""

import pytest
import torch

from dreamer.finite_check import FiniteCheck


def test_the_first_failure_is_named_and_nothing_is_allowed_after_it():
    check = FiniteCheck(["model", "actor"])
    assert check.read() is None
    norms = [("model", 1.0), ("actor", torch.nan), ("model", 1.0), ("model", torch.inf)]
    assert [check.check(name, torch.tensor(x)).item() for name, x in norms] == [1, 0, 0, 0]
    check.send()
    assert check.read() == check.read(wait=True) == "actor"


@pytest.mark.parametrize("norm", [torch.inf, -torch.inf, torch.nan])
def test_a_check_that_is_reset_starts_afresh(norm):
    check = FiniteCheck(["model"])
    check.check("model", torch.tensor(norm))
    check.reset()
    assert check.read() is None
    assert check.check("model", torch.tensor(1.0)) == 1


def test_it_moves_with_a_module_and_is_not_saved():
    check = FiniteCheck(["model"])
    assert check.state_dict() == {}
    check.to("meta").bfloat16()
    assert check.check("model", torch.zeros((), device="meta")).device.type == "meta"
