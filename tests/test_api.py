"""Training from a program: any environment, without a command line; what it gives back."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from omegaconf import OmegaConf

import dreamer
from dreamer.envs.dummy import make_dummy
from dreamer.run.evaluate import evaluate

SMALL = {
    "debug": "fast",
    "logger": "jsonl",
    "total_frames": 81,
    "prefill_policy_steps": 48,
    "train_every_policy_steps": 8,
    "replay.capacity_policy_steps": 1000,
    "callbacks": {
        "video": None,
        "metrics.every_frames": 8,
        "evaluate": {"every_frames": 1000, "episodes": 2, "video_policy_steps": 0},
    },
}


class Valve(gymnasium.Env):
    """Turn a valve between 0 and 10 until it stands at a number that is shown."""

    observation_space = spaces.Dict(
        level=spaces.Box(0, 10, (1,), np.float64), goal=spaces.Discrete(3, start=1)
    )
    action_space = spaces.Box(0, 10, (1,), np.float32)
    closed = False

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time, self.goal = 0, int(self.np_random.integers(1, 4))
        return {"level": np.zeros(1), "goal": self.goal}, {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.time += 1
        observation = {"level": action.astype(np.float64), "goal": self.goal}
        return observation, -abs(float(action[0]) - self.goal), False, self.time == 6, {}

    def close(self):
        self.closed = True


@pytest.fixture(autouse=True)
def in_its_own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["a_notebook", "-f", "kernel.json"])


@pytest.mark.slow
def test_a_class_is_trained_on_and_the_agent_plays_in_it(tmp_path):
    run = dreamer.train(Valve, SMALL, run_dir=tmp_path / "valve")
    assert run.run_dir == tmp_path / "valve"
    assert run.summary.frames == 81
    assert run.metrics["frames"].iloc[-1] == 81
    assert run.metrics["eval/return_mean"].dropna().iloc[-1] < 0
    env, state = Valve(), None
    observation, _ = env.reset(seed=3)
    for _ in range(6):
        action, state = run.agent.policy(observation, state)
        assert env.action_space.contains(action)
        observation, *_ = env.step(action)
    assert run.agent is run.agent
    assert isinstance(run.agent.make_env().unwrapped, Valve)


@pytest.mark.slow
def test_commands_play_in_it_where_it_has_a_name(monkeypatch):
    run = dreamer.train(Valve, SMALL)
    assert run.run_dir == Path.cwd() / "runs/own/Valve/debug/seed0"
    options = dict(checkpoint="best", seed=0, sample_actions=False)
    options |= dict(video_policy_steps=0, video_fps=5, allow=["test_api"])
    assert len(evaluate(run.run_dir, episodes=3, **options)["returns"]) == 3
    run = dreamer.train(lambda: Valve(), SMALL, run_dir="nameless")
    with pytest.raises(Exception, match="only the program that passed") as error:
        evaluate(run.run_dir, episodes=3, **options)
    assert isinstance(error.value.__cause__ or error.value, ValueError)
    assert isinstance(run.agent.make_env().unwrapped, Valve)  # this program can make it
    with pytest.raises(ValueError, match="only the program that passed"):
        dreamer.load(run.run_dir).make_env()


@pytest.mark.slow
def test_several_environments_are_made_by_a_function():
    made = []

    def make():
        made.append(Valve())
        return made[-1]

    run = dreamer.train(make, {**SMALL, "env.count": 3, "callbacks.evaluate.episodes": 2})
    assert len(made) == 3 + 2  # to learn in, and to be evaluated in
    assert all(env.closed for env in made)
    assert run.agent.frames % 3 == 0


@pytest.mark.slow
def test_one_environment_is_enough_but_then_nothing_is_evaluated(capsys):
    env = Valve()
    run = dreamer.train(env, SMALL)
    out = capsys.readouterr().out
    assert "No evaluation: it needs an environment of its own. Pass a function" in out
    assert "evaluation return" not in out
    assert "eval/return_mean" not in run.metrics
    assert run.run_dir == Path.cwd() / "runs/own/Valve/debug/seed0"
    assert run.agent.frames == 81
    assert not env.closed


@pytest.mark.slow
def test_groups_that_follow_the_protocol_are_trained_in():
    def make(seed, count):
        return make_dummy(
            "memory", count=count, seed=seed, rounds=2, corridor=2, length=1, speed=1, maze_length=9
        )

    run = dreamer.train(make, SMALL, run_dir="made")
    assert run.agent.policy(np.zeros((1, 64, 64), np.uint8))[0] in (0, 1)
    run = dreamer.train(make(0, 1), SMALL, run_dir="given")
    assert run.agent.codec.obs_shapes == {"image": (1, 64, 64)}


@pytest.mark.slow
def test_ours_are_named_by_the_overrides():
    run = dreamer.train(overrides={**SMALL, "env": "dummy", "task": "memory"})
    assert run.run_dir == Path.cwd() / "runs/dummy/memory/debug/seed0"


@pytest.mark.slow
def test_the_same_call_goes_on(capsys):
    first = dreamer.train(Valve, SMALL)
    again = dreamer.train(Valve, SMALL)
    assert again.summary == first.summary
    assert "is finished: 81 frames. Nothing to do." in capsys.readouterr().out
    longer = dreamer.train(Valve, {**SMALL, "total_frames": 100})
    assert longer.summary.frames == 100
    assert "(resumed at frame 81)" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_that_moved_answers_with_its_new_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert dreamer.train(Valve, SMALL, run_dir="~/a").run_dir == tmp_path / "a"
    (tmp_path / "a").rename(tmp_path / "b")
    monkeypatch.chdir(tmp_path)
    run = dreamer.train(Valve, SMALL, run_dir="b")
    monkeypatch.chdir("/")
    assert run.run_dir == tmp_path / "b"
    assert len(run.metrics) and run.agent.frames == 81
    level = spaces.Box(-2, 10, (1,), np.float64)  # of the same shape
    wide = type(
        "Valve",
        (Valve,),
        {"observation_space": spaces.Dict(level=level, goal=spaces.Discrete(3, start=1))},
    )
    wide.__module__, wide.__qualname__ = Valve.__module__, Valve.__qualname__
    longer = {**SMALL, "total_frames": 100}
    with pytest.raises(
        ValueError, match=r"observation.spaces.*low \(there 0.0, here -2.0\)\."
    ) as told:
        dreamer.train(wide, longer, run_dir=tmp_path / "b")
    assert "env.factory" not in str(told.value)


@pytest.mark.slow
def test_a_folder_of_another_environment_is_refused():
    dreamer.train(Valve(), SMALL, run_dir="here")
    longer = {**SMALL, "task": "Valve", "total_frames": 100}
    with pytest.raises(
        ValueError, match=r"here holds a run of other obs.* actions.size \(there 1, here 2\)"
    ):
        dreamer.train(gymnasium.make("CartPole-v1"), longer, run_dir="here")


@pytest.mark.slow
def test_ctrl_c_saves_and_is_a_keyboard_interrupt(monkeypatch, capsys):
    handlers = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    step, made = Valve.step, []

    def step_with_signal(env, action):
        made.append(1)
        if len(made) == 60:
            os.kill(os.getpid(), signal.SIGINT)
        return step(env, action)

    with monkeypatch.context() as patch:
        patch.setattr(Valve, "step", step_with_signal)
        with pytest.raises(KeyboardInterrupt):
            dreamer.train(Valve, SMALL)
    assert "everything is saved. Repeat the call to resume." in capsys.readouterr().err
    assert {s: signal.getsignal(s) for s in handlers} == handlers
    assert dreamer.train(Valve, SMALL).summary.frames == 81
    assert {s: signal.getsignal(s) for s in handlers} == handlers
    assert "(resumed at frame " in capsys.readouterr().out


@pytest.mark.slow
def test_it_works_in_a_thread():
    runs = []
    thread = threading.Thread(target=lambda: runs.append(dreamer.train(Valve, SMALL)))
    thread.start()
    thread.join()
    assert runs[0].summary.frames == 81


@pytest.mark.parametrize(
    ("env", "overrides", "message"),
    [
        (3, {}, r"`env` must be a gymnasium\.Env, .* got 3"),
        ("CartPole-v1", {}, r"`env` must be a .* got 'CartPole-v1'"),
        (Valve, {"env": "dummy"}, r"`env` must be given once, got .* override dummy"),
        (Valve(), {"env.count": 2}, r"`env\.count` is 2, got one environment"),
        (Valve, {"env.wings": 2}, r"Unknown key `env\.wings`\. The nearest: env"),
        (Valve, {"total_frames": 10}, r"`total_frames` must exceed the prefill of 48 policy steps"),
        (lambda: 3, {"task": "three"}, r"must make a gymnasium\.Env, got 3"),
        (None, {"env": "dummy"}, r"`task` is missing"),
        (Valve, {"batch.size": "many"}, r"^`batch\.size` must be a whole number, got `many`$"),
        (Valve, {"exploration_noise": float("nan")}, r"^`exploration_noise` must be a number, got"),
        (Valve, {"env.count": 0}, r"^`env\.count` must be at least 1, got 0$"),
        (Valve, {"model.horizon": True}, r"^`model\.horizon` must be a whole number, got `true`$"),
        (Valve, {"callbacks.metrics": None}, r"^`callbacks\.metrics` must be a node .*`null`$"),
        (Valve, {"env.kwargs": {"a": np.zeros(3)}}, r"^`env\.kwargs\.a` must be a number, text,"),
        (
            Valve,
            {"model.horizon": "${nothing}"},
            r"^`model\.horizon` cannot be resolved: ",
        ),
        (Valve, {"model._target_": "no.Config"}, r"^`model\._target_` must name a class or a func"),
        (Valve, {"model": "(tiny"}, r"^Hydra cannot parse `model=\(tiny`"),
    ],
)
def test_what_cannot_be_is_told_and_leaves_nothing(env, overrides, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        dreamer.train(env, {**SMALL, **overrides})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_numbers_may_come_as_text_and_as_floats():
    numbers = {
        "replay.capacity_policy_steps": 1e5,
        "callbacks.checkpoint.every_frames": "1e2",
        "model.world_model_optimizer.learning_rate": "3e-4",
        "batch.size": np.int64(4),
        "exploration_noise": np.float32(0.5),
    }
    run = dreamer.train(Valve, {**SMALL, **numbers, "logger": []}, run_dir="~/valve=1")
    assert run.summary.frames == 81
    assert run.agent.frames == 81
    written = OmegaConf.load(run.run_dir / "config.yaml")
    assert written.replay.capacity_policy_steps == 100_000
    assert type(written.replay.capacity_policy_steps) is int
    assert written.model.world_model_optimizer.learning_rate == 3e-4


@pytest.mark.slow
def test_metrics_need_their_logger():
    run = dreamer.train(Valve, {**SMALL, "logger": "none"})
    with pytest.raises(FileNotFoundError, match="`logger` must include jsonl"):
        run.metrics  # noqa: B018


def test_the_words_of_the_project_stay_light(repository):
    code = "import dreamer, sys; assert dreamer.__all__; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


@pytest.mark.slow
def test_an_explorer_is_trained_and_loaded_from_a_program():
    run = dreamer.train(Valve, {**SMALL, "explore": "plan2explore", "explore.ensemble.members": 2})
    assert {"explore/intrinsic_reward", "eval_explore/return_mean"} <= {*run.metrics.columns}
    agent = dreamer.load(run.run_dir, policy="explore")
    acted = []
    explorer = agent.networks.components["explore"].actor_critic.actor
    explorer.register_forward_hook(lambda *_: acted.append("explorer"))
    agent.networks.actor_critic.actor.register_forward_hook(lambda *_: acted.append("actor"))
    action, _ = agent.policy(Valve().reset(seed=3)[0])
    assert Valve.action_space.contains(action)
    assert acted == ["explorer"]
