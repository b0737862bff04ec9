"""DreamerV2 (Hafner et al., ICLR 2021) as a PyTorch Lightning project.

`dreamer.train` trains an agent in your environment; `dreamer.load` loads a trained one. Both are
imported on first use, so that `import dreamer.types` and similar imports are fast.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dreamer.api import train
    from dreamer.run.load import load

__all__ = ["load", "train"]


def __getattr__(name: str) -> Any:
    if name == "train":
        from dreamer.runtime import prepare

        prepare()  # before torch is imported
        from dreamer.api import train

        return train
    if name == "load":
        from dreamer.run.load import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
