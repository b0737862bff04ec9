import torch
from golden import Case, golden

from dreamer.models.rssm import GRUCell


@golden("05_*", bf16=True)
def test_gru_cell(case: Case):
    inputs, start = case["in/inputs"].requires_grad_(), case["in/state"].requires_grad_()
    cell = GRUCell(inputs.shape[-1], start.shape[-1], layer_norm=True)
    case.load(cell)

    states = [start]
    for x in inputs:
        states.append(cell(x, states[-1]))
    functional = (case["in/coef"] * states[-1]).sum()
    functional.backward()

    case.check("out/step1", states[1])
    case.check("out/steps", torch.stack(states[1:]))
    case.check("out/functional", functional)
    case.check("grad/inputs", inputs.grad)
    case.check("grad/state", start.grad)
    case.check_gradients(cell)
