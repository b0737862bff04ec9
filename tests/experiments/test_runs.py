"""Run folders become tables; what is wrong with one is said and costs the others nothing."""

import json

import pandas as pd
import pytest
import yaml
from filelock import lock_descriptor
from folders import make_offline_run, make_run
from omegaconf import OmegaConf

from dreamer.run.config import checked
from dreamer.run.migrate import FORMAT
from experiments.learning import chart_groups
from experiments.report import write
from experiments.results import of_runs
from experiments.runs import CURVE_COLUMNS, RUN_COLUMNS, everything, read_runs
from experiments.sweep.state import read_state


def test_runs_are_read_with_their_curves(tmp_path):
    make_run(tmp_path, seed=0)
    path = make_run(tmp_path, variant="no_layer_norm", seed=1, scores={500: 4.0, 900: -1.0})
    curves, _, runs, problems = read_runs(tmp_path)
    assert problems == []
    assert (tuple(curves.columns), tuple(runs.columns)) == (CURVE_COLUMNS, RUN_COLUMNS)
    row = runs[runs["variant"] == "no_layer_norm"].iloc[0].to_dict()
    assert {key: row[key] for key in ("env", "task", "seed", "state", "path")} == {
        **{"env": "dummy", "task": "memory", "seed": "1", "state": "finished"},
        "path": str(path),
    }
    numbers = ("frames", "total_frames", "updates", "action_repeat", "last_score", "best_score")
    assert [row[key] for key in numbers] == [900, 3000, 9, 1, -1.0, 4.0]
    points = curves[curves["seed"] == "1"]
    assert points[["frames", "score", "episodes"]].to_numpy().tolist() == [
        [500, 4, 1],
        [900, -1, 1],
    ]


def test_what_a_real_run_leaves_is_read(trained_run):
    curves, _, runs, problems = read_runs(trained_run)
    row, summary = runs.iloc[0], json.loads((trained_run / "summary.json").read_text())
    assert problems == []
    assert list(row[["env", "task", "variant", "seed", "state"]]) == [
        *("dummy", "memory", "debug", "0", "finished")
    ]
    assert [row["frames"], row["updates"]] == [summary["frames"], summary["updates"]]
    assert [row["total_frames"], row["action_repeat"]] == [81, 1]
    assert row["eval_return"] == summary["metrics"]["eval/return_mean"]
    assert row["last_score"] == curves["score"].iloc[-1] == summary["metrics"]["collect/return"]
    assert curves["episodes"].sum() == summary["metrics"]["collect/episodes"]


def test_runs_come_in_the_order_of_their_numbers(tmp_path):
    for seed in (10, 9, 2):
        make_run(tmp_path, seed=seed)
    assert list(read_runs(tmp_path).runs["seed"]) == ["2", "9", "10"]


def test_copies_that_mlflow_keeps_are_no_runs(tmp_path):
    make_run(tmp_path)
    make_run(tmp_path / "mlartifacts" / "0123456789" / "artifacts")
    _, _, runs, problems = read_runs(tmp_path)
    assert (len(runs), problems) == (1, [])


def test_a_point_knows_how_many_episodes_it_is_the_mean_of(tmp_path):
    path = make_run(tmp_path)
    lines = [
        {"frames": 100, "collect/return": 1.0, "collect/episodes": 7.0},
        {"frames": 150, "actor/loss": 1.0, "collect/episodes": 7.0},
        {"frames": 200, "collect/return": 1.0, "collect/episodes": 10.0},
        {"frames": 200, "eval/return_mean": 5.5},
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    curves, _, runs, problems = read_runs(tmp_path)
    assert (list(curves["episodes"]), runs["eval_return"].item(), problems) == ([7, 3], 5.5, [])


def test_states_are_told_apart(tmp_path):
    make_run(tmp_path, seed=0)
    make_run(tmp_path, seed=1, finished=False)
    failed = make_run(tmp_path, seed=2, finished=False)
    (failed / "failure.txt").write_text("Traceback")
    empty = make_run(tmp_path, seed=3, finished=False)
    (empty / "metrics.jsonl").unlink()
    (empty / "checkpoints" / "last.ckpt").unlink()
    running = make_run(tmp_path, seed=4, finished=False)
    with (running / "lock").open("w") as lock:
        lock_descriptor(lock.fileno())
        states = list(read_runs(tmp_path).runs["state"])
    assert states == ["finished", "interrupted", "failed", "empty", "running"]


def test_a_run_without_a_point_has_no_curve_but_a_row(tmp_path):
    make_run(tmp_path, scores={})
    curves, _, runs, problems = read_runs(tmp_path)
    assert (len(curves), len(runs), problems) == (0, 1, [])
    assert pd.isna(runs["last_score"].item())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: (path / "config.yaml").unlink(), "there is no config.yaml"),
        (lambda path: (path / "config.yaml").write_text("a: [1"), "cannot be read"),
        (lambda path: (path / "config.yaml").write_bytes(b"\xff\xfe\x00"), "cannot be read"),
        (
            lambda path: (path / "config.yaml").write_text(""),
            "must have the keys of a run, got no env",
        ),
        (lambda path: (path / "config.yaml").write_text("task: pong"), "got no env_name, seed"),
    ],
)
def test_a_broken_folder_is_named_and_the_others_are_read(tmp_path, damage, message):
    broken = make_run(tmp_path, seed=0)
    make_run(tmp_path, seed=1)
    damage(broken)
    curves, _, runs, (problem,) = read_runs(tmp_path)
    assert problem.startswith(f"{broken}: ")
    assert message in problem
    assert list(runs["seed"]) == list(curves["seed"].unique()) == ["1"]


@pytest.mark.parametrize(
    ("text", "unreadable", "scores"),
    [
        ('{"frames": 10, "collect/return": 1.0}\n{"frames": 20, "coll', 1, [1.0]),
        ('{"frames": 10, "collect/return": null}\n{"frames": 20, "collect/return": 2}\n', 0, [2.0]),
        ('{"frames": 10, "actor/loss": NaN}\n[]\n7\n{"a": 1}\n\n', 4, []),
        ("\x00\x00", 1, []),
    ],
)
def test_unreadable_lines_are_counted_and_the_others_are_read(tmp_path, text, unreadable, scores):
    path = make_run(tmp_path)
    (path / "metrics.jsonl").write_text(text)
    curves, _, runs, problems = read_runs(tmp_path)
    assert (list(curves["score"]), len(runs)) == (scores, 1)
    expected = f"{path}: {unreadable} unreadable line(s) of metrics.jsonl. Left out."
    assert problems == ([expected] if unreadable else [])


def test_points_at_one_frame_count_are_named_and_the_later_one_counts(tmp_path):
    path = make_run(tmp_path)
    lines = [(100, 1.0), (300, 3.0), (200, 2.0), (300, 4.0)]
    text = "".join(json.dumps({"frames": f, "collect/return": s}) + "\n" for f, s in lines)
    (path / "metrics.jsonl").write_text(text)
    curves, _, _, (problem,) = read_runs(tmp_path)
    assert list(curves["score"]) == [1.0, 2.0, 4.0]
    assert "1 point(s) of metrics.jsonl with a repeated frame count" in problem


def test_of_two_runs_of_one_seed_the_longer_counts_and_the_other_is_named(tmp_path):
    short = make_run(tmp_path / "a", scores={1000: 5.0})
    long = make_run(tmp_path / "b")
    _, _, runs, (problem,) = read_runs(tmp_path)
    assert list(runs["path"]) == [str(long)]
    assert problem.startswith(f"{short}: the same seed of dummy/memory/tiny as {long}")


def test_runs_with_another_action_repeat_are_named_and_left_out(tmp_path):
    for seed in (0, 1):
        make_run(tmp_path, env="atari", task="pong", seed=seed, action_repeat=4)
    odd = make_run(tmp_path, env="atari", task="pong", variant="other", action_repeat=2)
    make_run(tmp_path, env="atari", task="boxing", action_repeat=2)
    _, _, runs, (problem,) = read_runs(tmp_path)
    assert sorted(runs["task"]) == ["boxing", "pong", "pong"]
    assert problem.startswith(f"{odd}: action repeat 2, but 4 in 2 other run(s) of atari/pong")


def test_settings_that_differ_between_seeds_are_named(tmp_path):
    make_run(tmp_path, seed=0)
    make_run(tmp_path, seed=1, model={"horizon": 5}, total_frames=9, precision="32-true")
    make_run(tmp_path, variant="other", seed=1, model={"horizon": 7})
    _, _, runs, (problem,) = read_runs(tmp_path)
    assert len(runs) == 3
    assert problem == "dummy/memory/tiny: the averaged seeds differ in model.horizon."


def test_games_are_called_as_in_the_paper_however_they_were_typed(tmp_path):
    make_run(tmp_path, env="atari", task="jamesbond")
    make_run(tmp_path, env="atari", task="MsPacman")
    make_run(tmp_path, env="atari", task="tetris")
    assert sorted(read_runs(tmp_path).runs["task"]) == ["james_bond", "ms_pacman", "tetris"]


def test_a_variant_has_the_name_of_its_folder_or_of_its_configuration(tmp_path):
    make_run(tmp_path, variant="tiny-latents_gaussian", experiment_name="tiny")
    make_run(tmp_path, variant="grid", seed=1, experiment_name="tiny").rename(tmp_path / "my_run")
    make_run(tmp_path, variant="x", seed=2, experiment_name="tiny").rename(tmp_path / "mine")
    config = tmp_path / "mine" / "config.yaml"
    config.write_text(config.read_text() + "variant: named\n")
    variants = read_runs(tmp_path).runs.set_index("seed")["variant"]
    assert variants.to_dict() == {"0": "tiny-latents_gaussian", "1": "tiny", "2": "named"}


def test_a_run_folder_itself_can_be_read_and_nothing_inside_it_is_taken_for_a_run(tmp_path):
    path = make_run(tmp_path)
    inside = path / "wandb" / "offline-run-1" / "files"
    inside.mkdir(parents=True)
    (inside / "config.yaml").write_text("wandb_version: 1")
    for folder in (path, tmp_path):
        _, _, runs, problems = read_runs(folder)
        assert (list(runs["path"]), problems) == ([str(path)], [])


def test_a_folder_without_runs_gives_empty_tables(tmp_path):
    curves, _, runs, problems = read_runs(tmp_path)
    assert (len(curves), len(runs), problems) == (0, 0, [])
    with pytest.raises(FileNotFoundError, match="The folder must hold runs"):
        read_runs(tmp_path / "nowhere")


def test_a_variant_is_what_the_configuration_says_wherever_the_run_is(compose_any, tmp_path):
    """An id of a task may have a slash; the folder of a run may move."""
    for name, words in (("full", ()), ("plain", ("kl_balance=false",))):
        cfg = compose_any("env=gym", "task=my_module:lab/MyEnv-v0", *words)
        config = {"format": FORMAT, **checked(cfg)}
        path = make_run(tmp_path, env="gym", task="lab/MyEnv-v0", variant=name)
        (path / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(config)))
        path.rename(tmp_path / name)
    found = read_runs(tmp_path)
    assert found.problems == []
    assert sorted(found.runs["variant"]) == ["small", "small-kl_balance_false"]


def test_runs_of_one_seed_with_other_settings_are_no_copies_of_each_other(tmp_path):
    for name, horizon in (("a", 15), ("b", 7)):
        for seed in (0, 1):
            make_run(tmp_path / name, seed=seed, model={"horizon": horizon})
    make_run(tmp_path / "c", seed=0, precision="32-true", kernels="plain")  # is a copy
    found = read_runs(tmp_path)
    assert sorted(found.runs["variant"]) == [f"tiny (model.horizon={n})" for n in (15, 15, 7, 7)]
    assert found.problems[0] == (
        "dummy/memory/tiny: runs of the same seed differ in model.horizon. They count as "
        "different variants."
    )
    assert "the same seed" in found.problems[1] and len(found.problems) == 2


def test_no_name_in_a_configuration_leads_out_of_the_report(tmp_path):
    out, env = tmp_path / "runs" / "report", "/../../../../planted"
    path = make_run(tmp_path / "runs", seed=1)
    config = yaml.safe_load((path / "config.yaml").read_text())
    config |= {"env_name": env, "task": "../x", "variant": "<script>x"}
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    before = {p for p in tmp_path.rglob("*")}
    write(of_runs(tmp_path / "runs", None, compare=None), out)
    added = {p for p in tmp_path.rglob("*")} - before
    assert added and all(out in (p, *p.parents) for p in added)
    page = (out / "report.html").read_text()
    assert "<script>x" not in page and "&lt;script&gt;x" in page


def test_a_run_without_collection_counts_updates(tmp_path):
    path = make_offline_run(tmp_path, scores={20: 2.0, 40: 4.0}, finished=False)
    make_run(tmp_path, variant="online")
    runs = read_runs(tmp_path)
    row = runs.runs[runs.runs["variant"] == "tiny"].iloc[0]
    assert (row["frames"], row["total_frames"], row["counter"]) == (40, 40, "updates")
    assert (row["last_score"], row["best_score"], row["eval_return"]) == (4.0, 4.0, 4.0)
    assert read_state(path, 40).frames == 40 and read_state(path, 40).phase == "interrupted"
    (path / "summary.json").write_text(json.dumps({"frames": 0, "updates": 40}))
    assert read_state(path, 40).phase == "finished"
    assert read_state(path, 50).phase == "interrupted"
    groups = {group.title: group for group in chart_groups(everything(runs))}
    assert {title: group.counter for title, group in groups.items()} == {
        "dummy: Memory": "frames",
        "dummy: Memory, stored data": "updates",
    }
    drawn = [chart.title for chart in groups["dummy: Memory, stored data"].charts]
    assert drawn == ["Return in evaluation"]
