from collections.abc import Callable
from typing import Any

import torch
from golden import Case, global_norm, golden
from networks import (
    actor_critic_config,
    make_latent,
    our_samples,
    our_state,
    reference_state,
    section,
    world_model_config,
)

from dreamer.convert import load_reference_weights, reference_parameters
from dreamer.losses import trajectory_weight
from dreamer.models.actor_critic import ActorCritic, RewardNormConfig, StreamNorm
from dreamer.models.observations import ObsShapes
from dreamer.models.world_model import WorldModel
from dreamer.types import ActionSpace, RSSMState, Trajectory


def make_actor_critic(
    case: Case, config: dict[str, Any], feature_size: int, *, sample_gradient: str = "exact"
) -> ActorCritic:
    """Actor and critics with the case's weights, where it has such weights."""
    weights = case.under("w")
    heads = {name: case.under(f"w/{name}") for name in ("actor", "critic", "target_critic")}
    kernel = weights.get("actor/out/out/kernel", weights["critic/out/out/kernel"])
    action_space = ActionSpace(kernel.shape[-1], "actor/out/std/kernel" not in weights)
    actor_critic = ActorCritic(
        actor_critic_config(config, sample_gradient=sample_gradient), feature_size, action_space
    )
    for name, values in heads.items():
        if values:
            load_reference_weights(getattr(actor_critic, name), values)
    return actor_critic


def head(case: Case, name: str) -> dict[str, Any]:
    """What a head's weights say of its configuration."""
    weights = case.under(f"w/{name}")
    layers = sum(key.startswith("dense") and key.endswith("kernel") for key in weights)
    return {
        f"{name}.layers": layers,
        f"{name}.units": weights["out/out/kernel"].shape[0],
        f"{name}.norm": "layer" if "norm0/gamma" in weights else "none",
        f"{name}.act": case.parameters.get("act", "elu"),
    }


WITHOUT_REWARD_NORM = {
    "reward_norm.momentum": 1.0,
    "reward_norm.scale": 1.0,
    "reward_norm.eps": 1e-8,
}


@golden("09a_*", bf16=True)
def test_losses_of_given_trajectory(case: Case):
    parameters = case.parameters
    config = {
        **{k: v for k, v in parameters.items() if k.startswith(("actor_grad", "actor_ent"))},
        **WITHOUT_REWARD_NORM,
        **head(case, "actor"),
        **head(case, "critic"),
        "actor.dist": parameters["actor_dist"],
        "actor.min_std": parameters["actor_min_std"],
        "critic.dist": "mse",
        "discount_lambda": parameters["discount_lambda"],
        "slow_target": bool(case.under("w/target_critic")),
        "slow_target_update": 1,
        "slow_target_fraction": 1,
    }
    features = case["in/feat"]
    actor_critic = make_actor_critic(case, config, features.shape[-1])
    trajectory = Trajectory(features, case["in/action"], case["in/reward"], case["in/discount"])
    torch.testing.assert_close(trajectory_weight(trajectory.discount), case["in/weight"])

    actor = actor_critic.actor_loss(trajectory, policy_steps=0)
    critic = actor_critic.critic_loss(trajectory, actor.target)
    policy = actor_critic.policy(features[:-2])
    case.check("out/actor_loss", actor.loss)
    case.check("out/actor_ent", actor.metrics["actor/entropy"])
    case.check("out/critic_loss", critic.loss)
    case.check("out/critic_mean", critic.metrics["critic/value"])
    case.check("out/policy_entropy", policy.entropy)
    case.check("out/policy_log_prob", policy.log_prob(trajectory.prev_action[1:-1]))
    case.check("out/slow_value", actor_critic.target_critic(features).mean)
    case.check("out/target", actor.target)
    for name, loss in {"actor": actor.loss, "critic": critic.loss}.items():
        actor_critic.zero_grad()
        loss.backward()
        network = getattr(actor_critic, name)
        case.check(f"grad/{name}_global_norm", global_norm(network))
        case.check_gradients(network, f"grad/w/{name}")


class Dream:
    """The imagination of file 09b and the networks behind it."""

    def __init__(
        self,
        case: Case,
        optimized: Callable[[torch.nn.Module], torch.nn.Module],
        *,
        overrides: dict[str, Any] | None = None,
        sample_gradient: str = "exact",
        is_terminal: bool = True,
    ):
        config = case.config | WITHOUT_REWARD_NORM | (overrides or {})
        latent = make_latent(section(config, "rssm"))
        start = our_state(latent, case, "in/start")
        # The file has no observations: only the width of their embedding matters.
        embed_size = case.array("w/rssm/obs_out/kernel").shape[0] - config["rssm.deter"]
        shapes: ObsShapes = {"none": (1,)}
        for part in ("encoder", "decoder"):
            config |= {f"{part}.mlp_keys": ".*", f"{part}.mlp_layers": [embed_size]}
        self.model = WorldModel(
            world_model_config(config, shapes, config["grad_heads"]),
            shapes,
            case.array("w/actor/out/out/kernel").shape[-1],
        )
        case.load(self.model.rssm, "w/rssm")
        case.load(self.model.heads["reward"], "w/reward")
        if "discount" in self.model.heads:
            case.load(self.model.heads["discount"], "w/discount")
        self.actor_critic = make_actor_critic(
            case, config, self.model.feature_size, sample_gradient=sample_gradient
        )
        start, policy = start.flatten_time(), self.actor_critic.act
        horizon = config["imag_horizon"]
        noise = {
            "action_noise": case["draw/action"],
            "state_noise": our_samples(latent, case["draw/state"]),
        }
        optimized(torch.nn.ModuleList([self.model, self.actor_critic]))
        terminal = case["in/is_terminal"].flatten() if is_terminal else None
        self.trajectory = self.model.imagine(start, terminal, policy, horizon, **noise)
        self.states = [start]
        steps = zip(self.trajectory.prev_action[1:], noise["state_noise"], strict=True)
        for prev_action, step_noise in steps:
            self.states.append(self.model.rssm.img_step(self.states[-1], prev_action, step_noise))
        self.actor = self.actor_critic.actor_loss(self.trajectory, policy_steps=0)
        self.critic = self.actor_critic.critic_loss(
            self.trajectory.detach(), self.actor.target.detach()
        )


@golden("09b_*", where=lambda case: not case.name, bf16=True)
def test_imagined_trajectory(case: Case, optimized):
    dream = Dream(case, optimized)
    trajectory = dream.trajectory
    states = RSSMState(*map(torch.stack, zip(*dream.states, strict=True)))
    case.check_all(
        "out",
        reference_state(dream.model.config.latent, states)
        | {
            "action": trajectory.prev_action,
            "feat": trajectory.features,
            "reward": trajectory.reward,
            "discount": trajectory.discount,
            "weight": trajectory_weight(trajectory.discount),
            "target": dream.actor.target,
            "critic_loss": dream.critic.loss,
        },
    )


@golden("09b_*", where=lambda case: "actor_grad" in case.parameters, bf16=True)
def test_actor_gradient_through_imagination(case: Case, optimized):
    overrides = {k: v for k, v in case.parameters.items() if k.startswith("actor_")}
    sample_gradient = case.parameters["truncated_normal_sample_gradient"] or "exact"
    dream = Dream(case, optimized, overrides=overrides, sample_gradient=sample_gradient)
    dream.actor.loss.backward()

    case.check("out/actor_loss", dream.actor.loss)
    case.check("out/actor_ent", dream.actor.metrics["actor/entropy"])
    case.check("grad/actor_global_norm", global_norm(dream.actor_critic.actor))
    case.check_gradients(dream.actor_critic.actor, "grad/w/actor")


@golden("09b_*", where=lambda case: "grad/critic_global_norm" in case.expected, bf16=True)
def test_critic_gradient_after_imagination(case: Case, optimized):
    dream = Dream(case, optimized)
    dream.critic.loss.backward()
    case.check("grad/critic_global_norm", global_norm(dream.actor_critic.critic))
    case.check_gradients(dream.actor_critic.critic, "grad/w/critic")


@golden("09b_*", where=lambda case: bool(case.name) and "out/weight" in case.expected, bf16=True)
def test_discount_without_terminal_flags(case: Case, optimized):
    discount = Dream(case, optimized, is_terminal=False).trajectory.discount
    case.check("out/discount", discount)
    case.check("out/weight", trajectory_weight(discount))


@golden("09c_*")
def test_slow_critic(case: Case):
    config = {
        **head(case, "critic"),
        **WITHOUT_REWARD_NORM,
        **{f"actor.{k}": v for k, v in {"layers": 1, "units": 1, "act": "elu"}.items()},
        "actor.norm": "none",
        "actor.dist": "onehot",
        "actor_grad": "auto",
        "actor_grad_mix": 0.0,
        "actor_ent": 0.0,
        "critic.dist": "mse",
        "discount_lambda": 1.0,
        "slow_target": True,
        "slow_target_update": case.parameters["slow_target_update"],
        "slow_target_fraction": case.parameters["slow_target_fraction"],
    }
    weights = case.under("w/critic")
    first = weights.get("dense0/kernel", weights["out/out/kernel"])
    actor_critic = ActorCritic(actor_critic_config(config), first.shape[0], ActionSpace(2, True))
    case.load(actor_critic.critic, "w/critic")
    case.load(actor_critic.target_critic, "w/target_critic")

    online, slow = case.under("in/critic"), []
    for update in range(case.parameters["calls"]):
        load_reference_weights(actor_critic.critic, {k: x[update] for k, x in online.items()})
        actor_critic.update_target_critic(update)
        ours = reference_parameters(actor_critic.target_critic)
        slow.append({k: torch.tensor(w.to_reference(w.parameter)) for k, w in ours.items()})
    case.check_all("out/target_critic", {k: torch.stack([s[k] for s in slow]) for k in slow[0]})


@golden("09d_*")
def test_stream_norm(case: Case):
    parameters = case.parameters
    config = RewardNormConfig(parameters["momentum"], parameters["scale"], parameters["eps"])
    norm = StreamNorm(config, tuple(parameters["shape"]))

    batches = case["in/batches"]
    normed, magnitudes = [], []
    for batch in batches:
        normed.append(norm(batch))
        magnitudes.append(norm.magnitude.clone())

    case.check("out/normed", torch.stack(normed))
    case.check("out/mag", torch.stack(magnitudes))
    columns = {
        "mean": [x.mean() for x in batches],
        "std": [x.std(correction=0) for x in batches],
        "normed_mean": [x.mean() for x in normed],
        "normed_std": [x.std(correction=0) for x in normed],
    }
    metrics = [torch.stack(columns[name]) for name in parameters["metrics"]]
    case.check("out/metrics", torch.stack(metrics, -1))
