"""Every snippet of README.md, CONTRIBUTING.md and docs/: Python is run, commands are checked.

A fenced block says what it is by its language: `python` is run, all of a page in one namespace;
`yaml` is a file of the configuration or a grid; `toml` is a part of a package's pyproject.toml;
none or `bash` are commands; `text` is nothing of that. Commands in the text, in backticks, count
too. A block after "as `path`:" is the content of that file. What no check knows is an error.

Files lie in a folder of the test's own, outside the checkout, and the snippets run there. The pages
of `EXTENSIONS` show a package of a user's: there, commands that train are run, too.
"""

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import entry_points
import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig
from packaging.requirements import Requirement

import dreamer.api
from benchmarks import memory
from dreamer.cli import data, export
from dreamer.run.compose import register_suites
from dreamer.run.config import checked
from dreamer.run.folder import RunFolder
from dreamer.run.pretrained import find_agent
from dreamer.run.settings import CheckSettings
from dreamer.run.train import train
from dreamer.schema.validation import validate_words
from experiments import coverage, dashboard, report, watch
from experiments.search.settings import Search
from experiments.search.space import words_of
from experiments.sweep import args, grid

with pytest.MonkeyPatch.context() as patch:
    patch.setattr("dreamer.runtime.prepare", lambda: None)  # this process is the tests'
    from benchmarks import offline

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")])
EXTENSIONS = [
    ROOT / "docs" / f"{name}.md"
    for name in (
        "component",
        "exploration",
        "head",
        "latent",
        "own_environment",
        "policy",
        "sampler",
    )
]
COMMANDS = (
    "python",
    "pip",
    "pytest",
    "dreamer-",
    "tensorboard",
    "wandb",
    "ls",
    "git clone",
    "PYTHONPATH",
    "apt-get",
    "make ",
    "mkdocs",
    "pre-commit",
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
        if match[1].startswith(COMMANDS) and " " in match[1] and "..." not in match[1]:
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
def conf(page, tmp_path, monkeypatch) -> Iterator[Path]:
    """The configuration, with the files that the page adds to it; its other files lie beside."""
    conf = shutil.copytree(ROOT / "conf", tmp_path / "conf")
    monkeypatch.setattr(grid, "CONF", conf)
    monkeypatch.syspath_prepend(tmp_path)  # a configuration may name a class of the page
    for snippet in snippets(page):
        if snippet.path:
            path = tmp_path / snippet.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(snippet.text)
    suites = [entry_points.read(one.text) for one in snippets(page) if one.language == "toml"]
    known = set(sys.modules)
    with ExitStack() as stack:
        for points in suites or [{}]:
            stack.enter_context(entry_points.installed(tmp_path, "users-package", points))
        register_suites()
        yield conf
    for name in sys.modules.keys() - known:  # another page's package may have the same name
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


# -------------------------------------------------------------------------------- the commands


def check_train(conf: Path, words: list[str]) -> DictConfig | None:
    """Compose what `python train.py` would; of a multirun, the first job."""
    if "--config-dir" in words:
        place = words.index("--config-dir")
        folder = Path(words[place + 1]).absolute()
        assert folder.is_dir(), folder
        words = [*words[:place], *words[place + 2 :], f"hydra.searchpath=['file://{folder}']"]
    options = [word for word in words if word.startswith("-")]
    assert set(options) <= {"-m", "--help", "--cfg"}, options
    if "--help" in options:
        return None
    words = [w for w in words if "=" in w or w.startswith("~")]  # ~key removes it
    words = [re.sub(r"^\+(experiment|debug)=", r"\1=", w) for w in words]
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
    return cfg


def check_evaluate(conf: Path, words: list[str]) -> None:
    with initialize_config_dir(str(conf), version_base="1.3"):
        cfg = compose("evaluate", words)
    assert cfg.pretrained or cfg.run_dir
    if cfg.pretrained:
        assert cfg.pretrained == "my_agent" or find_agent(cfg.pretrained)


def check_export(conf: Path, words: list[str]) -> None:
    _, settings = export.parse(words)
    assert settings.to
    if settings.command:
        check(conf, settings.command)


def check_sweep(conf: Path, words: list[str]) -> None:
    """Read the grid or the search, and compose a job of each variant or at each edge."""
    request = args.parse(words)
    if request.search:
        found = Search.read(request)
        for job in found.jobs("trial000", {}, request.root)[:1]:
            for key, one in found.space.items():
                for value in one.edges:
                    check_train(conf, [*job.words, *words_of({key: value})])
        return
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
        case ["git+file://$PWD" | "."] | ["-e", "."]:
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


def check_mlflow(conf: Path, words: list[str]) -> None:
    from mlflow.cli import cli

    command = cli.commands[words[0]]
    command.make_context(words[0], words[1:])


def check_figures(conf: Path, words: list[str]) -> None:
    from docs.make_figures import main  # noqa: F401 -- run by hand, on runs that take an hour

    whole = ("published", "suites", "boxing", "episode", "animation")
    assert words[0] in whole or words[0].startswith("runs/")


def check_apt(conf: Path, words: list[str]) -> None:
    """What the error names where there is no renderer: all that is asked of a machine."""
    assert words[0] == "install"
    assert set(words[1:]) <= {"libegl1", "libgl1", "libosmesa6"}
    error = (ROOT / "dreamer/envs/opengl.py").read_text()
    assert [word for word in words[1:] if word not in error] == []


def check_make(conf: Path, words: list[str]) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert words and set(words) <= set(targets)


def check_environment(conf: Path, words: list[str]) -> None:
    own = [word for word in words if word.startswith("steps=")]
    validate_words(own, CheckSettings)
    check_train(conf, [word for word in words if word not in own])


def check_docker(conf: Path, words: list[str]) -> None:
    """Targets, services and images exist, and the words for the program compose."""
    targets = re.findall(r"^FROM .* AS (\w+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    if words[0] == "build":
        assert words[words.index("--target") + 1] in targets and words[-1] == "."
    elif words[0] == "run":
        (image,) = [word for word in words if word.startswith("dreamerv2-lightning:")]
        assert image.partition(":")[2] in targets
        own = words[words.index(image) + 1 :]
        if "--entrypoint" in words:
            check(conf, shlex.join([words[words.index("--entrypoint") + 1], *own]))
        else:
            check_train(conf, own)
    else:
        assert words[0] == "compose"
        if "run" in words:
            (service,) = [word for word in words if word in services]
            check_train(conf, words[words.index(service) + 1 :])
        else:
            assert set(words[1:]) <= {"up", "stop", "--build"}


def check_kubectl(conf: Path, words: list[str]) -> None:
    (file,) = [word for word in words if word.endswith(".yaml")]
    assert words[:2] == ["apply", "-f"] and (ROOT / file).is_file()


def check_sbatch(conf: Path, words: list[str]) -> None:
    assert (ROOT / words[0]).is_file()  # run by tests/test_deploy.py
    check_train(conf, words[1:])


CHECKS: dict[str, Callable[[Path, list[str]], object]] = {
    "apt-get": check_apt,
    "make": check_make,
    "mkdocs": lambda conf, words: [{"build": "--strict", "serve": None}[words[0]]],
    "pre-commit install": lambda conf, words: (ROOT / ".pre-commit-config.yaml").read_text(),
    "git clone": lambda conf, words: None,  # of an address that is not known here
    "cd": lambda conf, words: None,  # into what was cloned
    "python3 -m venv": lambda conf, words: None,
    "source": lambda conf, words: [place.index("/bin/activate") for place in words],
    "python train.py": check_train,
    "dreamer-train": check_train,
    "python sweep.py": check_sweep,
    "dreamer-sweep": check_sweep,
    "python -m dreamer.evaluate": check_evaluate,
    "dreamer-evaluate": check_evaluate,
    "python -m dreamer.export": check_export,
    "dreamer-export": check_export,
    "python -m dreamer.check": check_environment,
    "dreamer-check": check_environment,
    "python -m dreamer.data": lambda conf, words: words == ["--help"] or data.parse(words),
    "python -m experiments.report": lambda conf, words: report.parse(words) and None,
    "dreamer-report": lambda conf, words: report.parse(words) and None,
    "python -m experiments.watch": lambda conf, words: watch.parse(words) and None,
    "dreamer-watch": lambda conf, words: watch.parse(words) and None,
    "python -m experiments.coverage": lambda conf, words: coverage.parse(words) and None,
    "python -m experiments.dashboard": lambda conf, words: dashboard.parse(words) and None,
    "python -m benchmarks.memory": lambda conf, words: memory.parse(words) and None,
    "python -m benchmarks.offline": lambda conf, words: offline.parse(words) and None,
    "python -m docs.make_figures": check_figures,
    "pip": check_pip,
    "pytest": check_pytest,
    "wandb": check_wandb,
    "tensorboard": check_tensorboard,
    "mlflow": check_mlflow,
    "docker": check_docker,
    "kubectl": check_kubectl,
    "sbatch": check_sbatch,
    "ls": lambda conf, words: [(ROOT / word).iterdir() for word in words] and None,
}


def check(conf: Path, line: str) -> object:
    """Check one command; returns what the check returns.

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
    "line", ["python trian.py", "amke", "python train.py kl_balanse=1", "pip install -r no.txt"]
)
def test_commands_that_are_wrong_are_found(line):
    with pytest.raises(Exception, match=r"No check|kl_balanse|is_file|no\.txt"):
        check(ROOT / "conf", line)


# -------------------------------------------------------------------------------------- blocks


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_is_of_a_kind_that_is_checked(page):
    kinds = {snippet.language for snippet in snippets(page)}
    assert kinds <= {"python", "yaml", "toml", "bash", "text", "math"}


def yaml_files(page: Path) -> list[Snippet]:
    return [snippet for snippet in snippets(page) if snippet.language == "yaml"]


@pytest.mark.parametrize(("page", "found"), of(PAGES, yaml_files))
def test_files_of_the_configuration_are_understood(page, found, conf, tmp_path):
    path = tmp_path / (found.path or "my.yaml")
    path.write_text(found.text)
    if path.parent.parent.name == "conf":
        group, name = path.parent.name, path.stem
        folder = str(path.parent.parent)
        check_train(conf, ["task=pong", f"{group}={name}", "--config-dir", folder])
    else:
        kind = "search" if "space:" in found.text else "grid"
        check_sweep(conf, [f"{kind}={path}"])


PYTHON_PAGES = [page for page in PAGES if any(s.language == "python" for s in snippets(page))]


@pytest.mark.slow
@pytest.mark.parametrize("page", PYTHON_PAGES, ids=lambda page: page.name)
def test_python_runs(page, conf, trained_run, monkeypatch, tmp_path):
    def train_a_little(env=None, overrides=None, **options):
        dreamer.run.compose.compose({"env": "own"}, overrides or {})  # what the page says
        return train(env, {**(overrides or {}), **SMALL}, **options)

    train = dreamer.api.train
    monkeypatch.setattr(dreamer.api, "train", train_a_little)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained_run, "runs/dummy/memory/tiny/seed0")
    namespace: dict = {"__name__": "snippet"}
    for snippet in snippets(page):
        if snippet.language == "python" and not snippet.path:
            code = compile("\n" * snippet.line + snippet.text, str(page), "exec")
            exec(code, namespace)


# --------------------------------------------------------------------------- a user's package

TRAIN = ("dreamer-train", "python train.py")
SMALL_WORDS = [
    "debug=fast",
    "logger=jsonl",
    "total_frames=200",
    "prefill_policy_steps=150",
    "callbacks.video=null",
    "callbacks.evaluate.episodes=1",
    "callbacks.evaluate.video_policy_steps=0",
]


def training_commands(page: Path) -> list[tuple[int, str]]:
    """Those with words: the name alone is no command."""
    return [(line, one) for line, one in commands(page) if one.startswith(TRAIN) and "=" in one]


@pytest.mark.parametrize("page", EXTENSIONS, ids=lambda page: page.name)
def test_every_extension_is_shown_with_a_command_and_a_file(page):
    assert training_commands(page)
    assert any(snippet.path for snippet in snippets(page))


@pytest.mark.slow
@pytest.mark.parametrize(("page", "found"), of(EXTENSIONS, training_commands))
def test_commands_that_use_a_users_package_train(conf, found, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    cfg = check(conf, " ".join([found[1], *SMALL_WORDS]))
    assert isinstance(cfg, DictConfig)
    assert train(cfg).updates >= 2


@pytest.mark.slow
@pytest.mark.parametrize("page", [ROOT / "docs" / "component.md"], ids=["component.md"])
def test_a_process_outside_the_checkout_uses_a_users_package(page, conf, tmp_path):
    """As `dreamer-train` does where the program is installed."""
    (_, line), *_ = training_commands(page)
    code = "from dreamer.cli.train import run; run()"
    done = subprocess.run(
        [sys.executable, "-c", code, *shlex.split(line)[1:], *SMALL_WORDS],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs/gym/CartPole-v1/debug/seed0/summary.json").exists()


def assigned(source: str) -> list[str]:
    """What a piece of Python assigns to names of modules of ours."""
    tree = ast.parse(source)
    ours = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [(name.asname or name.name.partition(".")[0], name.name) for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [(name.asname or name.name, node.module or "") for name in node.names]
        else:
            continue
        ours |= {name for name, module in names if module.partition(".")[0] == "dreamer"}
    return [
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and ast.unparse(node).partition(".")[0] in ours
    ]


def test_assignments_to_our_names_are_found():
    assert assigned("import dreamer.agent\ndreamer.agent.WorldModel = 3") == [
        "dreamer.agent.WorldModel"
    ]
    assert assigned("from dreamer import agent as a\na.X, b = 3, 4") == ["a.X"]
    assert assigned("import dreamer\nrun = dreamer.train()\nrun.x = 3") == []


@pytest.mark.parametrize("page", PYTHON_PAGES, ids=lambda page: page.name)
def test_no_page_assigns_to_names_of_our_modules(page):
    code = [snippet.text for snippet in snippets(page) if snippet.language == "python"]
    assert [one for text in code for one in assigned(text)] == []
