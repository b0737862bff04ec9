"""Files of searches: what they say, and what is refused before any work."""

import pytest
from omegaconf import OmegaConf

from experiments.search.objective import METRICS, Objective, Part, Scale, running_values
from experiments.search.settings import Search
from experiments.search.space import Choices, Range, all_points, read_space, words_of
from experiments.search.status import short_names
from experiments.sweep.args import parse

SPACE = {"model.horizon": [3, 5]}


@pytest.fixture
def read(tmp_path):
    """Read a search of a user's own."""

    def read_search(*words: str, **content) -> Search:
        OmegaConf.save(OmegaConf.create({"space": SPACE, **content}), tmp_path / "my.yaml")
        return Search.read(parse([f"search={tmp_path / 'my.yaml'}", *words]))

    return read_search


@pytest.mark.parametrize("name", ["cartpole", "atari_small", "paper_table_d1"])
def test_the_searches_of_conf_have_a_task_and_a_number_of_trials(name):
    words = ["task=pong"] if name == "paper_table_d1" else []
    search = Search.read(parse([f"search={name}", *words]))
    assert search.trials == {"cartpole": 40, "atari_small": 30, "paper_table_d1": 32}[name]
    assert len(search.grid.tasks) == 1
    assert search.name == name


def test_ranges_and_lists_become_words_of_train(read):
    space = read_space(
        {
            "batch.size": {"low": 8, "high": 32, "int": True, "step": 8},
            "model.world_model.discount": {"low": 0.9, "high": 0.999},
            "latents": ["categorical", "gaussian"],
            "kl_balance": [True, 0.6],
        },
        "`space`",
    )
    assert space["batch.size"] == Range(8, 32, whole=True, step=8)
    assert space["latents"] == Choices(("categorical", "gaussian"))
    values = {"batch.size": 16, "latents": "gaussian", "kl_balance": True, "task_name": "a b"}
    assert words_of(values) == (
        *("batch.size=16", "latents=gaussian", "kl_balance=true", "task_name='a b'"),
    )


def test_a_grid_has_all_combinations(read):
    space = {"model.horizon": [3, 5], "batch.size": {"low": 4, "high": 8, "int": True, "step": 2}}
    search = read("task=pong", space=space, sampler="grid")
    assert search.trials == 6
    assert {tuple(point.values()) for point in search.points} == {
        (horizon, size) for horizon in (3, 5) for size in (4, 6, 8)
    }
    with pytest.raises(ValueError, match="`x` in here must be a list or have a `step`"):
        all_points({"x": Range(0.0, 1.0)}, "here")


def test_a_key_of_the_command_line_is_not_searched(read):
    search = read("task=pong", "model.horizon=4", space=SPACE | {"batch.size": [2, 3]}, trials=4)
    assert list(search.space) == ["batch.size"]
    (job,) = search.jobs("trial000", {"batch.size": 3}, root=search_root())
    assert job.words[-2:] == ("model.horizon=4", "batch.size=3")


def search_root():
    return parse(["search=cartpole"]).root


def test_jobs_of_a_trial_are_those_of_all_tasks_and_seeds(read):
    tasks = {
        "dummy/memory": {"low": 0, "high": 2, "overrides": {"total_frames": 500}},
        "dummy/point": {"low": -3, "high": 1},
    }
    search = read("seeds=2", "trials=3", tasks=tasks, overrides={"total_frames": 900})
    assert (search.trials, search.scales["dummy", "point"]) == (3, Scale(-3, 1))
    jobs = search.jobs("trial007", {"model.horizon": 5}, search_root())
    assert [job.name for job in jobs] == [
        f"dummy/{task}/trial007/seed{seed}" for task in ("memory", "point") for seed in (0, 1)
    ]
    assert jobs[0].words[-2:] == ("total_frames=500", "model.horizon=5")
    assert jobs[3].words[-2:] == ("total_frames=900", "model.horizon=5")


@pytest.mark.parametrize(
    ("words", "content", "message"),
    [
        (["trials=0"], {}, "`trials` must be a whole number of at least 1 or null, got `0`"),
        ([], {}, "`trials` must be given, for example trials=40"),
        (["workers=0"], {}, "`workers` must be at least 1, got `0`"),
        (["retry=true"], {}, "`retry` must come with grid=, got search="),
        (["grid=demo"], {}, "`search` must not be given with a grid"),
        ([], {"spaces": 1}, r"Unknown key in .*my\.yaml: `spaces`\. The nearest: space"),
        ([], {"space": {}}, "`space` of .* must have keys of train.py with values to search"),
        ([], {"space": {"seed": [1, 2]}}, "`seed` must not be set in `space` .*: use seeds"),
        ([], {"space": {"batch.size": 3}}, "`batch.size` .* must be a list of values or a range"),
        ([], {"space": {"batch.size": [3]}}, "must have at least two values"),
        ([], {"space": {"batch.size": [3, 3]}}, "must be unique, got 3 twice"),
        ([], {"space": {"batch.size": [3, [4]]}}, "must be a list of numbers, texts"),
        ([], {"space": {"x": {"low": 1, "hihg": 2}}}, r"`x` .*: Unknown key `hihg`\. .*: high"),
        ([], {"space": {"x": {"low": 1}}}, "`x` .*: `high` is missing: it must be a number"),
        ([], {"space": {"x": {"low": 2, "high": 2}}}, "`low` must be less than `high`"),
        ([], {"space": {"x": {"low": 0, "high": 2, "log": True}}}, "`low` must be greater than 0"),
        (
            [],
            {"space": {"x": {"low": 1, "high": 2, "log": True, "step": 1}}},
            "`step` must be left out with log: true, got 1",
        ),
        (
            [],
            {"space": {"x": {"low": 1, "high": 2.5, "int": True}}},
            "must be whole numbers with int: true, got 1, 2.5, 1",
        ),
        (
            [],
            {"space": {"x": {"low": 0, "high": 1, "step": 0.3}}},
            "`high` must be `low` plus a multiple of `step`",
        ),
        ([], {"sampler": "cmaes"}, "`sampler` must be tpe, random or grid, got `cmaes`"),
        ([], {"pruner": "medain"}, r"`pruner.name` must be median, hyperband or none"),
        ([], {"seed": -1}, "`seed` must be at least 0"),
        ([], {"objective": {"metric": "eval/return"}}, "must be a metric of runs, got `eval/retu"),
        ([], {"objective": {"value": "median"}}, "`objective.value` must be last, best or mean"),
        ([], {"objective": {"direction": "up"}}, "`objective.direction` must be maximize or mini"),
        ([], {"tasks": {"pong": {"low": 1}}}, "must have a `low` that is less than its `high`"),
        ([], {"tasks": {"pong": {"lo": 1}}}, r"Task `pong` .*: Unknown key `lo`"),
        (
            ["trials=3"],
            {"tasks": ["dummy/memory", "dummy/point"]},
            "Task `dummy/memory` must have `low` and `high` .* normalised scores",
        ),
        (["trials=5", "task=pong"], {"sampler": "grid"}, "`trials` must be at most 2, the combi"),
        (["model.horizon=3", "task=pong"], {}, "must leave a key of the space"),
        (
            ["task=pong"],
            {"overrides": {"model": {"horizon": 3}}},
            "`model.horizon` must not be",
        ),
        (["trials=3"], {}, "`task` must be given"),
    ],
)
def test_what_is_wrong_in_a_file_or_a_command_is_one_line(read, words, content, message):
    has_task = any(word.startswith("task=") for word in words) or "tasks" in content
    if not has_task and message != "`task` must be given":
        content = {"tasks": ["dummy/memory"], **content}
    with pytest.raises(ValueError, match=message) as error:
        read(*words, **content)
    assert "\n" not in str(error.value)


# ------------------------------------------------------------------------------- the objective


@pytest.mark.parametrize(
    ("settings", "value"),
    [
        ({"value": "last"}, 4.0),
        ({"value": "best"}, 9.0),
        ({"value": "best", "direction": "minimize"}, 1.0),
        ({"value": "mean", "evaluations": 2}, 6.5),
        ({"value": "mean", "evaluations": 20}, 5.0),
    ],
)
def test_evaluations_become_one_number(settings, value):
    assert Objective(**settings).reduce([1.0, 6.0, 9.0, 4.0]) == value


def test_the_value_of_a_trial_is_the_mean_over_its_jobs_so_far(tmp_path):
    for name, scores in {"a": (2, 4), "b": (0, 10), "c": ()}.items():
        (tmp_path / name).mkdir()
        lines = [f'{{"frames": {n}, "eval/return_mean": {x}}}\n' for n, x in enumerate(scores)]
        lines.insert(1, '{"frames": 1, "actor/loss": 0.5}\n{"frames": 2, "eval/retu')
        (tmp_path / name / "metrics.jsonl").write_text("".join(lines[: 2 if name == "c" else 4]))
    (tmp_path / "a/metrics.jsonl").write_text(
        '{"frames": 1, "eval/return_mean": 2}\n{"frames": 1, "actor/loss": 7}\n'
        '{"frames": 2, "eval/return_mean": NaN}\n{"frames": 2, "eval/return_mean": 4}\n{"fra'
    )
    (tmp_path / "b/metrics.jsonl").write_text(
        '{"frames": 1, "eval/return_mean": 0}\n{"frames": 2, "eval/return_mean": 10}\n'
    )
    (tmp_path / "c/metrics.jsonl").write_text("")
    first, second, third = (
        Part(tmp_path / name, is_finished, scale)
        for name, is_finished, scale in (
            *(("a", True, Scale()), ("b", False, Scale(0, 5)), ("c", False, Scale())),
        )
    )
    assert running_values(Objective(), [first, second, third]) == [2, 4, (4 + 0) / 2, (4 + 2) / 2]
    unfinished = first._replace(is_finished=False)
    assert running_values(Objective(), [unfinished, second, third]) == [2, 4]


def test_every_metric_is_one_that_the_docs_explain(repository):
    text = (repository / "docs" / "logs.md").read_text()
    assert [metric for metric in METRICS if f"`{metric}`" not in text] == []


def test_names_of_keys_are_as_short_as_they_can_be():
    keys = ["batch.size", "model.actor_optimizer.learning_rate", "model.critic.learning_rate", "a"]
    assert list(short_names(keys).values()) == [
        *("size", "actor_optimizer.learning_rate", "critic.learning_rate", "a"),
    ]
