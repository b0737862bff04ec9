"""The command line: `python train.py ...`, its exit codes, signals and multiruns."""

import io
import json
import os
import random
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path
from typing import ClassVar

import pytest
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from dreamer.cli import train
from dreamer.envs.dummy import MemoryEnvs
from dreamer.run.folder import RunFolder


@pytest.fixture
def main(monkeypatch, capsys, tmp_path, repository):
    """Run train.py in this process; returns its exit code and what it wrote to stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    handlers = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def run(*overrides):
        monkeypatch.setattr(sys, "argv", ["train.py", *overrides])
        code = 0
        try:
            runpy.run_path(str(repository / "train.py"), run_name="__main__")
        except SystemExit as end:
            code = end.code
        return code, capsys.readouterr().err

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def start(tmp_path, repository):
    """Start train.py as a process of its own."""
    processes = []

    def run(*overrides):
        process = subprocess.Popen(
            [sys.executable, str(repository / "train.py"), *overrides],
            cwd=tmp_path,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        processes.append(process)
        return process

    yield run
    for process in processes:
        process.kill()


def run_folder(tmp_path) -> Path:
    return tmp_path / "dummy" / "memory" / "debug" / "seed0"


def summary(run_dir) -> dict:
    return json.loads((run_dir / "summary.json").read_text())


# ----------------------------------------------------------------------------------- start-up


def test_help_explains_the_keys_with_the_files_that_the_words_choose(main, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "100")
    printed = []
    monkeypatch.setattr("dreamer.schema.help.print_lines", printed.extend)
    assert main("env=gym", "--help")[0] == 0
    text = "\n".join(printed)
    for line in (
        "Usage: python train.py [key=value ...]",
        "  python train.py env=dummy task=memory",
        "Ablation switches:",
        "  total_frames=50000                Length of the run",
        "  env.flat_keys=$^                  Pattern",
        "model.actor_critic: The actor and the critic.",
        "logger.wandb: Destinations of metrics and videos.",
    ):
        assert line in text
    assert max(len(line) for line in printed if " " in line.strip()) <= 100


# ---------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "env=dumy",
            r"`env` must be the name of a file in conf/env, got `dumy`\. The nearest: dummy",
        ),
        ("latents=gausian", r"conf/latents, got `gausian`\. The nearest: gaussian"),
        ("experiment=no_kl", r"conf/experiment, got `no_kl`\. The nearest: .*no_kl_balancing"),
        ("task=memori", r"Unknown dummy task `memori`\. The nearest: `memory`"),
        ("task=???", r"`task` is missing\. For example: env=atari task=pong"),
        ("kl_balanse=false", r"Unknown key `kl_balanse`\. The nearest: kl_balance"),
        ("total_frame=1e6", r"Unknown key `total_frame`\. The nearest: total_frames"),
        ("prefil=3", r"Unknown key `prefil`\. The nearest: prefill_policy_steps"),
        ("env.lenght=3", r"Unknown key `env\.lenght`\. The nearest: env\.length"),
        ("+batch.sise=3", r"Unknown key `batch\.sise`\. The nearest: batch\.size"),
        (
            "explore.target=kl",
            r"Unknown key `explore\.target`\. Choices that have it: explore=ensemble, ",
        ),
        ("+kl_balanse=false", r"Unknown key `kl_balanse`\. The nearest: kl_balance"),
        ("seed", r"Arguments must be key=value, got `seed`$"),
        ("precision=16", r"`precision` must be auto, 32-true, bf16-mixed or 16-mixed, got 16$"),
        ("collect_policy=actr", r"conf/collect_policy, got `actr`\. The nearest: actor"),
        ("collect=none", r"`data.train` must be the address of stored episodes with collect=none"),
        ("+explore.curious=1", r"`explore` must be the name of a file in .* got \{'curious': 1\}"),
        ("actor_gradient=up", r"`actor_gradient` must be .*, dynamics or both, got `up`$"),
        ("image_gradients=maybe", r"`image_gradients` must be true or false, got `maybe`$"),
        ("layer_norm=3", r"`layer_norm` must be true or false, got 3$"),
        ("kl_balance=1.5", r"`kl_balance` must be true, false or a number in \(0, 1\), got 1.5$"),
        ("kl_balance=half", r"`kl_balance` must be true, false or a number .*, got `half`$"),
        ("total_frames=2.5", r"`total_frames` must be a whole number, got 2.5"),
        ("total_frames=many", r"`total_frames` must be a whole number, got `many`"),
        ("total_frames=.inf", r"`total_frames` must be a whole number, got `.inf`"),
        ("seed=null", r"`seed` must be a whole number, got `null`"),
        ("seed=-1", r"`seed` must be at least 0, got -1"),
        ("total_frames=1e30", r"`total_frames` must be at most 9007199254740992, got 1e\+30"),
        ("seed=4294967296", r"`seed` must be at most 4294967295, got 4294967296"),
        ("total_frames=40", r"`total_frames` must exceed the prefill of 48 policy steps"),
        ("train_every_policy_steps=0", r"`train_every_policy_steps` must be at least 1, got 0"),
        ("model.horizon=1", r"`model.horizon` must be at least 2, got 1"),
        ("batch.length=1", r"`batch.length` must be at least 2, got 1"),
        ("batch.size=0", r"`batch.size` must be at least 1, got 0"),
        ("env.rounds=0", r"`env.rounds` must be at least 1, got 0"),
        ("+env.wings=2", r"Unknown key `env.wings`\. The nearest: env\."),
        (
            "replay.sampling=best",
            r"`replay.sampling` must be one of episodes, sequential, steps, or .*, got best",
        ),
        (
            "replay.across_episodes=false",
            r"at least 16 steps .`batch.length`., got at most 9\. Set",
        ),
        (
            "model.world_model.discount=2",
            r"`model.world_model.discount` must be in \(0, 1\], got 2",
        ),
        (
            "callbacks.metrics.every_frames=0",
            r"`callbacks.metrics.every_frames` must be at least 1, got 0",
        ),
        (
            "callbacks.evaluate.episodes=0",
            r"`callbacks.evaluate.episodes` must be at least 1, got 0",
        ),
        ("trainer.accelerator=tpus", r"`trainer.accelerator` must be auto, cpu, .*, got `tpus`"),
        ("trainer.devices=2", r"`trainer.devices` must be 1: .* is not supported yet, got 2$"),
    ],
)
def test_bad_input_is_one_line_that_names_it(main, tiny_overrides, tmp_path, override, message):
    code, stderr = main(*tiny_overrides, override)
    errors = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert code == 2
    assert len(errors) == 1 and re.search(message, errors[0]), stderr
    assert "Traceback" not in stderr
    assert not [*tmp_path.rglob("summary.json"), *tmp_path.rglob("*.ckpt")]


@pytest.mark.parametrize(
    "override",
    [
        *("seed=1e30", "env.count=1.5", "env.count=foo", "model.horizon=2.5", "model.horizon=1"),
        *("callbacks.checkpoint=null", "callbacks.metrics=null", "exploration_noise=-1"),
        *("exploration_noise=nan", "callbacks.checkpoint.every_frames=nan"),
        *("callbacks.evaluate.video_fps=0", "sizes.depth=0", "precision=foo", "batch.size=0"),
        *("model.world_model.encoder.image_keys='('", "model.world_model.discount=2"),
        *("callbacks=null", "batch=3", "env.task=null", "replay=null", "run_dir=${nothing}"),
    ],
)
def test_what_cannot_be_is_told_by_its_key_and_leaves_nothing(
    main, tiny_overrides, tmp_path, override
):
    code, stderr = main(*tiny_overrides, override)
    key, _, value = override.partition("=")
    assert code == 2
    first, error = stderr.splitlines()
    assert first.startswith("Starting a run: ")
    assert re.search(rf"^error: `{re.escape(key)}` (must be|cannot be resolved)", error)
    if "(" not in value and "{" not in value:
        assert f"got {value}" in error.replace("`", "").replace("1e+30", "1e30")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_null_disables_what_a_run_can_do_without(main, tiny_overrides, tmp_path):
    left_out = ("callbacks.evaluate", "callbacks.video", "callbacks.progress", "logger")
    kept = [word for word in tiny_overrides if not word.startswith(left_out)]
    code, stderr = main(*kept, *(f"{name}=null" for name in left_out))
    assert code == 0, stderr
    assert summary(run_folder(tmp_path))["frames"] == 81
    names = {path.name for path in run_folder(tmp_path).iterdir()}
    assert not names & {"metrics.jsonl", "tensorboard", "wandb", "videos"}
    assert not re.search("prefill:|learning:", stderr)


@pytest.mark.slow
def test_a_path_may_hold_any_character(main, tiny_overrides, tmp_path):
    name = "a=b,c#d(e~f {g}[h] & 'i' \"j\" übung 日本"
    code, stderr = main(*tiny_overrides[:-1], f"root={tmp_path}", f"run_dir={tmp_path / name}")
    assert code == 0, stderr
    assert summary(tmp_path / name)["frames"] == 81
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.slow
def test_frames_may_be_written_as_people_write_them(main, tiny_overrides, tmp_path):
    assert main(*tiny_overrides, "total_frames=8e1")[0] == 0
    assert summary(run_folder(tmp_path))["frames"] == 80


def test_a_full_disk_is_told_before_anything_is_written(main, tiny_overrides, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 5000, 5000))
    code, stderr = main(*tiny_overrides)
    assert code == 2
    assert re.search(
        r"error: .* must fit on the disk with 5,000 free bytes, got .* more bytes when full", stderr
    )


def test_a_missing_package_is_told_with_what_to_install(main, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ale_py", None)
    code, stderr = main("task=pong", "logger=none", f"root={tmp_path}")
    assert code == 2
    assert "error: Atari games need `pip install 'ale-py" in stderr


def test_a_folder_of_another_configuration_is_an_error(main, tiny_overrides, finished_run):
    code, stderr = main(*tiny_overrides, "model.horizon=4")
    assert code == 2
    assert "different in model.horizon (there 5, here 4)" in stderr


@pytest.mark.slow
def test_a_run_that_another_process_has_ends_with_a_code_of_its_own(
    main, tiny_overrides, finished_run
):
    with RunFolder(finished_run).lock():
        code, stderr = main(*tiny_overrides, "total_frames=96")
    assert code == os.EX_TEMPFAIL == 75
    assert re.search(r"^error: .*seed0 is in use by another process", stderr, re.MULTILINE)


def test_a_bug_shows_its_traceback(main, tiny_overrides, monkeypatch):
    monkeypatch.setattr(MemoryEnvs, "step", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(*tiny_overrides)


@pytest.mark.slow
def test_errors_end_the_process_with_code_2(start, tiny_overrides):
    processes = [start(*tiny_overrides, word) for word in ("env=dumy", "task=memori")]
    for process in processes:
        output = process.communicate()[0]
        assert process.returncode == 2, output
        first, error = output.splitlines()
        assert first.startswith("Starting a run: ") and error.startswith("error: ")


# ---------------------------------------------------------------------------------- optional


def test_an_empty_word_of_a_multirun_is_one_line(main, monkeypatch):
    monkeypatch.setenv("DREAMER_SWEEP", "")  # else it stays for other tests
    code, stderr = main("-m", "env=dummy", "task=memory", "")
    assert code == 2
    assert stderr.splitlines()[-1] == "error: Arguments must be key=value, got ``"


@pytest.mark.slow
@pytest.mark.parametrize("plus", ["", "+"])
def test_experiments_and_debug_are_chosen_with_or_without_a_plus(
    main, tiny_overrides, tmp_path, plus
):
    words = [plus + word if word.startswith("debug=") else word for word in tiny_overrides]
    assert main(*words, f"{plus}experiment=no_kl_balancing", "callbacks.evaluate=null")[0] == 0
    config = (tmp_path / "dummy/memory/debug-kl_balance_false/seed0/config.yaml").read_text()
    assert "kl_balance: false" in config


# ----------------------------------------------------------------------------------- signals


@pytest.mark.parametrize(
    ("step", "number", "code"),
    [
        pytest.param(20, signal.SIGINT, 130, id="prefill-SIGINT", marks=pytest.mark.slow),
        pytest.param(20, signal.SIGTERM, 143, id="prefill-SIGTERM", marks=pytest.mark.slow),
        pytest.param(64, signal.SIGINT, 130, id="learning-SIGINT", marks=pytest.mark.slow),
        pytest.param(64, signal.SIGTERM, 143, id="learning-SIGTERM"),
    ],
)
def test_a_signal_saves_and_tells_how_to_go_on(
    main, tiny_overrides, tmp_path, monkeypatch, number, code, step
):
    advance, made = MemoryEnvs.step, []

    def step_with_signal(envs, action):
        made.append(1)
        if len(made) == step:
            os.kill(os.getpid(), number)
        return advance(envs, action)

    with monkeypatch.context() as patch:
        patch.setattr(MemoryEnvs, "step", step_with_signal)
        ended, stderr = main(*tiny_overrides)
    assert ended == code
    assert f"Stopped by {number.name}; everything is saved. To resume: python " in stderr
    assert f"train.py {' '.join(tiny_overrides)}" in stderr
    assert (run_folder(tmp_path) / "checkpoints" / "last.ckpt").exists()
    assert not (run_folder(tmp_path) / "summary.json").exists()
    assert main(*tiny_overrides)[0] == 0
    end = summary(run_folder(tmp_path))
    assert (end["frames"], end["updates"]) == (81, 6)


@pytest.mark.parametrize(
    ("program", "command"),
    [
        ("train.py", "python train.py"),
        (train.__file__, "python -m dreamer.cli.train"),  # jobs of a sweep are started so
        ("/opt/dreamer/bin/dreamer-train", "dreamer-train"),
    ],
)
def test_how_to_go_on_is_the_command_as_it_was_typed(program, command, monkeypatch):
    monkeypatch.setattr(sys, "argv", [program, "task=pong", "env.options={a: 1}"])
    assert train._command() == f"{command} task=pong 'env.options={{a: 1}}'"


def test_a_second_interrupt_stops_at_once_with_the_same_words(main, tiny_overrides, monkeypatch):
    def step_with_signals(envs, action):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the second one came too late")

    monkeypatch.setattr(MemoryEnvs, "step", step_with_signals)
    code, stderr = main(*tiny_overrides)
    assert code == 130
    assert "Stopped by SIGINT" in stderr


def wait_for(process, path, size=1):
    """Wait until a file of the run has grown to a size."""
    deadline = time.time() + 60
    while not (path.exists() and path.stat().st_size >= size):
        assert process.poll() is None, process.communicate()[0]
        assert time.time() < deadline
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"),
    [
        pytest.param(signal.SIGINT, 130, id="SIGINT"),
        pytest.param(signal.SIGTERM, 143, id="SIGTERM", marks=pytest.mark.long),
    ],
)
def test_a_process_that_gets_a_signal_saves_and_goes_on(
    start, tiny_overrides, tmp_path, number, code
):
    command = [*tiny_overrides, "total_frames=2000", "callbacks.evaluate=null"]
    process = start(*command)
    wait_for(process, run_folder(tmp_path) / "metrics.jsonl")
    process.send_signal(number)
    output = process.communicate()[0]
    assert process.returncode == code, output
    assert f"Stopped by {number.name}" in output
    saved = (run_folder(tmp_path) / "metrics.jsonl").read_text().splitlines()
    process = start(*command, "total_frames=400")
    output = process.communicate()[0]
    assert process.returncode == 0, output
    lines = (run_folder(tmp_path) / "metrics.jsonl").read_text().splitlines()
    assert lines[: len(saved)] == saved


@pytest.mark.long
def test_a_process_killed_again_and_again_finishes(start, tiny_overrides, tmp_path):
    command = [*tiny_overrides, "total_frames=1200", "callbacks.checkpoint.every_frames=50"]
    waits = random.Random(0)
    for _ in range(3):
        process = start(*command)
        wait_for(process, run_folder(tmp_path) / "checkpoints" / "last.ckpt")
        time.sleep(waits.uniform(2, 5))
        process.kill()
        process.communicate()
    process = start(*command)
    output = process.communicate()[0]
    assert process.returncode == 0, output
    end = summary(run_folder(tmp_path))
    assert (end["frames"], end["updates"]) == (1200, 146)  # 1 + 1 + 1152 / 8
    text = (run_folder(tmp_path) / "metrics.jsonl").read_text()
    records = [json.loads(line) for line in text.splitlines()]
    frames = [r["frames"] for r in records if "world_model/loss" in r]
    assert frames == sorted(set(frames))
    assert records[-1]["frames"] == 1200


# --------------------------------------------------------------------------------- multiruns


@pytest.mark.slow
def test_a_multirun_makes_every_combination(main, tiny_overrides, tmp_path):
    code, _ = main(
        "-m",
        *tiny_overrides,
        "latents=categorical,gaussian",
        "kl_balance=true,false",
        "seed=0",
        "callbacks.evaluate=null",
    )
    assert code == 0
    finished = {path.parent for path in tmp_path.rglob("summary.json")}
    assert {path.relative_to(tmp_path / "dummy/memory").as_posix() for path in finished} == {
        "debug/seed0",
        "debug-kl_balance_false/seed0",
        "debug-latents_gaussian/seed0",
        "debug-kl_balance_false-latents_gaussian/seed0",
    }


class Returns(Callback):
    """What jobs return to Hydra's sweeper."""

    values: ClassVar[list[float]] = []

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: object) -> None:
        self.values.append(job_return.return_value)


@pytest.mark.slow
def test_a_sweeper_gets_the_latest_evaluation_of_every_job(main, tiny_overrides, tmp_path):
    Returns.values.clear()
    words = [f"+hydra.callbacks.returns._target_={__name__}.Returns", "seed=0,1"]
    assert main("-m", *tiny_overrides, *words)[0] == 0
    folders = [tmp_path / f"dummy/memory/debug/seed{seed}" for seed in (0, 1)]
    assert Returns.values == [summary(x)["metrics"]["eval/return_mean"] for x in folders]
    assert main("-m", *tiny_overrides, *words)[0] == 0  # finished already
    assert Returns.values[2:] == Returns.values[:2]


@pytest.mark.slow
def test_a_job_that_fails_is_told_at_once_and_stops_no_other(
    main, tiny_overrides, tmp_path, monkeypatch
):
    def fail_on_its_way(envs, action):
        if envs.length == 6:  # rounds x (2 + corridor)
            raise RuntimeError("the door is stuck")
        assert "the door is stuck" in sys.stderr.getvalue()  # told before this job began
        return advance(envs, action)

    advance = MemoryEnvs.step
    monkeypatch.setattr(MemoryEnvs, "step", fail_on_its_way)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with pytest.raises(RuntimeError, match="the door is stuck"):
        main("-m", *tiny_overrides, "env.corridor=1,2", "run_dir=corridor${env.corridor}")
    assert not (tmp_path / "corridor1" / "summary.json").exists()
    assert summary(tmp_path / "corridor2")["frames"] == 81


@pytest.mark.slow
def test_ctrl_c_stops_the_whole_multirun(main, tiny_overrides, tmp_path, monkeypatch):
    advance = MemoryEnvs.step

    def step_with_signal(envs, action):
        os.kill(os.getpid(), signal.SIGINT)
        return advance(envs, action)

    monkeypatch.setattr(MemoryEnvs, "step", step_with_signal)
    assert main("-m", *tiny_overrides, "seed=0,1,2")[0] == 130
    assert [path.name for path in tmp_path.glob("dummy/memory/debug/*")] == ["seed0"]
