"""The categorical reward head, beside a terminal head, on given features of one to some samples."""

import torch
from golden import Case, golden
from pydreamer import (
    check_groups,
    combine,
    features_model,
    head_gradients,
    head_options,
    load_head,
    pydreamer_batch,
    repeat,
)

from dreamer.class_distributions import Discrete
from dreamer.models.reward_heads import CategoricalRewardConfig, TerminalHeadConfig


@golden("23_*", bf16=True)
def test_categorical_reward(case: Case, optimized):
    parameters = case.parameters
    features = case["in/features"].requires_grad_()  # (T, B, I, F)
    samples = features.shape[2]
    model = features_model(
        features.shape[-1],
        reward_transform=parameters["clip_rewards"] or "identity",
        heads={
            "reward": CategoricalRewardConfig(
                **head_options(case.under("w/reward/model"), "categorical"),
                scale=parameters["reward_weight"],
                support=case.array("in/support_raw").tolist(),
            ),
            "terminal": TerminalHeadConfig(
                **head_options(case.under("w/terminal/model"), "binary"),
                scale=parameters["terminal_weight"],
            ),
        },
    )
    reward_head = model.heads["reward"]
    for name, head in model.heads.items():
        load_head(head, case.under(f"w/{name}/model"))
    optimized(model)
    batch = pydreamer_batch(reward=case["in/reward_raw"], terminal=case["in/terminal"])
    targets = model.targets(batch)
    repeated = {k: repeat(x, samples) for k, x in targets.items()}
    _, log_probs = model.score(features, {"none": torch.zeros(*features.shape[:-1], 1)}, repeated)

    prediction = reward_head(features)
    assert isinstance(prediction, Discrete)
    case.check("out/support", prediction.support)
    torch.testing.assert_close(prediction.support, case["w/reward/_support"])
    case.check("out/reward_target", targets["reward"])
    case.check("out/category", prediction.index(targets["reward"]))
    case.check("out/log_prob", prediction.logits.log_softmax(-1))
    case.check("out/mean", prediction.mean)
    case.check("out/decoded", prediction.mean.mean(2))
    case.check("out/loss_tbi", -log_probs["reward"])
    case.check("out/loss_tb", combine(-log_probs["reward"]))
    weighted = [-model.scales[name] * x for name, x in log_probs.items()]
    case.check("out/loss_reconstr", torch.stack(weighted).sum(0))

    losses = {name: combine(-x) for name, x in log_probs.items()}
    check_groups(case, model, losses, targets)
    means = {f"{name}_rec": head(features).mean.mean(2) for name, head in model.heads.items()}
    for name, tensor in ({f"loss_{k}": x for k, x in losses.items()} | means).items():
        case.check(f"out/tensors/{name}", tensor)

    (-log_probs["reward"]).mean().backward()
    case.check("grad/features", features.grad)
    case.check_all(
        "grad/reward/model", {k: x for k, x in head_gradients(reward_head, "model").items()}
    )
