import torch
from golden import Case, golden
from networks import (
    actor_critic_config,
    our_obs,
    our_samples,
    reference_state,
    world_model_config,
)

from dreamer.models.actor_critic import ActorCritic
from dreamer.models.world_model import WorldModel
from dreamer.policy import DreamerPolicy, PolicyNoise
from dreamer.types import ActionSpace


@golden("15_*", bf16=True)
def test_policy(case: Case):
    obs, is_first = our_obs(case.under("in")), case["in/is_first"]
    weights = case.under("w")
    action_space = ActionSpace(
        weights["actor/out/out/kernel"].shape[-1], "actor/out/std/kernel" not in weights
    )
    shapes = {k: tuple(x.shape[2:]) for k, x in obs.items()}
    config = world_model_config(case.config, shapes, case.config["grad_heads"])
    model = WorldModel(config, shapes, action_space.size)
    actor_critic = ActorCritic(actor_critic_config(case.config), model.feature_size, action_space)
    case.load(model.encoder, "w/encoder")
    case.load(model.rssm, "w/rssm")
    case.load(actor_critic.actor, "w/actor")

    samples_actions = "action" in case.parameters["draw_order"]
    policy = DreamerPolicy(model, actor_critic, sample_actions=samples_actions)
    latent_noise = our_samples(config.latent, case["draw/post"])
    memory, results = None, []
    for t in range(len(is_first)):
        noise = PolicyNoise(latent_noise[t], case["draw/action"][t] if samples_actions else None)
        with torch.no_grad():
            memory = policy.act({k: x[t] for k, x in obs.items()}, is_first[t], memory, noise)
        results.append(reference_state(config.latent, memory.latent) | {"action": memory.action})
    case.check_all("out", {k: torch.stack([r[k] for r in results]) for k in results[0]})
