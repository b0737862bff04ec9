import torch
from golden import Case, golden, swap_time

from dreamer.losses import lambda_return


@golden("01_*")
def test_lambda_return(case: Case):
    ours = swap_time if case.parameters["axis"] == 1 else lambda x: x
    reward, value, discount = case["in/reward"], case["in/value"], case["in/pcont"]
    has_bootstrap = case.parameters["bootstrap"]
    returns = lambda_return(
        ours(reward),
        ours(value),
        ours(discount.expand_as(reward)),
        case["in/bootstrap"] if has_bootstrap else torch.zeros_like(ours(value)[0]),
        case.parameters["lambda_"],
    )
    case.check("out/returns", ours(returns))
