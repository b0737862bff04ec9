"""Every snippet of README.md and docs/: Python is run, commands are checked in a real way.

A fenced block says what it is by its language: `python` is run, all of a page in one namespace;
`yaml` is a file of the configuration or a grid; none or `bash` are commands; `text` is nothing of
that. Commands in the text, in backticks, count too. A block after "as `path`:" is the content
of that file. What no check knows is an error.
"""

import re
import shlex
import shutil
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from packaging.requirements import Requirement

import dreamer.library
from dreamer.config import checked
from dreamer.run_folder import RunFolder
from dreamer.schema.validation import validate_words
from dreamer.settings import CheckSettings
from experiments import command, dashboard, grid, report

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/*.md")])
COMMANDS = (
    "python",
    "pip",
    "pytest",
    "dreamer-",
    "tensorboard",
    "wandb",
    "ls",
    "git",
    "PYTHONPATH",
)
SMALL = {  # instead of what a page says, so that it takes a second
    "debug": "fast",
    "logger": "jsonl",
    "total_frames": 200,
    "prefill_policy_steps": 150,
    "callbacks": {"video": None, "evaluate": {"episodes": 1, "video_policy_steps": 0}},
}


class Snippet(NamedTuple):
    """A fenced block, or a command in the text."""

    line: int
    language: str
    text: str
    path: str | None = None  # of the file that it is the content of


def snippets(page: Path) -> list[Snippet]:
    """All of a page."""
    text, found = page.read_text(), []
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        line = text.count("\n", 0, match.start()) + 1
        path = re.search(r"as `([\w./]+)`:\n\n$", text[: match.start()])
        found.append(Snippet(line, match[1] or "bash", match[2], path and path[1]))
    prose = re.sub(r"^```.*?^```$", lambda m: "\n" * m[0].count("\n"), text, flags=re.M | re.S)
    for match in re.finditer(r"`([^`\n]+)`", prose):
        if match[1].split()[0].startswith(COMMANDS) and " " in match[1] and "..." not in match[1]:
            line = prose.count("\n", 0, match.start()) + 1
            found.append(Snippet(line, "bash", match[1]))
    return found


def commands(page: Path) -> list[tuple[int, str]]:
    """Every command of a page, with its line."""
    return [
        (snippet.line, one.strip())
        for snippet in snippets(page)
        if snippet.language == "bash"
        for line in snippet.text.splitlines()
        for one in re.sub(r"\s#.*", "", line).split("&&")
        if one.strip()
    ]


def of(pages: list[Path], find: Callable[[Path], list]) -> list:
    """Parameters of a test: page, what was found, and a name."""
    return [
        pytest.param(page, found, id=f"{page.name}:{found[0]}")
        for page in pages
        for found in find(page)
    ]


@pytest.fixture
def conf(page, tmp_path, monkeypatch) -> Path:
    """The configuration, with the files that the page adds to it; its other files lie beside."""
    conf = shutil.copytree(ROOT / "conf", tmp_path / "conf")
    monkeypatch.setattr(grid, "CONF", conf)
    monkeypatch.syspath_prepend(tmp_path)  # a configuration may name a class of the page
    for snippet in snippets(page):
        if snippet.path:
            path = tmp_path / snippet.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(snippet.text)
    return conf


# -------------------------------------------------------------------------------- the commands


def check_train(conf: Path, words: list[str]) -> None:
    """Compose what `python train.py` would; of a multirun, the first job."""
    options = [word for word in words if word.startswith("-")]
    assert set(options) <= {"-m", "--help", "--cfg"}, options
    if "--help" in options:
        return
    words = [re.sub(r"^\+(experiment|debug)=", r"\1=", w) for w in words if "=" in w]
    overrides = OverridesParser.create().parse_overrides(words)
    sweeps = [one.is_sweep_override() for one in overrides]
    assert any(sweeps) == ("-m" in options), words
    first = [
        f"{one.get_key_element()}={next(iter(one.sweep_string_iterator()))}" if sweep else word
        for word, one, sweep in zip(words, overrides, sweeps, strict=True)
    ]
    with initialize_config_dir(str(conf), version_base="1.3"):
        cfg = compose("train", first)
    RunFolder.of(checked(cfg))


def check_evaluate(conf: Path, words: list[str]) -> None:
    with initialize_config_dir(str(conf), version_base="1.3"):
        assert compose("evaluate", words).run_dir


def check_sweep(conf: Path, words: list[str]) -> None:
    """Read the grid, and compose a job of each variant."""
    request = command.parse(words)
    jobs = grid.Grid.read(request.grid, request.choice).jobs(request.root)
    assert jobs
    for words in {job.words[:1]: job.words for job in jobs}.values():
        check_train(conf, list(words))


def check_pip(conf: Path, words: list[str]) -> None:
    assert words.pop(0) == "install"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["tool"]["setuptools"]["dynamic"]["optional-dependencies"]
    match words:
        case ["-r", file]:
            assert (ROOT / file).is_file()
        case ["git+file://$PWD" | "."]:
            assert "build-system" in project  # tests/test_packaging.py installs it
        case [word] if word.startswith("."):
            assert word[2:-1] in extras
        case _:
            for word in words:
                Requirement(word)


def check_pytest(conf: Path, words: list[str]) -> None:
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    marks = {mark.partition(":")[0] for mark in options["markers"]}
    if words[:1] == ["-n"]:
        assert words[1] == "auto"  # pytest-xdist: a worker a core
        words = words[2:]
    if words[:1] == ["-m"]:
        assert words[1].removeprefix("not ") in marks
        words = words[2:]
    assert all((ROOT / word).exists() for word in words)


def check_wandb(conf: Path, words: list[str]) -> None:
    import wandb.cli.cli

    assert words[0] in wandb.cli.cli.cli.commands
    if words[0] == "sweep":
        assert (ROOT / words[-1]).is_file()  # read by tests/test_wandb_sweep.py


def check_tensorboard(conf: Path, words: list[str]) -> None:
    assert shutil.which("tensorboard", path=Path(sys.executable).parent)
    assert words[0] == "--logdir" and len(words) == 2


def check_figures(conf: Path, words: list[str]) -> None:
    from docs.make_figures import main  # noqa: F401 -- run by hand, on runs that take an hour

    assert words[0] in ("published", "suites") or words[0].startswith("runs/")


def check_environment(conf: Path, words: list[str]) -> None:
    own = [word for word in words if word.startswith("steps=")]
    validate_words(own, CheckSettings)
    check_train(conf, [word for word in words if word not in own])


CHECKS: dict[str, Callable[[Path, list[str]], None]] = {
    "python train.py": check_train,
    "dreamer-train": check_train,
    "python sweep.py": check_sweep,
    "python -m dreamer.evaluate": check_evaluate,
    "dreamer-evaluate": check_evaluate,
    "python -m dreamer.envs.check": check_environment,
    "dreamer-check": check_environment,
    "python -m experiments.report": lambda conf, words: report.parse(words) and None,
    "python -m experiments.dashboard": lambda conf, words: dashboard.parse(words) and None,
    "python -m docs.make_figures": check_figures,
    "pip": check_pip,
    "pytest": check_pytest,
    "wandb": check_wandb,
    "tensorboard": check_tensorboard,
    "ls": lambda conf, words: [(ROOT / word).iterdir() for word in words] and None,
}


def check(conf: Path, line: str) -> None:
    """Check one command.

    Raises:
        LookupError: no check knows it.
    """
    words = shlex.split(line)
    for length in (3, 2, 1):
        known = " ".join(words[:length])
        if known in CHECKS and len(words) >= length:
            return CHECKS[known](conf, words[length:])
    raise LookupError(f"No check in {Path(__file__).name} knows what this is: {line}")


@pytest.mark.parametrize(("page", "found"), of(PAGES, commands))
def test_commands_are_understood(conf, found, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    _, line = found
    if line not in (*CHECKS, "pip install"):  # the name of a command, in a sentence
        check(conf, line)


@pytest.mark.parametrize(
    "line", ["python trian.py", "make", "python train.py kl_balanse=1", "pip install -r no.txt"]
)
def test_commands_that_are_wrong_are_found(line):
    with pytest.raises(Exception, match=r"No check|kl_balanse|is_file|no\.txt"):
        check(ROOT / "conf", line)


# -------------------------------------------------------------------------------------- blocks


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_is_of_a_kind_that_is_checked(page):
    kinds = {snippet.language for snippet in snippets(page)}
    assert kinds <= {"python", "yaml", "bash", "text"}


def yaml_files(page: Path) -> list[Snippet]:
    return [snippet for snippet in snippets(page) if snippet.language == "yaml"]


@pytest.mark.parametrize(("page", "found"), of(PAGES, yaml_files))
def test_files_of_the_configuration_are_understood(page, found, conf, tmp_path):
    path = tmp_path / (found.path or "my.yaml")
    path.write_text(found.text)
    if path.is_relative_to(conf):
        group, name = path.parent.name, path.stem
        check_train(conf, ["task=pong", f"{group}={name}"])
    else:
        check_sweep(conf, [f"grid={path}"])


PYTHON_PAGES = [page for page in PAGES if any(s.language == "python" for s in snippets(page))]


@pytest.mark.parametrize("page", PYTHON_PAGES, ids=lambda page: page.name)
def test_python_runs(page, conf, trained_run, monkeypatch, tmp_path):
    def train_a_little(env=None, overrides=None, **options):
        dreamer.compose.compose({"env": "own"}, overrides or {})  # what the page says
        return train(env, {**(overrides or {}), **SMALL}, **options)

    train = dreamer.library.train
    monkeypatch.setattr(dreamer.library, "train", train_a_little)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    shutil.copytree(trained_run, "runs/dummy/memory/tiny/seed0")
    namespace: dict = {"__name__": "snippet"}
    for snippet in snippets(page):
        if snippet.language == "python" and not snippet.path:
            code = compile("\n" * snippet.line + snippet.text, str(page), "exec")
            exec(code, namespace)
