"""DreamerV2 (Hafner et al., ICLR 2021) as a PyTorch Lightning project.

`dreamer.train` trains in an environment of yours, `dreamer.load` gives a trained agent. They are
imported when they are first asked for, so that `import dreamer.types` and the like stay light.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dreamer.api import train
    from dreamer.run.load import load

__all__ = ["load", "train"]


def __getattr__(name: str) -> Any:
    if name == "train":
        from dreamer.runtime import prepare

        prepare()  # before torch is loaded, if it is not yet
        from dreamer.api import train

        return train
    if name == "load":
        from dreamer.run.load import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
