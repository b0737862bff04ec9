"""Evaluation: when, in which worlds, and without a trace in the run."""

import numpy as np
import pytest
import torch

from dreamer.callbacks.evaluate import Evaluate
from dreamer.callbacks.interrupt import Interrupt, Interrupted
from dreamer.callbacks.metrics import Metrics
from dreamer.run.build import make_envs


def noisy_left(step, state):
    """A policy that draws from the global generator, as the agent's does."""
    torch.rand(1)
    return np.tile(np.float32([1, 0]), (len(step.reward), 1)), None


@pytest.fixture
def make_evaluate(compose_tiny, replay, tmp_path):
    made = []

    def worlds():
        made.append(make_envs(compose_tiny(), seed=7, count=3))
        return made[-1]

    def make(**changes):
        options = {"every_frames": 100, "episodes": 3, "video_policy_steps": 0, "video_fps": 5}
        options["max_episode_policy_steps"] = 100
        metrics, interrupt = Metrics(replay, every_frames=1), Interrupt()
        policies = changes.pop("policies", {"actor": noisy_left})
        evaluate = Evaluate(worlds, policies, metrics, interrupt, tmp_path, **options | changes)
        evaluate.made, evaluate.interrupt, evaluate.metrics = made, interrupt, metrics
        return evaluate

    return make


def play_at(evaluate, trainer, agent, *frames):
    for agent.frames in frames:
        evaluate.on_train_batch_end(trainer, agent, {}, None, 0)
    return [line[0] for line in trainer.loggers[0].lines]


def test_it_plays_every_so_many_frames_and_once_at_the_end(make_evaluate, trainer, agent):
    evaluate = make_evaluate()
    evaluate.on_train_start(trainer, agent)
    assert play_at(evaluate, trainer, agent, 40, 99, 130, 180, 200) == [130, 200]
    evaluate.on_train_end(trainer, agent)
    assert play_at(evaluate, trainer, agent) == [130, 200]  # it was just done
    agent.frames = 210
    evaluate.on_train_end(trainer, agent)
    assert play_at(evaluate, trainer, agent) == [130, 200, 210]


def test_it_reports_raw_scores_of_all_episodes(make_evaluate, trainer, agent):
    evaluate = make_evaluate(episodes=7)
    play_at(evaluate, trainer, agent, 100)
    ((_, values),) = trainer.loggers[0].lines
    assert values["eval/episodes"] == 7
    assert values["eval/length"] == 8
    assert -2 <= values["eval/return_mean"] <= 2


def test_its_worlds_are_made_when_they_are_wanted_and_closed_in_the_end(
    make_evaluate, trainer, agent, monkeypatch
):
    evaluate = make_evaluate()
    assert evaluate.made == []
    play_at(evaluate, trainer, agent, 100, 200)
    (worlds,) = evaluate.made
    closed = []
    monkeypatch.setattr(worlds, "close", lambda: closed.append(1))
    evaluate.teardown(trainer, agent, "fit")
    evaluate.teardown(trainer, agent, "fit")
    assert closed == [1]


def test_its_worlds_are_closed_where_the_run_breaks_off(make_evaluate, trainer, agent, monkeypatch):
    evaluate = make_evaluate()
    play_at(evaluate, trainer, agent, 100)
    closed = []
    monkeypatch.setattr(evaluate.made[0], "close", lambda: closed.append(1))
    evaluate.on_exception(trainer, agent, Interrupted(2))
    assert closed == [1]


def test_it_leaves_random_state_and_replay_alone(make_evaluate, trainer, agent, replay):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    play_at(make_evaluate(), trainer, agent, 100)
    assert torch.rand(2).equal(expected)
    assert replay.policy_steps == 0


def test_it_can_be_interrupted(make_evaluate, trainer, agent):
    evaluate = make_evaluate()
    evaluate.interrupt.signal_number = 15
    with pytest.raises(Interrupted, match="SIGTERM"):
        play_at(evaluate, trainer, agent, 100)


def test_it_films_where_that_is_asked_for(make_evaluate, trainer, agent, tmp_path):
    play_at(make_evaluate(video_policy_steps=6), trainer, agent, 100)
    assert (tmp_path / "videos" / "policy_0000000100.mp4").stat().st_size > 0


def test_actor_and_explorer_play_their_own_episodes(make_evaluate, trainer, agent, tmp_path):
    calls = []

    def play(name):
        return lambda step, state: calls.append(name) or noisy_left(step, state)

    policies = {name: play(name) for name in ("actor", "explore")}
    play_at(make_evaluate(policies=policies, video_policy_steps=6), trainer, agent, 100, 200)
    assert calls.count("actor") == calls.count("explore") >= 2 * 8
    lines = trainer.loggers[0].lines
    assert [frames for frames, _ in lines] == [100, 100, 200, 200]
    names = {"return_mean", "return_std", "length", "episodes"}
    for number, (_, values) in enumerate(lines):
        area = "eval_explore" if number % 2 else "eval"
        assert {f"{area}/{name}" for name in names} == values.keys()
        assert (values[f"{area}/length"], values[f"{area}/episodes"]) == (8, 3)
    videos = {path.name for path in (tmp_path / "videos").iterdir()}
    assert videos == {
        *("policy_0000000100.mp4", "policy_0000000200.mp4"),
        *("policy_explore_0000000100.mp4", "policy_explore_0000000200.mp4"),
    }


def test_no_episode_is_refused(make_evaluate):
    with pytest.raises(ValueError, match="`episodes` must be at least 1"):
        make_evaluate(episodes=0)


def test_a_failure_is_one_warning_and_a_count_and_the_next_one_begins_anew(
    make_evaluate, trainer, agent
):
    broken = [True]

    def policy(step, state):
        if broken:
            raise RuntimeError("the simulator\nis gone")
        return noisy_left(step, state)

    evaluate = make_evaluate(policies={"actor": policy})
    with pytest.warns(
        UserWarning, match="the evaluation failed, and the run .*Error: the sim"
    ) as all_:
        assert play_at(evaluate, trainer, agent, 100, 200) == []
    assert len(all_) == 1
    assert "\n" not in str(all_[0].message)
    assert evaluate.metrics.latest == {"eval/failures": 2}
    broken.clear()
    assert play_at(evaluate, trainer, agent, 300) == [300]
    assert len(evaluate.made) == 3


def test_episodes_that_do_not_end_are_cut(make_evaluate, trainer, agent):
    evaluate = make_evaluate(max_episode_policy_steps=5, episodes=6)
    with pytest.warns(
        UserWarning, match="6 of 6 evaluation episodes were cut after 5 policy steps"
    ):
        play_at(evaluate, trainer, agent, 100)
    ((_, values),) = trainer.loggers[0].lines
    assert (values["eval/length"], values["eval/cut_episodes"]) == (5, 6)
