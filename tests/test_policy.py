"""Acting: chance, memory and its resets, and the difference between training and evaluation."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import (
    CHOICES,
    CONTINUOUS,
    DISCRETE,
    IMAGE,
    PLAN2EXPLORE,
    VECTORS,
    WORLD_MODEL,
    A,
    B,
    K,
    S,
    make_agent,
    make_obs,
)
from torch.testing import assert_close

from dreamer.models.inputs import EncoderConfig
from dreamer.policy import (
    DreamerPolicy,
    ExplorerThenActor,
    PolicyContext,
    PolicyNoise,
    RandomPolicy,
    SnapshotPolicy,
    choose_actor,
    choose_random,
)
from dreamer.types import ActionSpace, TimeStep

E = 8  # environments
OBS_SHAPES = IMAGE | VECTORS
spaces = pytest.mark.parametrize("action_space", [DISCRETE, CONTINUOUS], ids=["discrete", "contin"])


def make_step(is_first=False, seed: int = 0, count: int = E) -> TimeStep:
    torch.manual_seed(seed)
    obs = {k: x.numpy() for k, x in make_obs(OBS_SHAPES, count).items()}
    is_first = np.broadcast_to(is_first, count).copy()
    return TimeStep(obs, np.zeros(count, np.float32), is_first, *np.zeros((2, count), bool))


def make_policy(action_space=DISCRETE, **options) -> DreamerPolicy:
    agent = make_agent(action_space, obs_shapes=OBS_SHAPES)
    options = {"sample_actions": True} | options
    return DreamerPolicy(agent.world_model, agent.actor_critic, **options)


def tensors(step: TimeStep):
    return {k: torch.from_numpy(x) for k, x in step.obs.items()}, torch.from_numpy(step.is_first)


def noise(action: torch.Tensor | None = None) -> PolicyNoise:
    return PolicyNoise(torch.randn(E, S, K, generator=torch.Generator().manual_seed(0)), action)


def test_random_choices_are_one_hot_and_uniform():
    policy = RandomPolicy(ActionSpace(K, discrete=True), seed=0)
    action, state = policy(make_step(count=6000), None)
    assert state is None
    assert action.dtype == np.float32
    assert_close(np.sort(action, 1), np.eye(K, dtype=np.float32)[[K - 1] * 6000])
    assert_close(action.mean(0), np.full(K, 1 / K, np.float32), atol=0.02, rtol=0)


def test_random_choices_at_once_are_uniform_each_on_its_own():
    action, _ = RandomPolicy(ActionSpace(5, True, (3, 2)), seed=0)(make_step(count=6000), None)
    assert action.dtype == np.float32
    assert_close(action[:, :3].sum(1), np.ones(6000, np.float32))
    assert_close(action[:, 3:].sum(1), np.ones(6000, np.float32))
    expected = np.array([1 / 3, 1 / 3, 1 / 3, 1 / 2, 1 / 2], np.float32)
    assert_close(action.mean(0), expected, atol=0.02, rtol=0)
    assert np.mean(action[:, 0] * action[:, 3]) == pytest.approx(1 / 6, abs=0.02)


def test_random_numbers_are_uniform_between_minus_one_and_one():
    action, _ = RandomPolicy(ActionSpace(K, discrete=False), seed=0)(make_step(count=6000), None)
    assert action.shape == (6000, K)
    assert action.dtype == np.float32
    assert np.abs(action).max() <= 1
    assert_close(action.std(0), np.full(K, 3**-0.5, np.float32), atol=0.02, rtol=0)


def test_random_policy_repeats_with_its_seed():
    first, second, other = (
        RandomPolicy(CONTINUOUS, seed)(make_step(), None)[0] for seed in (1, 1, 2)
    )
    assert_close(first, second)
    assert (first != other).all()


@spaces
def test_policy_gives_one_action_for_every_environment(action_space):
    action, state = make_policy(action_space)(make_step(True), None)
    assert action.shape == (E, A)
    assert action.dtype == np.float32
    assert_close(action, state.action.numpy())
    assert not state.action.requires_grad
    if action_space.discrete:
        assert_close(np.sort(action, 1), np.eye(2, dtype=np.float32)[[1] * E])
    else:
        assert np.abs(action).max() < 1


@spaces
def test_training_samples_and_evaluation_takes_the_mode(action_space):
    obs, is_first = tensors(make_step(True))
    train, evaluate = (make_policy(action_space, sample_actions=x) for x in (True, False))
    fixed = [evaluate.act(obs, is_first, noise=noise()).action for _ in range(2)]
    drawn = [train.act(obs, is_first, noise=noise()).action for _ in range(2)]
    assert_close(fixed[0], fixed[1])
    assert not torch.equal(drawn[0], drawn[1])
    features = evaluate.act(obs, is_first, noise=noise()).latent.features
    assert_close(fixed[0], evaluate.actor_critic.policy(features).mode)


def test_evaluation_still_samples_the_latent_state():
    obs, is_first = tensors(make_step(True))
    policy = make_policy(sample_actions=False)
    assert not torch.equal(
        policy.act(obs, is_first).latent.stoch, policy.act(obs, is_first).latent.stoch
    )


def test_given_noise_decides_the_whole_step():
    obs, is_first = tensors(make_step(True))
    policy = make_policy()
    action_noise = policy.actor_critic.draw_noise((E,), torch.device("cpu"))
    first, second = (policy.act(obs, is_first, noise=noise(action_noise)) for _ in range(2))
    assert_close(tuple(first.latent), tuple(second.latent))
    assert_close(first.action, second.action)


def test_memory_carries_over_from_step_to_step():
    policy = make_policy()
    obs, is_first = tensors(make_step())
    past, other_past = (policy.act(*tensors(make_step(True, seed))) for seed in (1, 2))
    after = policy.act(obs, is_first, past, noise=noise()).latent.deter
    after_other = policy.act(obs, is_first, other_past, noise=noise()).latent.deter
    assert not torch.isclose(after, after_other).all(-1).any()

    acted_otherwise = past._replace(action=1 - past.action)
    changed = policy.act(obs, is_first, acted_otherwise, noise=noise()).latent.deter
    assert not torch.isclose(after, changed).all(-1).any()


def test_memory_starts_afresh_only_where_an_episode_does():
    policy = make_policy()
    past = policy.act(*tensors(make_step(True, seed=1)))
    obs, is_first = tensors(make_step(np.arange(E) == 4))
    mixed = policy.act(obs, is_first, past, noise=noise()).latent
    fresh = policy.act(obs, torch.ones(E, dtype=torch.bool), None, noise=noise()).latent
    going_on = policy.act(obs, torch.zeros(E, dtype=torch.bool), past, noise=noise()).latent
    for actual, start, later in zip(mixed, fresh, going_on, strict=True):
        assert_close(actual[4], start[4])
        assert_close(actual[:4], later[:4])
        assert_close(actual[5:], later[5:])
    assert not torch.equal(fresh.deter[4], going_on.deter[4])


def test_called_policy_starts_afresh_where_an_episode_does():
    policy = make_policy()
    _, past = policy(make_step(True, seed=1), None)
    step = make_step(np.arange(E) == 4)
    going_on, fresh = policy(step, past)[1].latent.deter, policy(step, None)[1].latent.deter
    equal = torch.isclose(going_on, fresh).all(-1)
    assert equal.tolist() == step.is_first.tolist()


def test_environments_do_not_see_each_other():
    policy = make_policy()
    obs, is_first = tensors(make_step(True))
    everyone = policy.act(obs, is_first, noise=noise()).latent.features
    some = {k: x[2 : 2 + B] for k, x in obs.items()}
    some_noise = PolicyNoise(noise().latent[2 : 2 + B])
    alone = policy.act(some, is_first[2 : 2 + B], noise=some_noise).latent.features
    assert_close(alone, everyone[2 : 2 + B])


def test_full_exploration_makes_choices_uniform():
    policy = make_policy(exploration_noise=1.0)
    for weight in policy.actor_critic.actor.out.parameters():
        torch.nn.init.zeros_(weight)
    with torch.no_grad():
        policy.actor_critic.actor.out.out.bias[0] = 50  # certain
    step = make_step(True)
    chosen = [policy(step, None)[0][:, 0].mean() for _ in range(100)]
    assert np.mean(chosen) == pytest.approx(0.5, abs=0.06)
    policy.exploration_noise = 0.0
    assert policy(step, None)[0][:, 0].all()


@pytest.mark.parametrize("exploration_noise", [0.0, 1.0])
def test_each_of_several_choices_is_made(exploration_noise):
    policy = make_policy(CHOICES, exploration_noise=exploration_noise)
    action, _ = policy(make_step(True), None)
    parts = np.split(action, np.cumsum(CHOICES.choices)[:-1], 1)
    for part, options in zip(parts, CHOICES.choices, strict=True):
        assert_close(np.sort(part, 1), np.eye(options, dtype=np.float32)[[options - 1] * E])


def test_exploration_of_numbers_stays_within_the_bounds():
    policy = make_policy(CONTINUOUS, exploration_noise=3.0)
    action, state = policy(make_step(True), None)
    assert np.abs(action).max() == 1
    assert_close(action, state.action.numpy())


def test_evaluation_does_not_explore():
    policy = make_policy(CONTINUOUS, sample_actions=False, exploration_noise=3.0)
    obs, is_first = tensors(make_step(True))
    first, second = (policy.act(obs, is_first, noise=noise()).action for _ in range(2))
    assert_close(first, second)


# ------------------------------------------------------------------------------- snapshots


def make_snapshot(action_space=DISCRETE, seed: int = 0, **options):
    agent = make_agent(action_space, obs_shapes=OBS_SHAPES)
    options = {"exploration_noise": 0.1} | options
    return agent, SnapshotPolicy(agent.world_model, agent.actor_critic, seed=seed, **options)


def features_of(policy) -> torch.Tensor:
    return policy.act(*tensors(make_step(True)), noise=noise()).latent.features


def test_a_snapshot_acts_with_the_weights_of_its_last_refresh():
    agent, policy = make_snapshot()
    live = DreamerPolicy(agent.world_model, agent.actor_critic, sample_actions=True)
    policy.refresh(0)
    before = features_of(policy)
    assert_close(before, features_of(live))
    with torch.no_grad():
        torch._foreach_add_(list(agent.parameters()), 0.1)
    assert_close(features_of(policy), before)
    policy.refresh(1)
    assert_close(features_of(policy), features_of(live))
    assert not torch.isclose(features_of(policy), before).all()


@spaces
def test_a_snapshot_copies_every_weight_it_acts_with_and_no_other(action_space):
    agent, policy = make_snapshot(action_space)
    live = {id(p) for p in agent.parameters()}
    acting = (policy.world_model.encoder, policy.world_model.rssm, policy.actor_critic.actor)
    assert not live & {id(p) for module in acting for p in module.parameters()}
    with torch.no_grad():
        torch._foreach_add_(list(agent.parameters()), 0.1)
    policy.refresh(0)
    copies = {**policy.world_model.state_dict(), **policy.actor_critic.state_dict()}
    learner = {**agent.world_model.state_dict(), **agent.actor_critic.state_dict()}
    assert_close(copies, learner, rtol=0, atol=0)
    assert policy.world_model.decoder is agent.world_model.decoder
    assert policy.actor_critic.critic is agent.actor_critic.critic


@spaces
def test_draws_of_a_snapshot_depend_on_seed_and_clock_and_on_nothing_else(action_space):
    def play(seed: int, policy_steps: int, torch_seed: int) -> np.ndarray:
        _, policy = make_snapshot(action_space, seed)
        policy.refresh(policy_steps)
        step = make_step(True)
        torch.manual_seed(torch_seed)
        global_state = torch.get_rng_state()
        action, state = policy(step, None)
        actions = [action, *(policy(step, state)[0] for _ in range(20))]
        assert torch.get_rng_state().equal(global_state), "the learner's draws were disturbed"
        return np.stack(actions)

    assert_close(play(0, 7, 1), play(0, 7, 2))
    assert (play(0, 7, 1) != play(1, 7, 1)).any()
    assert (play(0, 7, 1) != play(0, 8, 1)).any()


# -------------------------------------------------------------------- explorer, then actor


def make_both() -> list[DreamerPolicy]:
    """Policies of an explorer and of an actor with one world model."""
    agent = make_agent(obs_shapes=OBS_SHAPES, components={"explore": PLAN2EXPLORE})
    explorer = agent.components["explore"].actor_critic
    return [
        DreamerPolicy(agent.world_model, actor, sample_actions=True)
        for actor in (explorer, agent.actor_critic)
    ]


@pytest.mark.parametrize(
    ("until", "explores"),
    [(None, [True] * 4), (0, [False] * 4), (7, [True, True, False, False])],
)
def test_the_explorer_acts_until_its_step_and_then_the_actor(until, explores):
    policy = ExplorerThenActor(lambda *_: "explorer", lambda *_: "actor", until)
    acted = []
    for policy_steps in (0, 6, 7, 8):
        policy.choose(policy_steps)
        acted.append(policy(make_step(), None) == "explorer")
    assert acted == explores


def test_the_memory_survives_the_change_from_explorer_to_actor():
    explorer, actor = make_both()
    policy = ExplorerThenActor(explorer, actor, 1)
    policy.choose(0)
    _, state = policy(make_step(True), None)
    policy.choose(1)
    torch.manual_seed(3)
    action, after = policy(make_step(seed=2), state)
    torch.manual_seed(3)
    expected, remembered = actor(make_step(seed=2), state)
    assert_close(action, expected)
    assert_close(after.latent.deter, remembered.latent.deter)
    torch.manual_seed(3)
    assert not torch.isclose(
        actor(make_step(seed=2), None)[1].latent.deter, after.latent.deter
    ).all()


def make_policies(**changes) -> PolicyContext:
    explorer, actor = make_both()
    context = PolicyContext(
        actor=actor,
        random=RandomPolicy(DISCRETE, 0),
        explorer=explorer,
        explore_policy_steps=5,
        obs_shapes=OBS_SHAPES,
        action_space=DISCRETE,
        components={},
        seed=0,
    )
    return context._replace(**changes)


def test_the_explorer_collects_first_where_there_is_one(monkeypatch):
    context = make_policies()
    policy = choose_actor(context)
    assert isinstance(policy, ExplorerThenActor)
    acted = []
    for name in ("explorer", "actor"):
        networks = getattr(context, name).actor_critic
        compute = networks.policy
        monkeypatch.setattr(
            networks,
            "policy",
            lambda features, name=name, compute=compute: acted.append(name) or compute(features),
        )
    for policy_steps in (0, 4, 5, 6):
        policy.choose(policy_steps)
        policy(make_step(True), None)
    assert acted == ["explorer", "explorer", "actor", "actor"]
    assert choose_actor(context._replace(explorer=None)) is context.actor
    assert choose_random(context) is context.random


@pytest.mark.parametrize("shapes", [IMAGE, VECTORS], ids=["image", "vector"])
def test_with_reward_input_the_policy_reads_reward_and_terminal_of_the_step(shapes):
    encoder = EncoderConfig(**vars(WORLD_MODEL.encoder), reward_input=True)
    agent = make_agent(obs_shapes=shapes, world_model=replace(WORLD_MODEL, encoder=encoder))
    model = agent.world_model
    policy = DreamerPolicy(model, agent.actor_critic, sample_actions=False)
    torch.manual_seed(3)
    obs = {k: x.numpy() for k, x in make_obs(shapes, E).items()}
    reward = np.linspace(-1, 1, E, dtype=np.float32)
    is_terminal = np.arange(E) % 3 == 0
    first = np.ones(E, bool)

    def latent(reward, is_terminal):
        torch.manual_seed(0)
        step = TimeStep(obs, reward, first, is_terminal, is_terminal)
        return policy(step, None)[1].latent

    tensors = {k: torch.from_numpy(x) for k, x in obs.items()}
    embed = model.encode(tensors, torch.from_numpy(reward), torch.from_numpy(is_terminal))
    torch.manual_seed(0)
    expected = model.rssm.obs_step(
        model.rssm.initial(E), torch.zeros(E, A), embed, torch.from_numpy(first)
    )
    ours = latent(reward, is_terminal)
    assert_close(ours.stats, expected.stats)
    for other in (latent(reward + 1, is_terminal), latent(reward, ~is_terminal)):
        assert not torch.allclose(other.stats, ours.stats)
    snapshot = SnapshotPolicy(model, agent.actor_critic, exploration_noise=0.0, seed=0)
    snapshot.refresh(0)
    snapshot(TimeStep(obs, reward, first, is_terminal, is_terminal), None)
