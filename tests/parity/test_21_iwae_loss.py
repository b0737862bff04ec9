"""The loss of one or several samples, of given statistics and reconstruction losses."""

import dataclasses

import torch
from golden import Case, golden
from pydreamer_models import make_latent, per_sample, their_stats
from tiny import WORLD_MODEL, model_head
from torch import Tensor

from dreamer.models.world_model import KLConfig, WorldModel
from dreamer.types import RSSMState


@golden("21_*")
def test_iwae_loss(case: Case):
    parameters = case.parameters
    samples = parameters["iwae_samples"]
    latent = make_latent(parameters["stoch"], parameters["discrete"])
    kl = KLConfig(parameters["kl_balance"], free_nats=0.0, forward=False, free_avg=True)
    config = dataclasses.replace(
        WORLD_MODEL,
        latent=latent,
        kl=kl,
        heads={"reward": model_head()},
        loss_scales={"kl": parameters["kl_weight"]},
        iwae_samples=samples,
    )
    model = WorldModel(config, {"angle": (2,)}, action_size=1)
    leaves = {
        name: case[f"in/{name}"].requires_grad_()
        for name in ("post", "prior", "sample", "loss_reconstr")
    }
    post, prior = (latent.to_stats(leaves[name].flatten(1, 2)) for name in ("post", "prior"))
    stoch = leaves["sample"].flatten(1, 2).unflatten(-1, (latent.variables, latent.classes))
    state = RSSMState(torch.zeros(*stoch.shape[:2], 1), stoch, post)

    kl_term, exact = model.divergence(state, prior)
    loss = model.combine(kl_term, {"reward": -leaves["loss_reconstr"].flatten(1)}, {}).loss
    loss.backward()

    assert torch.equal(per_sample(their_stats(latent, post), samples), leaves["post"])

    def mean_over_samples(x: Tensor) -> Tensor:
        return per_sample(x, samples).mean(2)

    tensors = {
        "loss_kl": model.per_sequence(exact),
        "entropy_post": mean_over_samples(latent.entropy(post)),
        "entropy_prior": mean_over_samples(latent.entropy(prior)),
    }
    case.check("out/loss", loss)
    case.check_all("out/tensors", tensors)
    means = {name: x.mean() for name, x in tensors.items()}
    case.check_all("out/metrics", means | {"loss_model": loss})
    assert ("grad/sample" in case.expected) == parameters["sample_has_gradient"]
    assert (leaves["sample"].grad is not None) == parameters["sample_has_gradient"]
    gradients = {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
    case.check_all("grad", gradients)
