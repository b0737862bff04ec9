import torch
from golden import Case, global_norm, golden, reference_gradients, swap_time
from networks import (
    obs_shapes_of,
    our_batch,
    our_samples,
    our_state,
    reference_state,
    world_model_config,
)
from torch import Tensor

from dreamer.models.world_model import WorldModel
from dreamer.types import RSSMState

METRICS = {
    "model_kl": "world_model/kl",
    "prior_ent": "world_model/prior_entropy",
    "post_ent": "world_model/posterior_entropy",
}


@golden("08_*", bf16=True)
def test_world_model_loss(case: Case, optimized):
    batch = our_batch(case.under("in"))
    shapes = obs_shapes_of(batch)
    config = world_model_config(case.config, shapes, case.parameters["grad_heads"])
    model = WorldModel(config, shapes, batch.prev_action.shape[-1])
    case.load(model)
    optimized(model)
    latent = config.latent
    start = None
    if not case.parameters["start_state"].startswith("none"):
        start = our_state(latent, case, case.parameters["start_state"])

    def noise_of(name: str) -> Tensor:
        return our_samples(latent, torch.tensor(draws[f"{case.parameters['draws']}/{name}"]))

    draws = case.golden.arrays
    output = model.loss(batch, start, noise_of("post"))
    output.loss.backward()

    post, prior_stats = output.posterior, output.prior_stats
    prior = RSSMState(post.deter, latent.sample(prior_stats, noise_of("prior")), prior_stats)
    for folder, state in {"post": post, "prior": prior}.items():
        parts = reference_state(latent, state)
        case.check_all(f"out/{folder}", {k: swap_time(x) for k, x in parts.items()})
    case.check_all("out/last_state", reference_state(latent, post.at(-1)))
    likes = output.obs_log_probs | output.log_probs
    case.check_all("out/likes", {k: swap_time(x) for k, x in likes.items()})
    case.check_all("out/losses", output.obs_losses | output.losses)
    case.check_all("out/metrics", {k: output.metrics[name] for k, name in METRICS.items()})
    sequences = {"embed": model.encoder(batch.obs), "feat": post.features, "kl_value": output.kl}
    for name in sequences.keys() & {key.removeprefix("out/") for key in case.expected}:
        case.check(f"out/{name}", swap_time(sequences[name]))
    case.check("out/model_loss", output.loss)

    gradients = reference_gradients(model)
    for name in case.parameters["no_gradient"]:
        assert not gradients[name].any(), name
    case.check("grad/global_norm", global_norm(model))
    norms = {name: torch.tensor(gradient).norm() for name, gradient in gradients.items()}
    case.check_all("grad/norm", norms)
    case.check_gradients(model)
