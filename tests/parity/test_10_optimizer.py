import torch
from golden import Case, golden
from networks import optimizer_config

from dreamer.optim import EpsilonHatAdam, clip_gradients


@golden("10_*")
def test_optimizer(case: Case):
    names = case.parameters["variables"]
    parameters = {name: torch.nn.Parameter(case[f"in/param_{name}"]) for name in names}
    config = optimizer_config(case.parameters)
    optimizer = EpsilonHatAdam(parameters.values(), config)
    betas = case.parameters["beta1"], case.parameters["beta2"]
    assert optimizer.param_groups[0]["betas"] == betas

    norms, history = [], []
    for step in range(len(case.parameters["grad_scale"])):
        for name, parameter in parameters.items():
            if f"in/grads_{name}" in case:
                parameter.grad = case[f"in/grads_{name}"][step]
        norms.append(clip_gradients(parameters.values(), config.clip))
        optimizer.step()
        history.append({name: p.detach().clone() for name, p in parameters.items()})

    case.check("out/grad_norm", torch.stack(norms))
    for name in names:
        case.check(f"out/params_{name}", torch.stack([step[name] for step in history]))
