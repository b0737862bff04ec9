"""Who may import whom, read from the source."""

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent

# Packages and modules by layer, the lowest first; a module's layer is that of the longest name.
LAYERS = (
    ("schema",),
    (
        *("types", "losses", "distributions", "bounded_normals", "schedules"),
        *("class_distributions", "finite_check", "loss_scaling", "precision", "optim"),
        *("captions", "carried_state", "video", "runtime", "array_pickle"),
        *("files", "checkpoint_file", "tensor_file"),
    ),
    ("models", "replay", "envs"),
    (
        *("agent", "pydreamer", "components", "exploration", "policy"),
        *("probes", "collector", "data"),
    ),
    ("kernels",),
    ("callbacks", "loggers", "evaluation", "inference", "convert", "convert_pydreamer"),
    ("run",),
    ("api", "cli", "evaluate", "check", "export", "data.__main__"),
)
LAYER_OF = {f"dreamer.{name}": n for n, names in enumerate(LAYERS) for name in names}
ENTRY_POINTS = ("train", "sweep", "dreamer.cli", "dreamer.api", "experiments")


def modules() -> dict[str, Path]:
    paths = [
        *ROOT.glob("*.py"),
        *(p for name in ("dreamer", "experiments") for p in (ROOT / name).rglob("*.py")),
    ]
    return {
        ".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p
        for p in paths
    }


def imports(path: Path) -> Iterator[str]:
    """Everything a file imports, wherever in it: `from a.b import c` is a.b and a.b.c."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield node.module or ""
            yield from (f"{node.module}.{name.name}" for name in node.names)


IMPORTS = {name: set(imports(path)) for name, path in modules().items()}


def within(module: str, *packages: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in packages)


def violations(who: tuple[str, ...], what: tuple[str, ...], but: tuple[str, ...] = ()) -> list[str]:
    """Imports of `what` by the modules `who` (all if empty), those in `but` excepted."""
    return [
        f"{module} imports {name}"
        for module, names in IMPORTS.items()
        if (within(module, *who) or not who) and not within(module, *but)
        for name in sorted(names)
        if within(name, *what)
    ]


def test_imports_are_found():
    assert violations(("dreamer.envs.atari",), ("ale_py",))
    assert violations(("dreamer.models.rssm",), ("torch.nn",))
    assert violations(("dreamer.cli.evaluate",), ("dreamer.run.evaluate",))  # inside a function


def test_models_know_no_env_no_replay_and_no_lightning():
    beyond = ("dreamer.envs", "dreamer.replay", "dreamer.collector", "pytorch_lightning")
    assert violations(("dreamer.models",), (*beyond, "lightning")) == []


PROCESSOR_WORDS = {
    *("get_num_threads", "set_num_threads", "ops", "jit", "compile", "compiler", "_dynamo"),
    *("autocast", "is_autocast_enabled", "get_autocast_dtype", "amp", "backends", "cuda"),
    *("mkldnn", "memory_format", "platform", "cpuinfo", "environ", "is_cuda", "is_cpu"),
}


def processor_words(source: str) -> list[str]:
    """What in a file asks for a processor, its threads, its precision or the kind of a device."""
    found = []
    for node in ast.walk(ast.parse(source)):
        name = getattr(node, "attr", None) or getattr(node, "id", None)
        if name in PROCESSOR_WORDS or (name == "type" and "device" in ast.dump(node)):
            found.append(name)
        if isinstance(node, ast.Constant) and node.value in ("/proc/cpuinfo", "cuda", "cpu"):
            found.append(node.value)
    return found


def test_models_are_plain_torch():
    """What a processor runs fastest is the business of `kernels`, and that of the Trainer."""
    assert violations(("dreamer.models",), ("dreamer.kernels",)) == []
    paths = [*(ROOT / "dreamer" / "models").glob("*.py")]
    assert len(paths) >= 8
    assert {p.name: found for p in paths if (found := processor_words(p.read_text()))} == {}


def test_words_of_processors_are_found():
    sources = {
        "torch.get_num_threads()": ["get_num_threads"],
        "x.device.type == 'mps'": ["type"],
        "torch.device('cpu')": ["cpu"],
        "torch.is_autocast_enabled(kind)": ["is_autocast_enabled"],
        "torch.ops.aten.view(x)": ["ops"],
        "type(x)": [],
    }
    assert {source: processor_words(source) for source in sources} == sources


def test_from_the_world_models_loss_to_torch_are_few_files():
    """At most thirteen, of 2,400 lines in all, for whoever wants to read the whole algorithm."""
    files, left = set(), ["dreamer.models.world_model"]
    while left:
        module = left.pop()
        if module not in files:
            files.add(module)
            left += [name for name in IMPORTS[module] if name in IMPORTS and name != "dreamer"]
    # An empty package, and what checks configurations.
    files = {name for name in files if not within(name, "dreamer.schema")} - {"dreamer.models"}
    lines = sum(len(modules()[module].read_text().splitlines()) for module in files)
    assert {"dreamer.models.rssm", "dreamer.models.vision", "dreamer.losses"} <= files
    assert len(files) <= 13, sorted(files)
    assert lines <= 2400


def test_replay_and_envs_know_no_networks():
    packages = ("dreamer.replay", "dreamer.envs", "dreamer.collector")
    assert violations(packages, ("torch.nn", "dreamer.models")) == []


def test_replay_and_envs_do_not_know_each_other():
    assert violations(("dreamer.replay",), ("dreamer.envs", "dreamer.collector")) == []
    assert violations(("dreamer.envs", "dreamer.collector"), ("dreamer.replay",)) == []


def test_only_the_data_module_of_the_replay_knows_lightning():
    lightning = ("pytorch_lightning", "lightning")
    assert violations(("dreamer.replay",), lightning, but=("dreamer.replay.dataset",)) == []


def test_types_and_losses_know_nothing_of_the_project():
    assert violations(("dreamer.types", "dreamer.losses"), ("dreamer",)) == []


def test_only_run_and_the_entry_points_know_hydra():
    allowed = (*ENTRY_POINTS, "dreamer.run")
    assert violations((), ("hydra", "omegaconf"), but=allowed) == []


def test_learning_and_acting_do_not_know_each_other():
    assert violations(("dreamer.agent",), ("dreamer.policy",)) == []
    assert violations(("dreamer.policy",), ("dreamer.agent",)) == []


def test_experiments_and_dreamer_do_not_know_each_other():
    assert violations(("dreamer",), ("experiments",)) == []
    # They read paths, names of files and the files of a replay, declare and check any words, have
    # what all commands do first and last, and upload a report.
    run = ("dreamer.run.migrate", "dreamer.run.variant", "dreamer.run.paths")
    allowed = (*run, "dreamer.replay.storage", "dreamer.schema", "dreamer.cli.command")
    allowed += ("dreamer.loggers.mlflow", "dreamer.files")
    found = violations(("experiments",), ("dreamer",), but=("experiments.sweep",))
    assert [line for line in found if not within(line.rpartition(" ")[2], *allowed)] == []


def test_only_its_own_file_imports_the_emulator():
    assert violations((), ("ale_py",), but=("dreamer.envs.atari",)) == []


def test_every_module_has_a_layer_and_imports_only_downwards():
    def layer(module: str) -> int:
        parts = module.split(".")
        names = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
        return next(LAYER_OF[name] for name in names if name in LAYER_OF)

    upward = [
        f"{module} imports {name}"
        for module, names in IMPORTS.items()
        if module.startswith("dreamer.")
        for name in sorted(names & IMPORTS.keys() - {"dreamer"})
        if layer(name) > layer(module)
    ]
    assert upward == []


def test_imports_form_no_circle():
    graph = {module: (names & IMPORTS.keys()) - {module} for module, names in IMPORTS.items()}
    order = list(graphlib.TopologicalSorter(graph).static_order())
    assert order.index("dreamer.types") < order.index("dreamer.run.train") < order.index("train")
