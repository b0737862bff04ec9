"""Export a trained agent: `python -m dreamer.export runs/... to=my_agent`.

It writes the weights with what is needed to play, and the scores of episodes with recorded seeds.
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dreamer.cli.command import HELP, fail, interruptible, loaded, start
from dreamer.schema.usage import Usage

if TYPE_CHECKING:
    from dreamer.run.export_settings import ExportSettings

USAGE = Usage(
    "Write the agent of a run to a small folder, without optimisers and replay, and the scores of "
    "episodes that it plays. dreamer.load and python -m dreamer.evaluate take such a folder.",
    "python -m dreamer.export RUN to=... [key=value ...], or dreamer-export",
    (
        (
            "python -m dreamer.export runs/dummy/memory/tiny/seed0 to=my_agent",
            "Writes the best weights as float16, and the scores of 20 episodes.",
        ),
        (
            "python -m dreamer.export runs/dummy/memory/tiny/seed0 to=s3://bucket/my_agent",
            "Writes them to an address of fsspec.",
        ),
    ),
)


def parse(words: Sequence[str]) -> tuple[str, "ExportSettings"]:
    """Return the run folder and the keys.

    Raises:
        ValueError: An argument is missing or not allowed.
    """
    from dreamer.run.export_settings import ExportSettings
    from dreamer.schema.validation import validate_words

    folders = [word for word in words if "=" not in word or "/" in word.partition("=")[0]]
    keys = validate_words([word for word in words if word not in folders], ExportSettings)
    if len(folders) != 1:
        got = " ".join(folders) or "none"
        raise ValueError(f"There must be one run folder, got {got}")
    return folders[0], ExportSettings(**keys)


def main(words: Sequence[str]) -> int:
    """Run the command, and return the exit status: 2 on an error."""
    if not words or HELP & set(words):
        from dreamer.run.export_settings import ExportSettings
        from dreamer.schema.help import head, keys, print_lines

        print_lines([*head(USAGE), *keys({}, ExportSettings)])
        return 0 if words else 2
    try:
        folder, settings = parse(words)
        from dreamer.run.export import export

        loaded()
        scores = export(folder, settings)
    except (ValueError, OSError, ImportError) as error:
        fail(error)
    except Exception as error:
        from dreamer.envs.faults import EnvironmentFault  # slow, but loaded by now

        if not isinstance(error, EnvironmentFault):
            raise
        fail(error)
    low, high = scores["interval"]
    print(
        f"Written to {settings.to}: mean return {scores['mean']:.2f} [{low:.2f}, {high:.2f}] over "
        f"{scores['episodes']} episodes"
    )
    return 0


def run() -> None:
    """Run the command with the arguments of this process, and end the process."""
    words = sys.argv[1:]
    start("an export:", words or sorted(HELP))
    interruptible(main, words)


if __name__ == "__main__":
    run()
