import numpy as np
import torch
from rounding import FACTOR, UNIT_ROUNDOFF, measure_rounding
from torch import nn


def test_limits_follow_the_condition_of_each_result():
    torch.manual_seed(0)
    layer, x = nn.Linear(23, 19), torch.rand(17, 23)

    def run() -> dict[str, np.ndarray]:
        y = layer(x)
        results = {"exact": x.square(), "product": y, "cancelling": y - layer(x.clone() + 1e-3)}
        return {key: tensor.detach().numpy() for key, tensor in results.items()}

    rounding = measure_rounding(run)
    limits = {key: rounding.limit(key) / np.linalg.norm(x) for key, x in run().items()}
    assert limits["exact"] == 0
    assert 0 < limits["product"] < FACTOR * UNIT_ROUNDOFF
    assert limits["cancelling"] > 1


def test_float32_chooses_where_rounding_could_choose_otherwise():
    exact = torch.tensor([[1.0, 1.001, 0.0], [0.0, 0.5, 1.0]])

    def best(scores: torch.Tensor) -> list[int]:
        return scores.max(-1, keepdim=True).indices.flatten().tolist()

    eye = torch.eye(3)
    rounding = measure_rounding(lambda: {"best": np.array(best(exact @ eye))})
    assert rounding.limit("best") == 0
    with rounding.choices():
        # The first row is a tie to bfloat16; the second is plainly wrong and stays so.
        assert best(torch.tensor([[1.0, 0.999, 0.0], [0.0, 1.0, 0.5]])) == [1, 1]
