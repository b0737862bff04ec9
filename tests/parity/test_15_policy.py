import pytest
import torch
from golden import Case, every, golden
from networks import (
    actor_critic_config,
    our_obs,
    our_samples,
    reference_state,
    world_model_config,
)

from dreamer.models.actor_critic import ActorCritic
from dreamer.models.world_model import WorldModel
from dreamer.policy import DreamerPolicy, MemoryState, TensorFunction
from dreamer.trace import Traced
from dreamer.types import ActionSpace, RSSMState

pytestmark = pytest.mark.usefixtures("products", "traced_at_once")


@pytest.fixture
def traced_at_once(monkeypatch) -> None:
    monkeypatch.setattr("dreamer.trace.CALLS", 0)


@golden("15_*", bf16=every)
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
    action_noise = case["draw/action"] if samples_actions else is_first  # which is not looked at
    latent_noise = our_samples(config.latent, case["draw/post"])

    def act(is_first, action, deter, stoch, stats, latent_noise, action_noise, *images):
        memory = policy.act(
            dict(zip(obs, images, strict=True)),
            is_first,
            MemoryState(RSSMState(deter, stoch, stats), action),
            latent_noise=latent_noise,
            action_noise=action_noise if samples_actions else None,
        )
        return [memory.action, *memory.latent]

    steps: list[TensorFunction] = [act]
    if not torch.is_autocast_enabled("cpu"):  # as runs act
        steps.append(Traced(act, [model, actor_critic]))
    for step in steps:
        memory, results = policy._initial(is_first.shape[1]), []
        for t in range(len(is_first)):
            noise, images = (latent_noise[t], action_noise[t]), (x[t] for x in obs.values())
            with torch.no_grad():
                action, *latent = step(is_first[t], memory.action, *memory.latent, *noise, *images)
            memory = MemoryState(RSSMState(*latent), action)
            latent = reference_state(config.latent, memory.latent)
            results.append(latent | {"action": memory.action})
        case.check_all("out", {k: torch.stack([r[k] for r in results]) for k in results[0]})
        assert not isinstance(step, Traced) or step.is_traced
