import torch
from golden import Case, golden
from pydreamer import head_gradients, hidden_layers, load_head

from dreamer.models.actor import ActorConfig
from dreamer.models.actor_critic import ActorCritic, ActorCriticConfig, RewardNormConfig
from dreamer.models.heads import HeadConfig
from dreamer.models.returns import GAEReturns
from dreamer.types import ActionSpace, Trajectory

DISTRIBUTIONS = {  # PyDreamer's names: ours, and the minimum standard deviation
    "onehot": ("onehot", 0.0),
    "normal_tanh": ("normal_tanh", 0.01),
    "tanh_normal": ("tanh_normal_base_entropy", 0.1),
}


def head_config(case: Case, name: str) -> HeadConfig:
    """A critic's configuration, read from its weights."""
    weights = case.under(f"w/{name}")
    norm = "layer" if weights.keys() >= {"model/1/weight"} else "none"
    units = weights["model/0/weight"].shape[0]
    return HeadConfig(hidden_layers(weights), units, "elu", norm, "squared_error")


def make_actor_critic(case: Case) -> ActorCritic:
    parameters = case.parameters
    critic = head_config(case, "critic")
    layers = {k: v for k, v in vars(critic).items() if k != "distribution"}
    distribution, min_std = DISTRIBUTIONS[parameters["actor_dist"]]
    config = ActorCriticConfig(
        actor=ActorConfig(
            **layers,
            distribution=distribution,
            min_std=min_std,
            init_std=0.0,
            sample_gradient="exact",
            gradient=parameters["actor_grad"],
            gradient_mix=0.0,
            entropy_scale=parameters["entropy_weight"],
        ),
        critic=critic,
        reward_norm=RewardNormConfig(momentum=1.0, scale=1.0, epsilon=0.0),
        lambda_=parameters["lambda_gae"],
        entropy_in_target=False,
        slow_critic=True,
        slow_critic_updates=1,
        slow_critic_fraction=1.0,
        returns=GAEReturns(parameters["gamma"]),
    )
    space = ActionSpace(case.array("in/actions").shape[-1], parameters["actor_dist"] == "onehot")
    actor_critic = ActorCritic(config, case.array("in/features").shape[-1], space)
    load_head(actor_critic.actor, case.under("w/actor"))
    load_head(actor_critic.critic, case.under("w/critic"))
    load_head(actor_critic.target_critic, case.under("w/critic_target"))
    return actor_critic


@golden("20_*", where=lambda case: "lambda_gae" in case.parameters, bf16=True)
def test_losses_with_generalised_advantages(case: Case, optimized):
    actor_critic = make_actor_critic(case)
    optimized(actor_critic)
    actions = case["in/actions"]
    trajectory = Trajectory(
        features=case["in/features"],
        prev_action=torch.cat([torch.zeros_like(actions[:1]), actions]),
        reward=case["in/rewards"],
        discount=case.parameters["gamma"] * (1 - case["in/terminals"]),
    )
    actor = actor_critic.actor_loss(trajectory, policy_steps=0)
    critic = actor_critic.critic_loss(trajectory, actor.target.detach())
    torch.stack([actor.loss, critic.loss]).sum().backward()

    case.check("out/loss_actor", actor.loss)
    case.check("out/loss_critic", critic.loss)
    metrics = actor.metrics | critic.metrics
    names = {
        "loss_actor": "actor/loss",
        "loss_critic": "critic/loss",
        "policy_entropy": "actor/entropy",
        "policy_reward": "imagine/reward_after_start",
        "policy_reward_std": "imagine/reward_after_start_std",
        "policy_value": "critic/start_value",
        "policy_value_im": "critic/value",
    }
    case.check_all("out/metrics", {theirs: metrics[ours] for theirs, ours in names.items()})

    # One step ahead, the advantage is that of lambda 0.
    value = actor_critic.target_critic(trajectory.features).mean
    returns = actor_critic.config.returns
    given = trajectory.reward, value, trajectory.discount
    targets = returns.targets(*given, actor_critic.config.lambda_)
    tensors = {
        "value": actor_critic.critic(trajectory.features).mean,
        "value_advantage": returns.targets(*given, 0.0).advantage,
        "value_advantage_gae": targets.advantage,
        "value_target": targets.target,
        "value_weight": targets.weight,
    }
    case.check_all("out/tensors", tensors)
    for name in ("actor", "critic"):
        case.check_all(f"grad/{name}", head_gradients(getattr(actor_critic, name)))


@golden("20_*", where=lambda case: "target_interval" in case.parameters)
def test_target_critic_is_copied_before_its_use(case: Case):
    online, first = case["in/critic/weight"], case["in/critic_target/weight"]
    head = HeadConfig(0, 1, "elu", "none", "squared_error")
    config = ActorCriticConfig(
        actor=ActorConfig(0, 1, "elu", "none", "onehot", 0.1, 0.0, "exact", "auto", 0.0, 0.0),
        critic=head,
        reward_norm=RewardNormConfig(1.0, 1.0, 0.0),
        lambda_=1.0,
        entropy_in_target=False,
        slow_critic=True,
        slow_critic_updates=case.parameters["target_interval"],
        slow_critic_fraction=1.0,
        returns=GAEReturns(1.0),
    )
    actor_critic = ActorCritic(config, first.shape[-1], ActionSpace(2, True))
    slow, trained = actor_critic.target_critic.out.out.weight, actor_critic.critic.out.out.weight
    with torch.no_grad():
        slow.copy_(first)
    targets, update = [], 0
    for call in range(case.parameters["calls"]):
        with torch.no_grad():
            trained.copy_(online[call])
        if call not in case.parameters["log_only_calls"]:
            actor_critic.update_target_critic(update)
            update += 1
        targets.append(slow.detach().clone())
    case.check("out/critic_target/weight", torch.stack(targets))
