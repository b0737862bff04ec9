"""Grids: what is written in a file and on the command line becomes jobs, or a clear error."""

import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from experiments.published import curves
from experiments.sweep.grid import CONF, Choice, Grid

ABLATIONS = [  # Table 2 and Figures H1, I1, J1
    "dreamerv2",
    "no_discrete_latents",
    "no_kl_balancing",
    "no_image_gradients",
    "no_reward_gradients",
    "no_layer_norm",
    "no_policy_reinforce",
    "mixed_gradients",
    "random_collection",
]


@pytest.fixture
def write(tmp_path):
    """Write a grid file; returns its name."""

    def write_grid(text: str) -> str:
        path = tmp_path / "own.yaml"
        path.write_text(text)
        return str(path)

    return write_grid


def names(grid: Grid) -> list[str]:
    return [job.name for job in grid.jobs(Path("runs"))]


def test_the_ablations_are_those_of_the_paper():
    grid = Grid.read("ablations", Choice(tasks=["pong", "boxing"], seeds=2))
    assert list(grid.variants) == ABLATIONS
    assert len(names(grid)) == len(set(names(grid))) == 2 * 9 * 2
    assert names(grid)[:3] == [
        "atari/pong/dreamerv2/seed0",
        "atari/pong/dreamerv2/seed1",
        "atari/pong/no_discrete_latents/seed0",
    ]
    words = grid.jobs(Path("runs"))[-1].words
    assert words[:5] == (
        *("env=atari", "task=boxing", "variant=random_collection", "seed=1", "root=runs"),
    )
    assert words[5:] == ("experiment=random_collection",)


def test_the_atari_grid_holds_the_games_of_the_published_curves():

    tasks = {task for _, task in Grid.read("atari55", Choice()).tasks}
    assert len(tasks) == 55

    assert tasks == set(curves("atari-dreamerv2").task)


def test_every_grid_of_conf_is_read_and_begins_with_what_it_is_for():
    for path in (CONF / "grid").glob("*.yaml"):
        choice = Choice(tasks=["pong"]) if "tasks" not in OmegaConf.load(path) else Choice()
        assert names(Grid.read(path.stem, choice))
        assert path.read_text().startswith("# ")


def test_a_grid_of_ones_own_takes_a_few_lines(write):
    own = write(
        """
        variants:
          - dreamerv2
          - no_kl_balancing
          - plain: {latents: gaussian, model: {horizon: 5}, kl_balance: false}
        tasks: [dummy/memory, atari/pong: {total_frames: 1e6}]
        seeds: [3, 5]
        overrides: {model: tiny, total_frames: 9000, logger: [jsonl, wandb]}
        """
    )
    jobs = {job.name: job.words for job in Grid.read(own, Choice()).jobs(Path("a b"))}
    assert len(jobs) == 12
    assert jobs["dummy/memory/plain/seed5"] == (
        *("env=dummy", "task=memory", "variant=plain", "seed=5", "root='a b'"),
        *("model=tiny", "total_frames=9000", "logger=[jsonl,wandb]"),
        *("latents=gaussian", "model.horizon=5", "kl_balance=false"),
    )


def test_variants_win_over_the_command_line_and_this_over_tasks_and_these_over_the_file(write):
    own = write(
        """
        variants: {v: {batch.size: 4}}
        tasks: {pong: {batch.size: 3, batch.length: 3, model.horizon: 3}}
        overrides: {batch.size: 1, batch.length: 1, model.horizon: 1, sizes.deter: 1}
        """
    )
    grid = Grid.read(own, Choice(words=("batch.size=2", "batch.length=2")))
    assert set(grid.jobs(Path("runs"))[0].words[5:]) == {
        *("batch.size=4", "batch.length=2", "model.horizon=3", "sizes.deter=1"),
    }


def test_an_experiment_for_every_job_stands_beside_that_of_the_variant():
    grid = Grid.read("ablations", Choice(tasks=["pong"], seeds=1, words=("experiment=cpu",)))
    jobs = {job.variant: job.words for job in grid.jobs(Path("runs"))}
    assert "experiment=[cpu,dreamerv2]" in jobs["dreamerv2"]
    assert "experiment=[cpu,no_kl_balancing]" in jobs["no_kl_balancing"]


def test_the_command_line_chooses_env_tasks_variants_and_seeds():
    choice = Choice(["memory", "atari/pong"], ["no_layer_norm"], [4], ("env=dummy",))
    assert names(Grid.read("ablations", choice)) == [
        "dummy/memory/no_layer_norm/seed4",
        "atari/pong/no_layer_norm/seed4",
    ]


PONG = Choice(tasks=["pong"])


@pytest.mark.parametrize(
    ("name", "choice", "message"),
    [
        ("ablation", PONG, r"Unknown grid .*: `ablation`\. The nearest: ablations"),
        ("my.yaml", PONG, r"There is no grid my\.yaml"),
        ("ablations", Choice(), r"names no tasks: say which\. For example: task=pong,boxing"),
        (
            "ablations",
            Choice(["pong"], ["no_kl_balance"]),
            r"Unknown variant of .*`no_kl_balance`\. The nearest: no_kl_balancing",
        ),
        ("ablations", Choice(["pong", "Pong"]), r"Task atari/pong comes twice"),
        ("ablations", Choice(["pong"], ["dreamerv2"] * 2), r"Variant dreamerv2 comes twice"),
        ("ablations", Choice(["pong"], seeds=0), r"`seeds` to be at least 1, actually: 0"),
        ("ablations", Choice(["pong"], seeds=[1, 2, 1]), r"Seed 1 comes twice"),
        ("ablations", Choice(["pong"], seeds=[-1]), r"seeds=3 or seeds=\[0,5\], actually: \[-1\]"),
        ("ablations", Choice(["pong"], seeds=[]), r"`seeds` to be .*actually: \[\]"),
        (
            "ablations",
            Choice(["atari/pong"], words=("env=dummy",)),
            r"`env=dummy` would go unheard: every task names its own",
        ),
        *(
            ("ablations", Choice(["pong"], words=(word,)), message)
            for word, message in (
                ("run_dir=x", r"`run_dir` in the command line would go unheard.* root="),
                ("++seed=1", r"`seed` in the command line would go unheard: .* seeds"),
            )
        ),
    ],
)
def test_what_cannot_be_run_is_refused_with_what_was_meant(name, choice, message):
    with pytest.raises(ValueError, match=message):
        Grid.read(name, choice)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("variants: [dreamerv2]\nseedz: 3", r"Unknown key in .*: `seedz`\. The nearest: seeds"),
        ("variants: [", r"own\.yaml is no YAML"),
        ("- a", r"Expect .*own\.yaml to hold variants, tasks, seeds, overrides, actually: \['a'\]"),
        ("tasks: [pong]", r"own\.yaml names no variants, for example: dreamerv2"),
        ("variants: [no_kl]", r"Unknown variant without overrides .*`no_kl`.* no_kl_balancing"),
        ("variants: [dreamerv2, dreamerv2]", r"`dreamerv2` comes twice among the variants"),
        ("variants: {a/b: {x: 1}}", r"variant of .* to be a folder's name, actually: a/b"),
        ("variants: {a: [x]}", r"Expect `a` of .* to be a mapping .*actually: \['x'\]"),
        ("variants: {a: {seed: 1}}", r"`seed` in `a` of .* would go unheard: a grid has seeds"),
        ("variants: {a: {env: dummy}}", r"`env` in `a` of .* would go unheard: .* dummy/memory"),
        ("variants: [dreamerv2]\nseeds: many", r"`seeds` to be a number .*actually: many"),
        ("variants: [dreamerv2]\nseeds: true", r"`seeds` to be a number .*actually: True"),
    ],
)
def test_what_a_file_says_wrongly_is_named(write, text, message):
    with pytest.raises(ValueError, match=message):
        Grid.read(write(text), PONG)


def test_values_reach_hydra_as_they_were_written(write, compose_any):
    values = {
        "task": "it's, a \\ [task]",
        "kl_balance": 0.25,
        "layer_norm": False,
        "run_dir": None,
    }
    text = json.dumps(
        {"variants": {"v": {k: v for k, v in values.items() if k in ("kl_balance", "layer_norm")}}}
    )
    grid = Grid.read(write(text), Choice(tasks=[values["task"]]))
    cfg = compose_any(*grid.jobs(Path("runs"))[0].words)
    assert cfg.task == values["task"]
    assert cfg.kl_balance == 0.25
    assert cfg.layer_norm is False
