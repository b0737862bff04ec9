"""Run folders by name: at W&B, as `wandb:<entity>/<project>/<run>`, or of trained agents.

`logger.wandb.artifacts` uploads what a run's agent needs; this downloads it.
"""

import os
import re
from pathlib import Path

from dreamer.run.paths import expanded
from dreamer.run.pretrained import download, is_address, named_folder
from dreamer.schema.words import format_value

SCHEME = "wandb:"
ADDRESS = re.compile(r"wandb:([\w.-]+)/([\w.-]+)/([\w-]+)")


def local_folder(run_dir: Path | str) -> Path:
    """Return the path of a run folder, which is downloaded first if it is an address.

    `pretrained/<name>` is a trained agent of this package, unless there is such a folder here.

    Raises:
        ValueError: The address is not that of a run, or there is no such trained agent.
        FileNotFoundError: There is no such run, or it has uploaded no agent.
    """
    if isinstance(run_dir, str):
        if (folder := named_folder(run_dir)) is not None:
            return folder
        if is_address(run_dir):
            return download(run_dir)
    if not (isinstance(run_dir, str) and run_dir.startswith(SCHEME)):
        return Path(os.path.abspath(expanded(run_dir)))
    match = ADDRESS.fullmatch(run_dir)
    if not match or set(match.groups()) & {".", ".."}:
        raise ValueError(
            f"`run_dir` must be as in wandb:<entity>/<project>/<run id>, "
            f"got {format_value(run_dir)}"
        )
    return _download(*match.groups())


def _download(entity: str, project: str, run_id: str) -> Path:
    """Download the agent of a W&B run to the user's cache, and return its folder."""
    import wandb

    name = f"{entity}/{project}/agent-{run_id}:latest"
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = expanded(caches) / "dreamer" / "wandb" / entity / project / run_id
    try:
        artifact = wandb.Api().artifact(name, type="model")
        artifact.download(root=str(folder))
    except (wandb.Error, ValueError) as error:  # no access, no such run, no connection, no key
        raise FileNotFoundError(f"W&B does not give the artifact {name}: {error}") from error
    return folder
