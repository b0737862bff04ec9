"""The update as a whole, under a real Trainer: its order, its counters, whom each loss trains."""

import dataclasses
import pickle
import re

import pytest
import torch
from tiny import (
    ACTOR,
    ACTOR_CRITIC,
    AGENT,
    CATEGORICAL,
    CHOICES,
    CONTINUOUS,
    DISCRETE,
    GAUSSIAN,
    IMAGE,
    OPTIMIZER,
    VECTORS,
    WORLD_MODEL,
    B,
    H,
    N,
    S,
    T,
    fit,
    gradients_of,
    make_agent,
    make_batch,
    weights_of,
)
from torch.testing import assert_close

from dreamer.agent import DreamerAgent, NonFiniteError, UpdateNoise
from dreamer.types import RSSMState

spaces = pytest.mark.parametrize("action_space", [DISCRETE, CONTINUOUS], ids=["discrete", "contin"])
latents = pytest.mark.parametrize("latent", [CATEGORICAL, GAUSSIAN], ids=["categorical", "normal"])
modes = pytest.mark.parametrize("gradient", ["reinforce", "dynamics", "both"])


def agent_with(
    action_space=DISCRETE, latent=CATEGORICAL, gradient="auto", **options
) -> DreamerAgent:
    return make_agent(
        action_space,
        world_model=dataclasses.replace(WORLD_MODEL, latent=latent),
        actor_critic=dataclasses.replace(
            ACTOR_CRITIC, actor=dataclasses.replace(ACTOR, gradient=gradient)
        ),
        **options,
    )


def make_noise(agent: DreamerAgent) -> UpdateNoise:
    torch.manual_seed(4)
    latent = agent.config.world_model.latent
    return UpdateNoise(
        posterior=latent.draw_noise(torch.empty(T, B, S, latent.statistics)),
        action=agent.actor_critic.draw_noise((H, N), torch.device("cpu")),
        state=latent.draw_noise(torch.empty(H, N, S, latent.statistics)),
    )


def numbers(metrics: dict[str, torch.Tensor]) -> dict[str, float]:
    return {k: x.item() for k, x in metrics.items()}


@latents
@pytest.mark.parametrize(
    "action_space", [DISCRETE, CONTINUOUS, CHOICES], ids=["discrete", "contin", "choices"]
)
@modes
def test_every_combination_learns(latent, action_space, gradient):
    agent = agent_with(action_space, latent, gradient)
    before = weights_of(agent)
    (metrics,) = fit(agent, [make_batch(action_space)])
    assert all(x.isfinite() for x in metrics.values())
    assert ("actor/reinforce" in metrics) == (gradient != "dynamics")
    assert ("actor/dynamics" in metrics) == (gradient != "reinforce")
    after = weights_of(agent)
    unmoved = {k for k, x in before.items() if torch.equal(x, after[k])}
    assert unmoved == {"actor_critic.reward_norm.magnitude"}


@latents
@modes
def test_actor_and_critic_losses_leave_the_world_model_alone(latent, gradient, monkeypatch):
    agent = agent_with(CONTINUOUS, latent, gradient)
    gradients, weights = {}, {}
    step = agent._step

    def spy(name, loss):
        metrics = step(name, loss)
        gradients[name], weights[name] = gradients_of(agent), weights_of(agent)
        return metrics

    monkeypatch.setattr(agent, "_step", spy)
    fit(agent, [make_batch(CONTINUOUS)])
    # The world model keeps the gradients of its own loss, and nothing is added to them.
    for name, trained in [("actor", "actor_critic.actor"), ("critic", "actor_critic.critic")]:
        assert any(k.startswith(trained) for k in gradients[name])
        for key, gradient in gradients["world_model"].items():
            assert_close(gradients[name][key], gradient, rtol=0, atol=0)
    changed = {
        name: {k for k, x in weights[name].items() if not torch.equal(x, weights[before][k])}
        for name, before in [("actor", "world_model"), ("critic", "actor")]
    }
    assert all(k.startswith("actor_critic.actor.") for k in changed["actor"])
    assert all(k.startswith("actor_critic.critic.") for k in changed["critic"])
    assert not any("target_critic" in k for k in gradients["critic"])
    assert all(p.requires_grad for p in agent.world_model.parameters())


@latents
@spaces
def test_dynamics_train_the_actor_through_the_dream_alone(latent, action_space):
    actor = dataclasses.replace(ACTOR, gradient="dynamics", entropy_scale=0.0)
    agent = make_agent(
        action_space,
        world_model=dataclasses.replace(WORLD_MODEL, latent=latent),
        actor_critic=dataclasses.replace(ACTOR_CRITIC, actor=actor),
    )
    (metrics,) = fit(agent, [make_batch(action_space)])
    assert metrics["grad_norm/actor"] > 1e-6


@modes
def test_dream_and_targets_have_a_graph_only_where_gradients_go_through_them(gradient, monkeypatch):
    agent = agent_with(gradient=gradient)
    actor_loss, seen = agent.actor_critic.actor_loss, []

    def spy(trajectory, policy_steps):
        output = actor_loss(trajectory, policy_steps)
        seen.extend([trajectory.features.requires_grad, output.target.requires_grad])
        return output

    monkeypatch.setattr(agent.actor_critic, "actor_loss", spy)
    fit(agent, [make_batch()])
    assert seen == [gradient != "reinforce"] * 2


def test_update_goes_model_dream_actor_critic_slow_critic(monkeypatch):
    agent = agent_with()
    model, actor_critic = agent.world_model, agent.actor_critic
    initial = weights_of(agent)
    order = []

    def spy(owner, name):
        original = getattr(owner, name)

        def call(*args, **kwargs):
            now = weights_of(agent)
            moved = {k for k, x in now.items() if not torch.equal(x, initial[k])}
            parts = ["world_model.", "actor_critic.actor.", "actor_critic.critic."]
            parts.append("actor_critic.target_critic.")
            order.append((name, [p for p in parts if any(k.startswith(p) for k in moved)]))
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, call)

    spy(model, "loss")
    spy(model, "imagine")
    spy(actor_critic, "actor_loss")
    spy(actor_critic, "critic_loss")
    spy(actor_critic, "update_target_critic")
    fit(agent, [make_batch()])
    updated_model = ["world_model."]
    updated_actor = [*updated_model, "actor_critic.actor."]
    assert order == [
        ("loss", []),
        ("imagine", updated_model),
        ("actor_loss", updated_model),
        ("critic_loss", updated_actor),
        ("update_target_critic", [*updated_actor, "actor_critic.critic."]),
    ]
    # It copies the critic that has just learned; the targets came from the one before.
    assert_close(weights_of(actor_critic.target_critic), weights_of(actor_critic.critic))


def test_dreams_start_from_the_posteriors_of_the_models_own_loss():
    agent, batch = agent_with(), make_batch()
    noise = make_noise(agent)
    with torch.no_grad():
        expected = agent.world_model.loss(batch, None, noise.posterior).posterior.flatten_time()
    starts = []
    imagine = agent.world_model.imagine

    def spy(start, is_terminal, *args, **kwargs):
        starts.append((start, is_terminal))
        return imagine(start, is_terminal, *args, **kwargs)

    agent.world_model.imagine = spy
    fit(agent, [batch], lambda batch: agent.update(batch, noise=noise)[1])
    ((start, is_terminal),) = starts
    assert_close(tuple(start), tuple(expected))
    assert not any(x.requires_grad for x in start)
    assert is_terminal.nonzero().tolist() == [[3 * B + 2]]


def test_update_returns_the_last_posterior_and_goes_on_from_a_given_state():
    agent, batch = agent_with(), make_batch()
    batch = batch._replace(is_first=torch.zeros_like(batch.is_first))
    noise = make_noise(agent)
    start = RSSMState(*(torch.randn_like(x) for x in agent.world_model.rssm.initial(B)))
    with torch.no_grad():
        expected = agent.world_model.loss(batch, start, noise.posterior).posterior.at(-1)
        fresh = agent.world_model.loss(batch, None, noise.posterior).posterior.at(-1)
    states = []

    def step(batch):
        state, metrics = agent.update(batch, start, noise)
        states.append(state)
        return metrics

    fit(agent, [batch], step)
    assert_close(tuple(states[0]), tuple(expected))
    assert not torch.equal(expected.deter, fresh.deter)


def test_gradients_do_not_add_up_from_update_to_update():
    still = dataclasses.replace(OPTIMIZER, learning_rate=1e-12, weight_decay=0.0)
    config = dataclasses.replace(
        AGENT,
        actor_critic=dataclasses.replace(ACTOR_CRITIC, slow_critic=False),
        world_model_optimizer=still,
        actor_optimizer=still,
        critic_optimizer=still,
    )
    torch.manual_seed(0)
    agent = DreamerAgent(config, VECTORS, DISCRETE)
    batch, noise = make_batch(), make_noise(agent)
    first, second = fit(agent, [batch, batch], lambda batch: agent.update(batch, noise=noise)[1])
    assert numbers(second) == pytest.approx(numbers(first), rel=1e-4)


def test_counters_count_updates_and_survive_a_checkpoint():
    agent = agent_with()
    agent.frames, agent.policy_steps = 300_000_001, 75_000_000
    fit(agent, [make_batch(), make_batch(seed=1)])
    assert agent.updates == 2
    checkpoint = {}
    agent.on_save_checkpoint(checkpoint)
    other = agent_with()
    other.on_load_checkpoint(checkpoint)
    assert (other.frames, other.policy_steps, other.updates) == (300_000_001, 75_000_000, 2)


def test_policy_steps_drive_the_schedules():
    actor = dataclasses.replace(ACTOR, entropy_scale="linear(1,0,100)")
    agent = make_agent(actor_critic=dataclasses.replace(ACTOR_CRITIC, actor=actor))
    agent.policy_steps = 75
    (metrics,) = fit(agent, [make_batch()])
    assert_close(metrics["actor/entropy_scale"].item(), 0.25)


RATE, KL = "linear(2e-3,4e-3,100)", "linear(1,3,100)"


def scheduled_agent(rate: str | float, kl: str | float) -> DreamerAgent:
    optimizer = dataclasses.replace(OPTIMIZER, learning_rate=rate)
    names = ("world_model_optimizer", "actor_optimizer", "critic_optimizer")
    model = dataclasses.replace(WORLD_MODEL, loss_scales={"kl": kl})
    return make_agent(world_model=model, **dict.fromkeys(names, optimizer))


def test_scheduled_rates_and_kl_scale_learn_like_their_values_at_that_time():
    batches, agents, metrics = [make_batch(), make_batch(seed=1)], [], []
    for agent in (scheduled_agent(RATE, KL), scheduled_agent(3e-3, 2.0)):
        agent.policy_steps = 50
        torch.manual_seed(2)
        metrics.append([numbers(m) for m in fit(agent, batches)][-1])
        agents.append(weights_of(agent))
    assert_close(*agents, rtol=1e-5, atol=1e-6)
    added = {k: metrics[0][k] for k in metrics[0].keys() - metrics[1].keys()}
    rates = {f"learning_rate/{name}": 3e-3 for name in ("world_model", "actor", "critic")}
    assert added == pytest.approx(rates | {"world_model/kl_scale": 2.0})


def test_scheduled_rates_and_kl_scale_follow_the_policy_steps():
    agent = scheduled_agent(RATE, KL)

    def advance(batch):
        agent.policy_steps += 25
        return DreamerAgent.training_step(agent, batch, 0)

    metrics = fit(agent, [make_batch()] * 3, advance)
    rates = [m["learning_rate/actor"].item() for m in metrics]
    assert rates == pytest.approx([2.5e-3, 3e-3, 3.5e-3])
    assert [m["world_model/kl_scale"].item() for m in metrics] == pytest.approx([1.5, 2, 2.5])


def test_same_seed_gives_the_same_losses_twice():
    batches = [make_batch(), make_batch(seed=1)]

    def losses(seed):
        agent = agent_with(latent=GAUSSIAN)
        torch.manual_seed(seed)
        return [numbers(m) for m in fit(agent, batches)]

    assert losses(5) == losses(5)
    assert losses(5) != losses(6)


def test_metrics_have_no_graph():
    (metrics,) = fit(agent_with(gradient="both"), [make_batch()])
    assert not any(x.requires_grad for x in metrics.values())
    assert all(x.shape == () for x in metrics.values())


def test_pixels_are_learned_from_as_well():
    agent = agent_with(obs_shapes=IMAGE | VECTORS)
    (metrics,) = fit(agent, [make_batch(obs_shapes=IMAGE | VECTORS)])
    assert metrics["observations/image_nll"].isfinite()


@pytest.mark.parametrize(
    ("name", "poison"),
    [
        ("world_model", "world_model.heads.reward.out.out.bias"),
        ("actor", "actor_critic.target_critic.out.out.bias"),
        ("critic", "actor_critic.critic.out.out.bias"),
    ],
)
def test_non_finite_loss_names_itself_and_leaves_its_weights(name, poison):
    agent = agent_with()
    agent.frames, agent.updates = 1234, 56
    agent.get_parameter(poison).data.fill_(torch.nan)
    network = agent.world_model if name == "world_model" else getattr(agent.actor_critic, name)
    before = weights_of(network)
    message = f"The {name} loss or its gradient is not finite in update 56, frame 1234. Its weights"
    with pytest.raises(NonFiniteError, match=message):
        fit(agent, [make_batch()])
    for key, weight in weights_of(network).items():
        assert torch.equal(weight.nan_to_num(), before[key].nan_to_num())


def test_reward_that_is_not_a_number_stops_the_run_before_any_weight_moves():
    agent, batch = agent_with(), make_batch()
    before = weights_of(agent)
    batch.reward[2, 1] = torch.nan
    with pytest.raises(NonFiniteError, match="The world_model loss or its gradient is not"):
        fit(agent, [batch])
    assert_close(weights_of(agent), before, rtol=0, atol=0)


def test_horizon_below_two_is_refused():
    with pytest.raises(ValueError, match=re.escape("`horizon` must be at least 2, got 1")):
        dataclasses.replace(AGENT, horizon=1)


def test_shortest_horizon_learns():
    torch.manual_seed(0)
    agent = DreamerAgent(dataclasses.replace(AGENT, horizon=2), VECTORS, DISCRETE)
    (metrics,) = fit(agent, [make_batch()])
    assert all(x.isfinite() for x in metrics.values())


def test_every_parameter_has_one_optimizer_except_the_slow_critic():
    agent = agent_with()
    groups = [optimizer.param_groups[0]["params"] for optimizer in agent.configure_optimizers()]
    optimized = [id(p) for group in groups for p in group]
    slow = {id(p) for p in agent.actor_critic.target_critic.parameters()}
    assert len(optimized) == len(set(optimized))
    assert set(optimized) | slow == {id(p) for p in agent.parameters()}
    assert not slow & set(optimized)


def update_with(noise: UpdateNoise, latent, **options):
    """Losses, gradient norms and the last posterior of one update with given noise."""
    agent = agent_with(CONTINUOUS, latent, "both", obs_shapes=IMAGE | VECTORS)
    states = []

    def step(batch):
        moved = UpdateNoise(*(x.to(agent.device) for x in noise))
        state, metrics = agent.update(batch, noise=moved)
        states.append(state)
        return metrics

    (metrics,) = fit(agent, [make_batch(CONTINUOUS, IMAGE | VECTORS)], step, **options)
    return numbers(metrics), states[0], weights_of(agent.cpu())


def noise_for(latent) -> UpdateNoise:
    return make_noise(agent_with(CONTINUOUS, latent, "both"))


def test_bf16_gives_the_losses_of_float32_within_two_percent_and_float32_statistics():
    noise = noise_for(GAUSSIAN)
    full, *_ = update_with(noise, GAUSSIAN)
    half, state, weights = update_with(noise, GAUSSIAN, precision="bf16-mixed")
    for key in [k for k in full if k.endswith(("loss", "nll", "kl", "entropy"))]:
        assert half[key] == pytest.approx(full[key], rel=0.02, abs=0.01), key
    assert half != full
    assert {x.dtype for x in state} == {x.dtype for x in weights.values()} == {torch.float32}


@modes
def test_bf16_dreams_with_the_weights_just_updated(gradient):
    noise, rewards = noise_for(CATEGORICAL), {}
    for precision, rate in (("32-true", 0.1), ("bf16-mixed", 0.1), ("32-true", 1e-3)):
        agent = agent_with(CONTINUOUS, gradient=gradient)
        optimizer = dataclasses.replace(OPTIMIZER, learning_rate=rate)
        agent.config = dataclasses.replace(agent.config, world_model_optimizer=optimizer)
        (metrics,) = fit(
            agent,
            [make_batch(CONTINUOUS)],
            lambda batch, agent=agent: agent.update(batch, noise=noise)[1],
            precision=precision,
        )
        rewards[precision, rate] = metrics["imagine/reward"].item()
    full, half, slow = rewards.values()
    assert half == pytest.approx(full, rel=0.05)
    assert slow != pytest.approx(full, rel=0.5)


@latents
@modes
def test_bf16_gives_every_parameter_the_gradient_of_float32(latent, gradient):
    noise, gradients = noise_for(latent), []
    for precision in ("32-true", "bf16-mixed"):
        agent = agent_with(CONTINUOUS, latent, gradient, obs_shapes=IMAGE | VECTORS)
        fit(
            agent,
            [make_batch(CONTINUOUS, IMAGE | VECTORS)],
            lambda batch, agent=agent: agent.update(batch, noise=noise)[1],
            precision=precision,
        )
        gradients.append(gradients_of(agent))
    full, half = gradients
    assert half.keys() == full.keys() == {k for k in full if "target_critic" not in k}
    cosines = {
        k: torch.cosine_similarity(x.flatten(), half[k].flatten(), dim=0).item()
        for k, x in full.items()
        if x.any()
    }
    assert {k: x for k, x in cosines.items() if not x > 0.98} == {}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@latents
def test_cuda_agrees_with_the_cpu_given_the_same_noise(latent, monkeypatch):
    # Tensor cores would round the convolutions to 10 bits.
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    noise = noise_for(latent)
    expected, state, weights = update_with(noise, latent)
    actual, cuda_state, cuda_weights = update_with(noise, latent, accelerator="cuda", devices=1)
    assert {x.device.type for x in cuda_state} == {"cuda"}
    assert actual == pytest.approx(expected, rel=1e-3, abs=1e-4)
    assert_close(tuple(x.cpu() for x in cuda_state), tuple(state), rtol=1e-3, atol=1e-4)
    # The first step of Adam is as long as the learning rate, whatever the gradient's length:
    # an entry of almost no gradient may go either way.
    assert_close(cuda_weights, weights, rtol=0, atol=2.1e-3)


def test_a_loss_that_is_not_finite_stops_the_run_though_its_gradient_is(monkeypatch):
    agent = agent_with()
    loss = agent.world_model.loss
    monkeypatch.setattr(
        agent.world_model,
        "loss",
        lambda *args: (out := loss(*args))._replace(loss=out.loss + torch.tensor(torch.nan)),
    )
    before = weights_of(agent)
    with pytest.raises(NonFiniteError, match="The world_model loss or its gradient is not finite"):
        fit(agent, [make_batch()])
    assert_close(weights_of(agent), before, rtol=0, atol=0)


def test_weights_that_a_user_freezes_stay_frozen_and_the_others_learn():
    agent = agent_with(gradient="both")
    frozen = agent.actor_critic.critic.out

    def step(batch):
        frozen.requires_grad_(False)  # after the optimisers were made
        agent.world_model.encoder.requires_grad_(False)
        return type(agent).training_step(agent, batch, 0)

    before = weights_of(agent)
    fit(agent, [make_batch(), make_batch(seed=1)], step)
    after = weights_of(agent)
    assert not any(p.requires_grad for p in frozen.parameters())
    moved = {k for k, x in before.items() if (x - after[k]).abs().max() > 1e-4}
    assert any(k.startswith("actor_critic.critic.trunk") for k in moved)
    assert any(k.startswith("world_model.rssm") for k in moved)
    assert not any(k.startswith(("actor_critic.critic.out", "world_model.encoder")) for k in moved)


def test_agent_survives_pickling():
    agent = make_agent(obs_shapes=VECTORS)
    copy = pickle.loads(pickle.dumps(agent))
    assert_close(copy.state_dict(), agent.state_dict(), rtol=0, atol=0)
    assert copy.actor_critic.entropy_scale(3) == agent.actor_critic.entropy_scale(3)
