import dataclasses
import functools
import io
import itertools
from typing import Any

import numpy as np
import pytest
import torch

from dreamer.replay.buffer import ReplayConfig
from dreamer.replay.sampling import EpisodeSampler, Experience
from dreamer.run.build import make_replay_config

EVERY_KIND = [
    (env_count, sampling, across)
    for env_count in (1, 3)
    for sampling in ("episodes", "steps")
    for across in (False, True)
]


def assert_same_batches(one, other, length=5):
    for _ in range(10):
        torch.testing.assert_close(one.sample(7, length), other.sample(7, length), rtol=0, atol=0)


def count_starts(replay, length, draws):
    """How often each (environment, start) was drawn, as a share of all draws."""
    vector = replay.sample(draws, length).obs["vector"][0].numpy().astype(int)
    starts, counts = np.unique(vector[:, :2], axis=0, return_counts=True)
    return {
        tuple(start): count / draws for start, count in zip(starts.tolist(), counts, strict=True)
    }


def assert_shares(found, expected, draws):
    """Equal supports, and shares within five standard deviations."""
    assert abs(sum(expected.values()) - 1) < 1e-9
    assert found.keys() == expected.keys()
    for key, share in expected.items():
        assert abs(found[key] - share) < 5 * np.sqrt(share * (1 - share) / draws), key


@pytest.mark.parametrize(("env_count", "sampling", "across"), EVERY_KIND)
def test_every_sample_is_a_stretch_of_the_history_held(
    make_replay, make_world, env_count, sampling, across
):
    replay = make_replay(env_count, 101 * env_count, sampling, across)
    world = make_world(env_count)
    inner_resets = 0
    for _ in range(400):
        world.play(replay, 3)
        if not replay.can_sample(6):
            continue
        batch = replay.sample(8, 6)
        oldest = max(0, world.steps - 101)
        world.check(batch, oldest, across)
        inner_resets += int(batch.is_first[1:].sum())
        if sampling == "episodes" and not across:
            whole = world.episodes(oldest)
            for env, start, _ in batch.obs["vector"][0].int().tolist():
                assert any(e == env and a <= start and start + 6 <= b for e, a, b in whole)
    assert (inner_resets > 0) == across


@pytest.mark.parametrize("env_count", [1, 3])
def test_statistics_match_the_history(make_replay, make_world, env_count):
    replay, world = make_replay(env_count, 61 * env_count + env_count - 1), make_world(env_count)
    by_steps = make_replay(env_count, 61 * env_count, "steps", directory="other")
    assert replay.episodes == replay.longest_episode == replay.policy_steps == 0
    for _ in range(250):
        step, prev_action = world.step()
        replay.add(step, prev_action)
        by_steps.add(step, prev_action)
        oldest = max(0, world.steps - 61)
        lengths = [stop - start for _, start, stop in world.episodes(oldest)]
        assert replay.episodes == len(lengths)
        assert replay.longest_episode == max(lengths, default=0)
        assert replay.policy_steps == int((~world.is_first[oldest:]).sum())
        assert replay.total_policy_steps == int((~world.is_first).sum())
        for length in (1, 7, 13):
            assert replay.can_sample(length) == (max(lengths, default=0) >= length)
            inside = [
                not world.is_first[start + 1 : start + length, env].any()
                for env in range(env_count)
                for start in range(oldest, world.steps - length + 1)
            ]
            assert by_steps.can_sample(length) == any(inside)


@pytest.mark.parametrize("env_count", [1, 3])
def test_capacity_is_used_to_the_last_step(make_replay, make_world, env_count):
    replay = make_replay(env_count, 53 * env_count, "steps")
    world = make_world(env_count)
    world.play(replay, 300)
    found = count_starts(replay, 1, 20_000)
    assert found.keys() == set(itertools.product(range(env_count), range(300 - 53, 300)))


def test_the_same_seed_gives_the_same_batches(make_replay, make_world):
    replays = [
        make_replay(seed=seed, directory=name) for seed, name in ((5, "a"), (5, "b"), (6, "c"))
    ]
    for replay in replays:
        make_world(3).play(replay, 200)
    batches = [torch.stack([r.sample(7, 5).reward for _ in range(10)]) for r in replays]
    torch.testing.assert_close(batches[0], batches[1], rtol=0, atol=0)
    assert not torch.equal(batches[0], batches[2])


def test_episodes_are_drawn_alike_and_their_ends_favoured(make_replay, make_world):
    length, lengths = 6, [13, 4, 6, 9]
    replay, world = make_replay(1), make_world(1, lengths=iter([*lengths, 50]).__next__)
    world.play(replay, sum(lengths) + 20)  # the last episode is still going on
    expected = {}
    for _, start, stop in world.episodes():
        if stop - start >= length:
            # Of the `stop - start + 1` draws all past the last possible start are cut back to it.
            for drawn in range(stop - start + 1):
                key = (0, min(start + drawn, stop - length))
                expected[key] = expected.get(key, 0) + 1 / (3 * (stop - start + 1))
    draws = 60_000
    assert_shares(count_starts(replay, length, draws), expected, draws)


def test_steps_are_drawn_alike_wherever_a_sequence_fits(make_replay, make_world):
    length = 5
    replay, world = make_replay(2, 2 * 60, "steps"), make_world(2)
    world.play(replay, 150)
    fits = [
        (env, start)
        for env in range(2)
        for start in range(150 - 60, 150 - length + 1)
        if not world.is_first[start + 1 : start + length, env].any()
    ]
    draws = 60_000
    assert_shares(count_starts(replay, length, draws), {key: 1 / len(fits) for key in fits}, draws)


def test_across_episodes_every_complete_episode_gives_its_steps_alike(make_replay, make_world):
    length, lengths = 8, [2, 5, 3]
    replay = make_replay(1, across_episodes=True)
    world = make_world(1, lengths=iter([*lengths, 50]).__next__)
    world.play(replay, 13)
    expected = {}
    for _, start, stop in world.episodes():
        for step in range(start, stop):
            key = (0, min(step, 13 - length))
            expected[key] = expected.get(key, 0) + 1 / (3 * (stop - start))
    draws = 60_000
    assert_shares(count_starts(replay, length, draws), expected, draws)


@pytest.mark.parametrize("sampling", ["episodes", "steps"])
def test_too_short_episodes_are_refused_with_the_ways_out(make_replay, make_world, sampling):
    replay, world = make_replay(2, sampling=sampling), make_world(2, lengths=lambda: 9)
    with pytest.raises(ValueError, match="No sequence of 10 steps .* has 0 steps, and 0 policy"):
        replay.sample(4, 10)
    world.play(replay, 45)
    replay.sample(4, 9)
    with pytest.raises(
        ValueError,
        match="No sequence of 10 steps .* longest .* 9 steps, and 80 policy steps .* "
        "shorter batch length, a longer prefill or replay.across_episodes=true",
    ):
        replay.sample(4, 10)
    make_replay(2, sampling=sampling, across_episodes=True).sample(4, 10)


def test_one_long_sequence_among_many_short_episodes_is_found(make_replay, make_world):
    lengths = itertools.chain([3] * 40, [12], itertools.repeat(3))
    replay, world = make_replay(1, 400), make_world(1, lengths=lengths.__next__)
    world.play(replay, 330)
    assert count_starts(replay, 12, 20) == {(0, 120): 1.0}


def test_add_demands_a_reset_after_the_end(make_replay, make_world):
    replay, world = make_replay(2), make_world(2, lengths=lambda: 4)
    step, prev_action = world.step()
    with pytest.raises(ValueError, match="`is_first` must be set on the first step"):
        replay.add(step._replace(is_first=np.array([True, False])), prev_action)
    replay.add(step, prev_action)
    world.play(replay, 3)
    step, prev_action = world.step()
    with pytest.raises(ValueError, match="and after every last step"):
        replay.add(step._replace(is_first=np.array([False, True])), prev_action)


def test_a_reset_closes_an_episode_that_was_cut(make_replay, make_world):
    replay, world = make_replay(2), make_world(2, lengths=lambda: 20)
    world.play(replay, 11)
    world.roll_back(11)
    assert replay.episodes == 0
    world.play(replay, 1)
    assert replay.episodes == 2 and replay.longest_episode == 11
    reopened = make_replay(2)
    assert reopened.episodes == 2 and reopened.longest_episode == 11


@pytest.mark.parametrize("reopen", [False, True])
@pytest.mark.parametrize("end", ["load", "reset"])
def test_an_episode_longer_than_the_ring_is_never_whole(make_replay, make_world, reopen, end):
    replay, world = make_replay(2, 2 * 30), make_world(2, lengths=lambda: 70)
    world.play(replay, 45)
    replay = make_replay(2, 2 * 30) if reopen else replay
    if end == "load":
        replay.load_state_dict(replay.state_dict())
    else:
        world.roll_back(45)
        world.play(replay, 1)
    assert replay.episodes == 0 and not replay.can_sample(5)
    assert replay.policy_steps == (60 if end == "load" else 58)
    make_replay(2, 2 * 30, "steps").sample(4, 29)


def test_add_refuses_to_cut_numbers_short(make_replay, make_world):
    replay = make_replay(2)
    step, prev_action = make_world(2).step()
    image = step.obs["image"] / np.float32(255)
    with pytest.raises(TypeError, match="Cannot cast"):
        replay.add(step._replace(obs=step.obs | {"image": image}), prev_action)


def test_batches_are_copies_of_the_declared_types(make_replay, make_world):
    replay, world = make_replay(1, 40), make_world(1)
    world.play(replay, 40)
    batch = replay.sample(8, 5)
    before = batch.reward.clone()
    world.play(replay, 80)
    assert torch.equal(batch.reward, before)
    assert batch.obs["image"].shape == (5, 8, 1, 6, 7) and batch.obs["image"].dtype == torch.uint8
    assert batch.obs["vector"].shape == (5, 8, 3)
    assert batch.prev_action.shape == (5, 8, 2)
    assert batch.is_terminal.dtype == batch.is_first.dtype == torch.bool


@pytest.mark.parametrize(("env_count", "sampling", "across"), EVERY_KIND)
def test_a_reopened_replay_draws_what_the_first_would(
    make_replay, make_world, env_count, sampling, across
):
    kind = env_count, 97 * env_count, sampling, across
    replay, world = make_replay(*kind), make_world(env_count)
    world.play(replay, 260)
    reopened = make_replay(*kind)
    assert_same_batches(replay, reopened)
    for _ in range(150):
        reopened.add(*world.step())
        world.check(reopened.sample(4, 5), max(0, world.steps - 97), across)


@pytest.mark.parametrize(("env_count", "sampling", "across"), EVERY_KIND)
def test_save_and_load_continue_the_stream(make_replay, make_world, env_count, sampling, across):
    kind = env_count, 97 * env_count, sampling, across
    replay, world = make_replay(*kind), make_world(env_count, lengths=lambda: 10)
    world.play(replay, 260)
    assert world.is_last[-1].all()  # else the load would close the open episodes
    replay.sample(3, 5)
    file = io.BytesIO()
    torch.save(replay.state_dict(), file)
    file.seek(0)
    restored = make_replay(*kind, seed=9)
    restored.load_state_dict(torch.load(file, weights_only=True))
    assert_same_batches(replay, restored)


@pytest.mark.parametrize("env_count", [1, 3])
@pytest.mark.parametrize("same_process", [True, False])
def test_loading_forgets_later_steps_and_goes_on_consistently(
    make_replay, make_world, env_count, same_process
):
    kind = env_count, 97 * env_count
    replay, world = make_replay(*kind), make_world(env_count)
    world.play(replay, 40)
    state = replay.state_dict()
    world.play(replay, 30)

    resumed = replay if same_process else make_replay(*kind)
    resumed.load_state_dict(state)
    world.roll_back(40)

    assert resumed.total_policy_steps == int((~world.is_first).sum())
    assert resumed.episodes == len(world.episodes())
    for _ in range(200):
        world.play(resumed, 1)
        world.check(resumed.sample(4, 5), max(0, world.steps - 97), across_episodes=False)
    assert resumed.policy_steps == int((~world.is_first[-97:]).sum())
    assert resumed.episodes == len(world.episodes(world.steps - 97))


def test_after_loading_every_environment_must_reset(make_replay, make_world):
    replay, world = make_replay(2), make_world(2, lengths=lambda: 20)
    world.play(replay, 13)
    replay.load_state_dict(replay.state_dict())
    with pytest.raises(ValueError, match="`is_first` must be set"):
        world.play(replay, 1)


def test_loading_closes_the_open_episode_as_truncated(make_replay, make_world):
    replay, world = make_replay(2), make_world(2, lengths=lambda: 20)
    world.play(replay, 13)
    assert not replay.can_sample(13)
    replay.load_state_dict(replay.state_dict())
    assert replay.episodes == 2
    batch = replay.sample(5, 13)
    assert not batch.is_terminal.any()
    assert make_replay(2).longest_episode == 13


def test_loading_keeps_what_the_ring_has_not_overwritten(make_replay, make_world):
    replay, world = make_replay(2, 2 * 50, "steps"), make_world(2)
    world.play(replay, 120)
    state = replay.state_dict()
    world.play(replay, 18)
    with pytest.warns(UserWarning, match="overwritten 18 of its 50 steps per environment"):
        replay.load_state_dict(state)
    world.roll_back(120)
    assert {start for _, start in count_starts(replay, 1, 5000)} == set(range(88, 120))
    for _ in range(60):
        world.play(replay, 1)
        world.check(replay.sample(8, 4), max(88, world.steps - 50), across_episodes=False)
        world.check(
            make_replay(2, 2 * 50, "steps").sample(8, 4),
            max(88, world.steps - 50),
            across_episodes=False,
        )


def test_loading_a_state_that_is_all_overwritten_begins_again(make_replay, make_world):
    replay, world = make_replay(2, 2 * 50), make_world(2)
    world.play(replay, 60)
    state = replay.state_dict()
    world.play(replay, 100)
    with pytest.warns(UserWarning, match="overwritten 50 of its 50 steps"):
        replay.load_state_dict(state)
    assert replay.policy_steps == replay.total_policy_steps == replay.episodes == 0
    world = make_world(2)
    world.play(replay, 80)
    world.check(replay.sample(8, 4), 30, across_episodes=False)


def test_loading_into_files_that_lost_everything_is_refused(make_replay, make_world):
    replay, world = make_replay(2), make_world(2)
    world.play(replay, 60)
    empty = make_replay(2, directory="other")
    with pytest.raises(ValueError, match="it holds none of the 60 steps .*another run_dir="):
        empty.load_state_dict(replay.state_dict())


def test_loading_a_state_of_a_lost_replay_keeps_what_is_there(make_replay, make_world):
    replay, world = make_replay(2), make_world(2)
    world.play(replay, 60)
    other = make_replay(2, directory="other")
    make_world(2).play(other, 30)
    with pytest.warns(UserWarning, match="has 60 steps per environment, .* only 30"):
        other.load_state_dict(replay.state_dict())
    other.sample(4, 5)


def test_config_is_refused_where_it_makes_no_sense(make_replay):
    with pytest.raises(ValueError, match="`capacity_policy_steps` must be at least 1, got 0"):
        make_replay(2, 0)
    with pytest.raises(ValueError, match="must be at least 3, the number of environments, got 2"):
        make_replay(3, 2)
    with pytest.raises(ValueError, match="`replay.sampling` must be episodes, steps or .* got x"):
        make_replay(3, sampling="x")


def test_the_default_configuration_is_the_authors(compose_any):
    config = make_replay_config(compose_any("task=pong"))
    make_sampler: Any = config.sampling
    assert make_sampler.func is EpisodeSampler
    expected = ReplayConfig(2_000_000, "episodes", across_episodes=False)
    assert dataclasses.replace(config, sampling="episodes") == expected


# ---------------------------------------------------------------------------- a user's sampler


class Newest:
    """Gives the newest sequence of every environment, or what it is told to give."""

    def __init__(self, experience: Experience, shift: int = 0, gives: bool = True):
        self.experience, self.shift, self.gives = experience, shift, gives

    def can_sample(self, length):
        return self.experience.files.steps - self.experience.files.oldest >= length

    def propose(self, generator, count, length):
        env = np.arange(self.experience.files.env_count)
        start = np.full_like(env, self.experience.files.steps - length + self.shift)
        if not self.gives:
            return np.empty((0, 2), int)
        return np.stack([env, start], 1)


def test_a_users_sampler_decides_what_is_drawn(make_replay, make_world):
    replay = make_replay(3, sampling=Newest, across_episodes=True)
    make_world(3).play(replay, 100)
    batch = replay.sample(6, 5)
    env, number, _ = batch.obs["vector"].numpy().astype(int).transpose(2, 0, 1)
    assert env[0].tolist() == [0, 1, 2, 0, 1, 2]
    assert number[:, 0].tolist() == [95, 96, 97, 98, 99]


@pytest.mark.parametrize("shift", [1, -400])
def test_a_users_sampler_never_gets_steps_that_are_not_held(make_replay, make_world, shift):
    replay = make_replay(2, 200, sampling=functools.partial(Newest, shift=shift))
    make_world(2).play(replay, 300)
    message = "Newest.propose must return steps between 200 and 299, got 5 from step"
    with pytest.raises(ValueError, match=message):
        replay.sample(4, 5)


def test_a_users_sampler_that_gives_nothing_is_told(make_replay, make_world):
    replay = make_replay(2, sampling=functools.partial(Newest, gives=False))
    make_world(2).play(replay, 30)
    with pytest.raises(ValueError, match=r"Newest.propose must return .* none in 1000 calls"):
        replay.sample(4, 5)


def test_experience_says_which_sequences_are_valid(make_replay, make_world):
    world = make_world(2, lengths=lambda: 9)
    replay = make_replay(2, 40)  # 20 steps of each environment
    world.play(replay, 30)  # episodes begin at 9, 18 and 27; 10 to 29 are held
    env, start = np.array([0, 1, 0, 1, 0]), np.array([9, 10, 16, 19, 27])
    experience = replay._experience
    assert experience.holds(env, start, 4).tolist() == [False, True, True, True, False]
    assert experience.holds(np.array([2, -1]), np.array([12, 12]), 4).tolist() == [False, False]
    assert experience.is_valid(env, start, 4).tolist() == [False, True, False, True, False]
    across = experience._replace(across_episodes=True)
    assert across.is_valid(env, start, 4).tolist() == [False, True, True, True, False]
