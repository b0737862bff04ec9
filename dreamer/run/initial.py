"""Initial weights of a run, from an earlier run, the authors' program or PyDreamer.

`train.py` loads them before optimisers, kernels and policies are made. It knows the names and
shapes of weights, but not what the networks compute.
"""

import copy
import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig
from torch import Tensor

from dreamer.agent import DreamerAgent
from dreamer.checkpoint_file import read_checkpoint
from dreamer.convert import load_pydreamer, load_variables_pkl
from dreamer.files import DamagedFile
from dreamer.models.world_model import rename_heads
from dreamer.run.folder import RunFolder
from dreamer.tensor_file import SUFFIX, load_tensors

MUST = "`init_from` must be a run folder or a checkpoint"
# Files of other programs, by what their names end in.
FOREIGN: dict[str, Callable[..., Any]] = {".pkl": load_variables_pkl, ".pt": load_pydreamer}
NAMED = 3  # parts of a network that a line of the summary names


class Matched(NamedTuple):
    """Names of the weights of a checkpoint (there) and of an agent (here)."""

    loaded: list[str]
    unwanted: list[str]  # anywhere: `init_weights` leaves them out
    superfluous: list[str]  # only there
    missing: list[str]  # only here
    misfits: dict[str, str]  # of another shape: both shapes, in words


@torch.no_grad()
def load_initial(cfg: DictConfig, agent: DreamerAgent) -> dict[str, str]:
    """Load the weights of `init_from` that fit into the agent; no optimisers and no counters.

    Weights change in place, so nothing that copies or replaces networks may come before. All others
    keep their random values.

    Args:
        cfg: Keys `init_from` and `init_weights`.
        agent: As built.

    Returns:
        Lines of the start-up summary, by name; none without `init_from`.

    Raises:
        ValueError: There is no such file; it is damaged or of a later version; or no matrix in it
            fits. Nothing is loaded.
    """
    if cfg.init_from is None:
        return {}
    source, there = _read(Path(cfg.init_from), agent)
    here: dict[str, Tensor] = agent.state_dict(keep_vars=True)
    matched = _match(there, here, only_world_model=cfg.init_weights == "world_model")
    if not any(here[name].ndim > 1 for name in matched.loaded):
        misfits = matched.misfits.items()
        example = next((f" (for example {name}: {both})" for name, both in misfits), "")
        raise ValueError(
            f"`init_from` must hold weights that fit this agent, got {cfg.init_from}, of which no "
            f"matrix has the name and shape of one here{example}. Use the same model and sizes."
        )
    for name in matched.loaded:
        here[name].copy_(there[name])
    return {"weights": source, **_describe(matched, there, here)}


def check_same_weights(path: Path, agent: DreamerAgent, remedies: str) -> None:
    """Check that a checkpoint of a run holds the weights of this agent, to go on with them.

    Args:
        path: The checkpoint.
        agent: As built.
        remedies: The end of the message: what to do.

    Raises:
        ValueError: It is that of another agent; the message names a weight that differs.
    """
    try:
        there, here = _weights(read_checkpoint(path)), agent.state_dict()
    except ValueError as error:
        raise ValueError(f"{path} is no checkpoint of an agent: {error}. {remedies}") from error
    for name in sorted(there.keys() | here.keys()):
        shapes = [_shape(x[name]) if name in x else "none" for x in (there, here)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"{path} is the checkpoint of another run: it differs in {name} (there "
                f"{shapes[0]}, here {shapes[1]}). {remedies}"
            )


def _weights(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the weights in a checkpoint, by their current names.

    Raises:
        ValueError: There are none.
    """
    weights = state.get("state_dict")
    if not isinstance(weights, Mapping):
        raise ValueError("it holds no weights")
    weights = {key: value for key, value in weights.items() if isinstance(value, Tensor)}
    rename_heads(None, weights, "world_model.")
    return weights


def _read(path: Path, agent: DreamerAgent) -> tuple[str, dict[str, Tensor]]:
    """Return a description of a source, and its weights by their names in a checkpoint."""
    if not path.exists():
        raise ValueError(f"{MUST}, got {path}, which does not exist")
    try:
        if load := FOREIGN.get(path.suffix):
            return str(path), _read_foreign(load, path, agent)
        if path.suffix == SUFFIX and path.is_file():
            return str(path), _weights({"state_dict": load_tensors(path)})
        return _read_checkpoint(path)
    except (ValueError, OSError, EOFError, TypeError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split()[:80]) or type(error).__name__
        raise ValueError(f"{MUST}, got {path}: {reason}") from error


def _read_checkpoint(path: Path) -> tuple[str, dict[str, Tensor]]:
    folder = RunFolder(path if path.is_dir() else path.parent.parent)
    if path.is_dir() and not folder.last.exists():
        raise ValueError("it has no checkpoints/last.ckpt")
    # Only the version matters here.
    with suppress(OSError, DamagedFile):
        folder.config()
    file = folder.last if path.is_dir() else path
    state = read_checkpoint(file)
    return f"{file}, of frame {state['counters']['frames']:,}", _weights(state)


def _read_foreign(load: Callable[..., Any], path: Path, agent: DreamerAgent) -> dict[str, Tensor]:
    """Read a file of another program, whose networks must be those of the agent."""
    model, heads = copy.deepcopy((agent.world_model, agent.actor_critic))
    load(path, model, heads)
    parts = {"world_model": model, "actor_critic": heads}
    return {
        f"{part}.{key}": x for part, net in parts.items() for key, x in net.state_dict().items()
    }


def _match(
    there: Mapping[str, Tensor], here: Mapping[str, Tensor], *, only_world_model: bool
) -> Matched:
    def is_wanted(name: str) -> bool:
        return not only_world_model or name.startswith("world_model.")

    matched = Matched([], [], [], [], {})
    seen: set[int] = set()
    for name, value in here.items():
        other = there.get(name)
        if id(value) in seen:  # a second name of a weight: a critic that is its own target
            continue
        seen.add(id(value))
        if not is_wanted(name):
            matched.unwanted.append(name)
        elif other is None:
            matched.missing.append(name)
        elif other.shape != value.shape:
            matched.misfits[name] = f"there {_shape(other)}, here {_shape(value)}"
        else:
            matched.loaded.append(name)
    for name in sorted(there.keys() - here.keys()):
        (matched.superfluous if is_wanted(name) else matched.unwanted).append(name)
    return matched


def _describe(matched: Matched, there: Iterable[str], here: Iterable[str]) -> dict[str, str]:
    """Describe what was matched: a line per kind, grouped by network."""
    whole = _grouped(here)
    unwanted = ", ".join(_grouped(matched.unwanted))
    superfluous = _named(matched.superfluous, _grouped(there))
    not_loaded = [
        *([f"{unwanted} (init_weights=world_model)"] if unwanted else []),
        *([f"not in this agent: {superfluous}"] if superfluous else []),
    ]
    loaded = (
        network
        if len(names) == len(whole[network])
        else f"{len(names)} of {len(whole[network])} tensors of {network}"
        for network, names in _grouped(matched.loaded).items()
    )
    misfits = (
        f"{network}: "
        + _listed([f"{rest} ({matched.misfits[name]})" for name, rest in names.items()], 1)
        for network, names in _grouped(matched.misfits).items()
    )
    lines = {
        "loaded": ", ".join(loaded),
        "not loaded": "; ".join(not_loaded),
        "not found": _named(matched.missing, whole),
        "does not fit": "; ".join(misfits),
    }
    return {kind: line for kind, line in lines.items() if line}


def _named(names: Iterable[str], whole: Mapping[str, Mapping[str, str]]) -> str:
    """Name networks; if not all weights of one are meant, also its parts."""
    texts = []
    for network, some in _grouped(names).items():
        parts = list(dict.fromkeys(".".join(rest.split(".")[:2]) for rest in some.values()))
        is_whole = len(some) == len(whole[network])
        texts.append(network if is_whole else f"{network} ({_listed(parts, NAMED)})")
    return ", ".join(texts)


def _listed(texts: Sequence[str], count: int) -> str:
    """List the first texts, and count the others."""
    others = len(texts) - count
    return ", ".join(texts[:count]) + (f" and {others} more" if others > 0 else "")


def _grouped(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Group names by network, with what follows the network: rssm.out.weight of world model."""
    groups: dict[str, dict[str, str]] = {}
    for name in names:
        parts = name.split(".")
        count = 2 if parts[0] in ("actor_critic", "components") and len(parts) > 2 else 1
        network = parts[count - 1]
        if parts[0] != "components":
            network = network.replace("_", " ")
        groups.setdefault(network, {})[name] = ".".join(parts[count:])
    return groups


def _shape(value: Tensor) -> str:
    return " x ".join(map(str, value.shape)) or "a scalar"
