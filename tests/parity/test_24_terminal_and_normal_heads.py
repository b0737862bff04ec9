"""Terminal, normal reward and vector heads, and their weighted sum, on features of some samples."""

import torch
from golden import Case, golden
from pydreamer import (
    NO_CONVOLUTIONS,
    check_groups,
    combine,
    features_model,
    head_gradients,
    head_options,
    load_head,
    pydreamer_batch,
    repeat,
    vector_decoder,
)

from dreamer.distributions import Bernoulli
from dreamer.models.decoders import DecoderConfig
from dreamer.models.observations import VectorConfig
from dreamer.models.reward_heads import SignedRewardConfig, TerminalHeadConfig


@golden("24_*", bf16=True)
def test_terminal_reward_and_vector_heads(case: Case, optimized):
    parameters = case.parameters
    features = case["in/features"].requires_grad_()  # (T, B, I, F)
    obs = {"vecobs": case["in/vecobs"]}
    weights = {name: case.under(f"w/{name}/model") for name in ("reward", "terminal", "vecobs")}
    options = head_options(weights["vecobs"], "squared_error")
    vector = VectorConfig([options["units"]] * options["layers"], "elu", options["norm"])
    model = features_model(
        features.shape[-1],
        reward_transform="identity",
        heads={
            "reward": SignedRewardConfig(
                **head_options(weights["reward"], "squared_error"),
                scale=parameters["reward_weight"],
            ),
            "terminal": TerminalHeadConfig(
                **head_options(weights["terminal"], "binary"),
                scale=parameters["terminal_weight"],
            ),
        },
        decoder=DecoderConfig("$^", ".*", NO_CONVOLUTIONS, vector, "squared_error"),
        obs_shapes={"vecobs": tuple(obs["vecobs"].shape[2:])},
        scales={"vecobs": parameters["vecobs_weight"]},
    )
    heads = dict(model.heads.items()) | {"vecobs": vector_decoder(model.decoder, "vecobs")}
    for name, head in heads.items():
        load_head(head, weights[name])
    optimized(model)
    batch = pydreamer_batch(case["in/reward"], case["in/terminal"], obs)
    targets = model.targets(batch)

    samples = features.shape[2]
    obs_log_probs, log_probs = model.score(
        features,
        {k: repeat(x, samples) for k, x in obs.items()},
        {k: repeat(x, samples) for k, x in targets.items()},
    )
    losses = {k: -x for k, x in (log_probs | obs_log_probs).items()}  # (T, B, I)
    scales = model.scales | model.obs_scales
    case.check("out/loss_reconstr", torch.stack([scales[k] * x for k, x in losses.items()]).sum(0))
    for name, loss in losses.items():
        case.check(f"out/loss_{name}_tbi", loss)
    ends = model.heads["terminal"](features)
    assert isinstance(ends, Bernoulli)
    case.check("out/terminal_logit", ends.logits)
    case.check("out/terminal_prob", ends.mean)
    case.check("out/reward_mean", model.heads["reward"](features).mean)

    combined = {name: combine(loss) for name, loss in losses.items()}
    check_groups(case, model, combined, targets)
    means = {name: head(features).mean.mean(2) for name, head in model.heads.items()}
    means["vecobs"] = model.decoder(features)["vecobs"].mean.mean(2)
    for name, loss in combined.items():
        case.check(f"out/tensors/loss_{name}", loss)
        case.check(f"out/tensors/{name}_rec", means[name])

    torch.stack([scales[k] * x for k, x in losses.items()]).sum(0).mean().backward()
    case.check("grad/features", features.grad)
    for name, head in heads.items():
        case.check_all(f"grad/{name}/model", head_gradients(head))
