"""PyDreamer's world model: its loss, of images or vectors, with one or several samples."""

import torch
from golden import Case, global_norm, golden
from pydreamer_models import (
    obs_shapes_of,
    our_batch,
    our_samples,
    our_state,
    per_sample,
    strides,
    their_features,
    their_state,
    their_stats,
    world_model_config,
)
from torch import Tensor

from dreamer.convert_pydreamer import load_pydreamer_weights, pydreamer_parameters
from dreamer.models.world_model import WorldModel, WorldModelOutput


def tensors_of(model: WorldModel, output: WorldModelOutput, case: Case) -> dict[str, Tensor]:
    """What the file has for every step (T, B, ...), by its names."""
    config, latent = model.config, model.config.latent
    samples, features = config.iwae_samples, output.posterior.features

    def mean(x: Tensor) -> Tensor:
        return per_sample(x, samples).mean(2)

    losses = {key: -x for key, x in (output.obs_log_probs | output.log_probs).items()}
    tensors = {f"loss_{key}": model.per_sequence(x) for key, x in losses.items()}
    predictions = model.decoder(features) | {key: h(features) for key, h in model.heads.items()}
    tensors |= {f"{key}_rec": mean(x.mean) for key, x in predictions.items()}
    if "image_rec" in tensors:
        chosen = strides(case.golden.meta["image_rec"])
        tensors["image_rec"] = tensors["image_rec"][..., *chosen]
    tensors |= {
        "loss_kl": model.per_sequence(output.kl),
        "entropy_post": mean(latent.entropy(output.posterior.stats)),
        "entropy_prior": mean(latent.entropy(output.prior_stats)),
    }
    for critic in model.auxiliary.values():
        tensors["policy_value_aux"] = critic.critic(features[:, ::samples]).mean
    return tensors


@golden("22_*", bf16=True)
def test_world_model_loss(case: Case, optimized):
    batch = our_batch(case)
    shapes = obs_shapes_of(batch)
    options = {k: v for k, v in case.parameters.items() if k != "no_gradient"}
    config = world_model_config(case.config, shapes, **options)
    model = config.build(shapes, batch.prev_action.shape[-1])
    load_pydreamer_weights(case.under("w"), model)
    optimized(model)
    latent, samples = config.latent, config.iwae_samples

    noise = our_samples(latent, case["draw/post"])
    output = model.loss(batch, our_state(latent, case, "in/state"), noise)
    output.loss.backward()

    posterior = output.posterior
    sequences = {
        "features": their_features(posterior),
        "post": their_stats(latent, posterior.stats),
        "prior": their_stats(latent, output.prior_stats),
    }
    for key, x in sequences.items():
        case.check(f"out/{key}", per_sample(x, samples))
    case.check_all("out/state", their_state(posterior.at(-1)))
    case.check("out/loss", output.loss)

    tensors = tensors_of(model, output, case)
    case.check_all("out/tensors", tensors)
    metrics = {key: x.mean() for key, x in tensors.items()} | logged(model, output)
    case.check_all("out/metrics", metrics)

    weights = pydreamer_parameters(model)
    gradients = {key: w.to_reference(gradient=True) for key, w in weights.items()}
    for name in case.parameters["no_gradient"]:
        assert gradients.get(name) is None, name
    gradients = {key: x for key, x in gradients.items() if x is not None}
    case.check("grad_norm", global_norm(model))
    case.check_all("gradnorm", {key: x.norm() for key, x in gradients.items()})
    case.check_all("grad", gradients)


def logged(model: WorldModel, output: WorldModelOutput) -> dict[str, Tensor]:
    """Our own metrics, by the names in the file."""
    names = {"loss_kl": "kl", "entropy_post": "posterior_entropy", "entropy_prior": "prior_entropy"}
    names |= {f"loss_{key}": f"{key}_nll" for key in model.heads}
    metrics = {name: output.metrics[f"world_model/{ours}"] for name, ours in names.items()}
    metrics |= {
        f"loss_{key}": output.metrics[f"observations/{key}_nll"] for key in output.obs_losses
    }
    added = torch.zeros(())
    for name, config in model.config.auxiliary.items():
        loss, value = (output.metrics[f"world_model/{name}_{key}"] for key in ("loss", "value"))
        metrics |= {"loss_critic_aux": loss, "policy_value_aux": value}
        added += config.weight * loss
    return metrics | {"loss_model": output.metrics["world_model/loss"] - added}
