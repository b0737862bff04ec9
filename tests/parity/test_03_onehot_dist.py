import torch
from golden import Case, golden
from torch import Tensor

from dreamer.distributions import OneHot, explore
from dreamer.models.latents import CategoricalLatent


def gradient(scalar: Tensor, leaf: Tensor) -> Tensor:
    return torch.autograd.grad(scalar, leaf)[0]


@golden("03_*", where=lambda case: "independent" in case.parameters)
def test_onehot(case: Case):
    logits, value = case["in/logits"].requires_grad_(), case["in/value"]
    noise = case["draw/gumbel"]
    if case.parameters["independent"]:  # a row of variables is one event: our latent state
        latent = CategoricalLatent(*logits.shape[-2:])
        log_prob, entropy = latent.log_prob(logits, value), latent.entropy(logits)
        sample, mode = latent.sample(logits, noise), latent.mode(logits)
    else:
        dist = OneHot(logits)
        log_prob, entropy = dist.log_prob(value), dist.entropy
        sample, mode = dist.sample(noise), dist.mode
    functional = (case["in/coef"] * sample).sum()

    case.check("out/log_prob", log_prob)
    case.check("out/entropy", entropy)
    case.check("out/sample", sample)
    case.check("out/mode", mode)
    case.check("out/sample_functional", functional)
    case.check("grad/log_prob_sum_wrt_logits", gradient(log_prob.sum(), logits))
    case.check("grad/entropy_sum_wrt_logits", gradient(entropy.sum(), logits))
    case.check("grad/functional_wrt_logits", gradient(functional, logits))
    assert not mode.requires_grad


@golden("03_*", where=lambda case: "amount" in case.parameters)
def test_exploration(case: Case):
    action = case["in/action"]
    dist = explore(action, case.parameters["amount"], discrete=True)
    assert isinstance(dist, OneHot)
    case.check("out/probs", dist.probs)
    case.check("out/log_prob_of_action", dist.log_prob(action))
