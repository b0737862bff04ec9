import torch
from golden import Case, channels_first, channels_last, golden
from networks import observation_config
from torch import Tensor

from dreamer.models.observations import Decoder, Encoder, ObsShapes


def observations(case: Case) -> tuple[dict[str, Tensor], ObsShapes]:
    """Raw (B, T, *shape) in the order of the case's shapes, and our shapes."""
    obs = {}
    for key, shape in case.parameters["shapes"].items():
        value = case[f"in/{key}_uint8"] if f"in/{key}_uint8" in case else case[f"in/{key}"]
        obs[key] = channels_first(value) if len(shape) == 3 else value
    return obs, {k: tuple(x.shape[2:]) for k, x in obs.items()}


@golden("07a_*", bf16=True)
def test_encoder(case: Case, optimized):
    obs, shapes = observations(case)
    encoder = Encoder(shapes, observation_config(case.parameters))
    case.load(encoder)
    optimized(encoder)

    embed = encoder(obs)
    functional = (case["in/coef"] * embed).sum()
    functional.backward()

    case.check("out/embed", embed)
    case.check("out/functional", functional)
    case.check_gradients(encoder)


@golden("07b_*", bf16=True)
def test_decoder(case: Case, optimized):
    obs, shapes = observations(case)
    features = case["in/features"].requires_grad_()
    decoder = Decoder(features.shape[-1], shapes, observation_config(case.parameters))
    case.load(decoder)
    optimized(decoder)

    dists = decoder(features)
    log_probs = decoder.log_prob(features, obs)
    loss = torch.stack([-x.mean() for x in log_probs.values()]).sum()
    loss.backward()

    for key, dist in dists.items():
        is_image = len(shapes[key]) == 3
        case.check(f"out/mean/{key}", channels_last(dist.mean) if is_image else dist.mean)
        case.check(f"out/log_prob/{key}", log_probs[key])
    case.check("out/loss", loss)
    case.check_gradients(decoder)
    if "grad/features" in case.expected:
        case.check("grad/features", features.grad)
