"""A trained agent in NumPy: acting, dreaming, encoding; single or batched."""

import dataclasses

import numpy as np
import pytest
import tiny
import torch
from tiny import CONTINUOUS, DISCRETE, IMAGE, VECTORS, A, B, H, T

import dreamer
from dreamer.envs.codecs import NativeCodec
from dreamer.inference import TrainedAgent
from dreamer.models.decoders import DecoderConfig
from dreamer.models.inputs import EncoderConfig
from dreamer.types import TimeStep

F = 4 * 6 + 16


def trained(action_space=DISCRETE, obs_shapes=VECTORS, *, sample_actions=False) -> TrainedAgent:
    networks = tiny.make_agent(action_space, obs_shapes=obs_shapes)
    return TrainedAgent(
        networks, NativeCodec(obs_shapes, action_space), sample_actions=sample_actions
    )


def observed(obs_shapes, *leading) -> dict[str, np.ndarray]:
    torch.manual_seed(1)
    return {k: x.numpy() for k, x in tiny.make_obs(obs_shapes, *leading).items()}


def at(obs, index):
    return {key: x[index] for key, x in obs.items()}


def actions_of(action_space, *leading):
    rng = np.random.default_rng(2)
    if action_space.discrete:
        return rng.integers(A, size=leading)
    return rng.uniform(-1, 1, (*leading, A)).astype(np.float32)


# -------------------------------------------------------------------------------------- policy


def test_a_choice_is_a_number_of_python_or_an_array_of_them():
    agent = trained()
    single, _ = agent.policy(observed(VECTORS))
    assert type(single) is int and single in range(A)
    batched, _ = agent.policy(observed(VECTORS, B))
    assert batched.shape == (B,) and batched.dtype.kind == "i"


def test_continuous_actions_are_arrays_in_the_bounds():
    agent = trained(CONTINUOUS, sample_actions=True)
    single, _ = agent.policy(observed(VECTORS))
    batched, _ = agent.policy(observed(VECTORS, B))
    assert single.shape == (A,) and batched.shape == (B, A)
    assert np.abs(batched).max() <= 1


def test_only_a_loaded_agent_knows_its_environment():
    with pytest.raises(ValueError, match="must come from `dreamer.load`"):
        trained().make_env()


def test_a_bare_array_is_the_only_observation():
    agent, obs = trained(obs_shapes=IMAGE), observed(IMAGE, B)
    actions = []
    for given in (obs, obs["image"]):
        torch.manual_seed(0)
        actions.append(agent.policy(given)[0])
    np.testing.assert_array_equal(*actions)


def test_the_policy_is_that_of_an_evaluation_step_by_step():
    agent, obs = trained(CONTINUOUS), observed(VECTORS, T, B)
    nothing, state, memory = np.zeros(B, bool), None, None
    for t in range(T):
        step = TimeStep(at(obs, t), nothing, np.full(B, t == 0), nothing, nothing)
        torch.manual_seed(t)
        expected, memory = agent.step_policy(step, memory)
        torch.manual_seed(t)
        action, state = agent.policy(at(obs, t), state)
        np.testing.assert_array_equal(action, expected)


def test_a_state_is_remembered_and_an_episode_begins_without():
    agent, obs = trained(CONTINUOUS), observed(VECTORS, 2, B)
    _, state = agent.policy(at(obs, 0))

    def second(state, **options):
        torch.manual_seed(5)
        return agent.policy(at(obs, 1), state, **options)[0]

    went_on, began = second(state), second(None)
    assert (went_on != began).all()
    restarted = second(state, is_first=np.array([False, True, False]))
    np.testing.assert_allclose(restarted, np.where([[0], [1], [0]], began, went_on), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda o: o["angle"], r"must be a dictionary with \['angle', 'speed'\].* ndarray"),
        (lambda o: {"angle": o["angle"]}, r"Observations must be .*, missing: {'speed'}"),
        (lambda o: o | {"angle": o["angle"][..., 1:]}, r"`angle` must have shape .* got \(3, 8\)"),
        (lambda o: o | {"angle": o["angle"][0]}, r"same leading axes, got {'angle': \(\)"),
        (lambda o: o | {"speed": o["speed"] * np.nan}, r"`speed` must hold finite numbers"),
        (lambda o: at(observed(VECTORS, T, B), slice(None)), r"\(B, ...\), got \(7, 3\)"),
    ],
)
def test_observations_of_something_else_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        trained().policy(change(observed(VECTORS, B)))


def test_floating_point_images_are_refused():
    image = observed(IMAGE)["image"] / 255
    with pytest.raises(ValueError, match="Image `image` must be uint8, got float64"):
        trained(obs_shapes=IMAGE).policy(image)


def test_a_state_or_flags_of_another_count_are_refused():
    agent, obs = trained(), observed(VECTORS, B)
    _, state = agent.policy(at(obs, 0))
    with pytest.raises(
        ValueError, match=r"`state` must be of 3 environments, .* got 1\. Pass None"
    ):
        agent.policy(obs, state)
    with pytest.raises(ValueError, match=r"`is_first` must have shape \(3,\), got \(2,\)"):
        agent.policy(obs, is_first=[True, False])


# -------------------------------------------------------------------------------------- encode


@pytest.mark.parametrize("action_space", [DISCRETE, CONTINUOUS])
def test_features_are_those_of_the_policy(action_space):
    agent, obs = trained(action_space), observed(VECTORS, T, B)
    actions = actions_of(action_space, T - 1, B)
    torch.manual_seed(3)
    features = agent.encode(obs, actions)
    assert features.shape == (T, B, F) and features.dtype == np.float32
    np.testing.assert_array_equal(features[..., : 4 * 6].reshape(T, B, 4, 6).sum(-1), 1)
    model = agent.networks.world_model
    prev = np.concatenate([np.zeros((1, B, A)), agent.codec.encode_actions(actions)])
    torch.manual_seed(3)
    with torch.no_grad():
        expected = model.rssm.observe(
            model.encoder({k: torch.tensor(x) for k, x in obs.items()}),
            torch.tensor(prev, dtype=torch.float32),
            torch.arange(T).expand(B, T).T == 0,
        )
    np.testing.assert_array_equal(features, expected.features)


def test_one_sequence_has_no_batch_axis():
    agent, obs = trained(), observed(VECTORS, T)
    assert agent.encode(obs, actions_of(DISCRETE, T - 1)).shape == (T, F)
    assert agent.encode(at(obs, slice(1)), []).shape == (1, F)


def test_the_action_at_the_last_observation_does_not_matter():
    agent, obs, actions = trained(), observed(VECTORS, T), actions_of(DISCRETE, T)
    torch.manual_seed(0)
    with_it = agent.encode(obs, actions)
    torch.manual_seed(0)
    np.testing.assert_array_equal(with_it, agent.encode(obs, actions[:-1]))


def test_an_episode_that_begins_within_forgets_what_was_before():
    agent, obs, actions = trained(), observed(VECTORS, T), actions_of(DISCRETE, T - 1)
    other = {key: np.concatenate([-5 * x[:2], x[2:]]) for key, x in obs.items()}
    is_first = np.arange(T) == 2
    features = []
    for sequence in (obs, other):
        torch.manual_seed(0)
        features.append(agent.encode(sequence, actions, is_first=is_first))
    assert (features[0][:2] != features[1][:2]).any()
    np.testing.assert_array_equal(features[0][2:], features[1][2:])


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (np.zeros(T - 2, int), r"`actions` must be 6 to 7 for 7 observations, got \(5,\)"),
        (np.zeros((T, B), int), r"`actions` must be 6 to 7 for 7 observations, got \(7, 3\)"),
        (np.full(T, A), r"whole numbers below 2, got \[2, 2"),
        (np.zeros(T), r"whole numbers below 2, got \[0\.0"),
    ],
)
def test_actions_that_do_not_fit_are_refused(actions, message):
    with pytest.raises(ValueError, match=message):
        trained().encode(observed(VECTORS, T), actions)


# ------------------------------------------------------------------------------------- imagine


def test_a_dream_has_everything_in_its_shape():
    obs_shapes = IMAGE | VECTORS
    agent = trained(CONTINUOUS, obs_shapes, sample_actions=True)
    dream = agent.imagine(observed(obs_shapes, T, B), actions_of(CONTINUOUS, T - 1, B), H)
    assert dream.observations["image"].shape == (H, B, 1, 64, 64)
    assert dream.observations["image"].dtype == np.uint8
    assert dream.observations["angle"].shape == (H, B, 9)
    assert dream.actions.shape == (H, B, A)
    assert dream.rewards.shape == dream.discounts.shape == (H, B)
    assert dream.features.shape == (H, B, F)
    assert ((dream.discounts >= 0) & (dream.discounts <= 1)).all()


def test_one_dream_has_no_batch_axis():
    dream = trained().imagine(observed(VECTORS, T), actions_of(DISCRETE, T - 1), H)
    assert dream.observations["speed"].shape == (H, 1)
    assert dream.rewards.shape == dream.actions.shape == (H,)
    assert dream.actions.dtype.kind == "i"


def test_given_actions_are_dreamt_with_and_then_the_actor_chooses():
    agent, obs = trained(CONTINUOUS), observed(VECTORS, T, B)
    actions = actions_of(CONTINUOUS, T - 1 + 2, B)
    torch.manual_seed(0)
    dream = agent.imagine(obs, actions, H)
    np.testing.assert_array_equal(dream.actions[:2], actions[-2:])
    features = torch.tensor(dream.features[1:-1])  # the actor chose in the state before
    with torch.no_grad():
        chosen = agent.networks.actor_critic.policy(features).mode
    np.testing.assert_allclose(dream.actions[2:], chosen, atol=1e-6)


def test_a_dream_goes_on_from_the_context_step_by_step():
    agent, obs = trained(), observed(VECTORS, T, B)
    actions = actions_of(DISCRETE, T - 1 + H, B)
    torch.manual_seed(0)
    dream = agent.imagine(obs, actions, H)
    model = agent.networks.world_model
    torch.manual_seed(0)
    context = torch.tensor(agent.encode(obs, actions[:T]))[-1]
    deter = context[:, 4 * 6 :]
    state = model.rssm.initial(B)._replace(
        deter=deter, stoch=context[:, : 4 * 6].unflatten(-1, (4, 6))
    )
    first = torch.tensor(agent.codec.encode_actions(actions)[T - 1])
    with torch.no_grad():
        expected = model.rssm.img_step(state, first).deter
        rewards = model.heads["reward"](torch.tensor(dream.features)).mean
        speeds = model.decoder(torch.tensor(dream.features))["speed"].mode
    np.testing.assert_allclose(dream.features[0, :, 4 * 6 :], expected, atol=1e-6)
    np.testing.assert_allclose(dream.rewards, rewards, atol=1e-6)
    np.testing.assert_allclose(dream.observations["speed"], speeds, atol=1e-6)


def test_dreams_that_cannot_be_are_refused():
    agent, obs = trained(), observed(VECTORS, T)
    with pytest.raises(ValueError, match="`horizon` must be at least 1, got 0"):
        agent.imagine(obs, np.zeros(T - 1, int), 0)
    with pytest.raises(
        ValueError, match=r"`actions` must be 6 to 11 for 7 observations, got \(12,\)"
    ):
        agent.imagine(obs, np.zeros(12, int), H)
    with pytest.raises(ValueError, match=r"`observations` must be .* got \(\)"):
        agent.imagine(at(obs, 0), np.zeros(1, int), H)


def test_the_package_gives_it():
    assert dreamer.load.__module__ == "dreamer.run.load"
    with pytest.raises(AttributeError, match="has no attribute 'lod'"):
        dreamer.lod  # noqa: B018


# ---------------------------------------------------------------------------- reward as an input


def trained_with_reward(obs_shapes=VECTORS) -> TrainedAgent:
    encoder = EncoderConfig(**vars(tiny.WORLD_MODEL.encoder), reward_input=True)
    # Gaussian latents, so that any change of the input changes them.
    model = dataclasses.replace(tiny.WORLD_MODEL, encoder=encoder, latent=tiny.GAUSSIAN)
    networks = tiny.make_agent(DISCRETE, obs_shapes=obs_shapes, world_model=model)
    return TrainedAgent(networks, NativeCodec(obs_shapes, DISCRETE), sample_actions=False)


@pytest.mark.parametrize("batch", [(), (B,)])
def test_an_agent_that_reads_rewards_acts_and_encodes_with_them(batch):
    agent, obs = trained_with_reward(), observed(VECTORS, T, *batch)
    reward = np.random.default_rng(0).normal(size=(T, *batch)).astype(np.float32)
    reward[0] = 0
    actions, state = [], None
    for t in range(T):
        torch.manual_seed(t)
        action, state = agent.policy(at(obs, t), state, reward=None if t == 0 else reward[t])
        actions.append(action)
    torch.manual_seed(5)
    features = agent.encode(obs, np.array(actions[:-1]), rewards=reward)
    assert features.shape == (T, *batch, 4 + 16)
    torch.manual_seed(5)
    other = agent.encode(obs, np.array(actions[:-1]), rewards=reward + 1)
    assert not np.allclose(features, other)
    dream = agent.imagine(obs, np.array(actions[:-1]), H, rewards=reward)
    assert dream.rewards.shape == (H, *batch)


def test_the_ends_of_a_context_change_what_is_encoded():
    agent, obs = trained_with_reward(), observed(VECTORS, T)
    actions, rewards = actions_of(DISCRETE, T - 1), np.zeros(T)
    results = []
    for ends in (None, np.zeros(T, bool), np.arange(T) == 3):
        torch.manual_seed(0)
        results.append(agent.encode(obs, actions, rewards=rewards, is_terminal=ends))
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0][:3], results[2][:3])
    assert not np.array_equal(results[0][3], results[2][3])


def test_a_reward_that_is_needed_and_missing_or_misshapen_is_named():
    agent, obs = trained_with_reward(), observed(VECTORS, T)
    _, state = agent.policy(at(obs, 0))  # the start of an episode has none
    with pytest.raises(
        ValueError, match="`reward` .* must be given, got None: .*reward_input=true"
    ):
        agent.policy(at(obs, 1), state)
    with pytest.raises(ValueError, match="`reward` .* must be given"):
        agent.encode(obs, actions_of(DISCRETE, T - 1))
    with pytest.raises(ValueError, match=r"`reward` must have shape \(7,\), got \(3,\)"):
        agent.encode(obs, actions_of(DISCRETE, T - 1), rewards=np.zeros(3))
    with pytest.raises(ValueError, match=r"`reward` must have shape \(7, 3\), got \(3, 7\)"):
        many = observed(VECTORS, T, B)
        agent.encode(many, actions_of(DISCRETE, T - 1, B), rewards=np.zeros((B, T)))
    agent.encode(at(obs, slice(0, 1)), [])


def test_a_dream_of_class_images_holds_class_indices():
    shapes = {"grid": (5, 6)}
    options = {"vector_keys": "grid"}
    encoder = EncoderConfig(**{**vars(tiny.WORLD_MODEL.encoder), **options}, classes={"grid": 4})
    decoder = DecoderConfig(**{**vars(tiny.WORLD_MODEL.decoder), **options}, classes={"grid": 4})
    model = dataclasses.replace(tiny.WORLD_MODEL, encoder=encoder, decoder=decoder)
    networks = tiny.make_agent(DISCRETE, obs_shapes=shapes, world_model=model)
    agent = TrainedAgent(networks, NativeCodec(shapes, DISCRETE), sample_actions=False)
    grid = np.random.default_rng(0).integers(4, size=(T, 5, 6), dtype=np.uint8)
    action, _ = agent.policy({"grid": grid[0]})
    assert action in range(A)
    dream = agent.imagine({"grid": grid}, actions_of(DISCRETE, T - 1), H)
    predicted = dream.observations["grid"]
    assert predicted.shape == (H, 5, 6) and predicted.dtype == np.uint8
    assert predicted.max() < 4
    with pytest.raises(ValueError, match="Image `grid` must be uint8, got int64"):
        agent.policy({"grid": grid[0].astype(int)})
