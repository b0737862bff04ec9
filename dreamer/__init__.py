"""DreamerV2 (Hafner et al., ICLR 2021) as a PyTorch Lightning project.

`dreamer.load` gives a trained agent. It is imported when it is first asked for, so that
`import dreamer.types` and the like stay light.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dreamer.player import load

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from dreamer import player

    return getattr(player, name)
