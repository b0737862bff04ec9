"""Functions that torch's compiler makes for the processor at hand, ahead of time.

Each is made once on a machine and read from the disk in milliseconds ever after, until nobody has
for three months. A call costs a few microseconds, as it asks of its inputs nothing: they must be
what it was made for. `activations.py` and `compiled_steps.py` have the functions.
"""

import hashlib
import os
import platform
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

# Takes contiguous tensors, of the types and, but for dynamic sizes, of the shapes of its examples.
Kernel = Callable[[list[Tensor]], list[Tensor]]

UNUSED = 90 * 24 * 3600  # seconds after which a function that nobody reads is deleted


class _Function(nn.Module):
    """A function in the form that torch exports."""

    def __init__(self, function: Callable[..., Any]):
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(*inputs)


def make(
    path: Path,
    function: Callable[..., Any],
    inputs: Sequence[Tensor],
    dynamic: Sequence[dict[int, Any] | None],
) -> None:
    """Compile a function of tensors and write it down.

    Args:
        path: a file, replaced if it is there; its folder is made.
        function: takes and returns tensors, and changes those it takes, if any, in place.
        inputs: examples.
        dynamic: for each input the `torch.export.Dim` of its axes that may have other sizes.

    Raises:
        RuntimeError: there is no C++ compiler, or none that works.
        OSError: the folder cannot be written to.
    """
    import torch._inductor  # takes a second

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of torch, about itself
        program = torch.export.export(
            _Function(function), tuple(inputs), dynamic_shapes={"inputs": tuple(dynamic)}
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f"{os.getpid()}-{path.name}")
        torch._inductor.aoti_compile_and_package(
            program,
            package_path=str(draft),
            inductor_configs={"cpp.dynamic_threads": True},  # as many as at the call, not as now
        )
    draft.replace(path)  # another process may be doing the same
    for other in path.parent.glob("*.pt2"):
        with suppress(OSError):  # it, too
            if other.stat().st_mtime < time.time() - UNUSED:
                other.unlink()


def load(path: Path) -> Kernel:
    """Read what `make` wrote down, and note that it is used."""
    with suppress(OSError):  # the folder may be somebody else's
        os.utime(path)
    # What torch has for loading imports the compiler: a second, and 70 MB.
    loader = torch._C._aoti.AOTIModelPackageLoader  # pyright: ignore[reportAttributeAccessIssue]
    run = loader(str(path), "model", False, 1, -1).boxed_run
    # A second caller would wait for the first within torch, with Python's lock, which that one
    # needs.
    one_at_a_time = threading.Lock()

    def kernel(inputs: list[Tensor]) -> list[Tensor]:
        with one_at_a_time:
            return run(inputs)

    return kernel


def path_of(name: str, *made_of: str) -> Path:
    """Where a function lies in the user's cache, by what it is made of and for."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    everything = "\n".join((torch.__version__, _processor(), *made_of))
    digest = hashlib.sha256(everything.encode()).hexdigest()[:16]
    return caches / "dreamer" / f"{name}-{digest}.pt2"


def _processor() -> str:
    """The processor's name and what it can do."""
    try:
        lines = Path("/proc/cpuinfo").read_text().partition("\n\n")[0].splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(x for x in lines if x.startswith(("model name", "flags", "Features")))
