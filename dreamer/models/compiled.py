"""What torch's compiler makes for the machine at hand: ELU on CPUs, recurrent steps on GPUs.

torch's own kernels are made for many processors, and on CPUs its `expm1` takes three times as long
as one for this processor alone. A run that asks for it lets its networks take this one: made once
on a machine, for any number of numbers, and read from the disk in milliseconds ever after.

On GPUs the small operations between the products of a recurrent step, some forty with their
gradients, take as long as their number says. Compiled they are eleven.
"""

import functools
import hashlib
import os
import platform
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dreamer.models.mlp import ACTIVATIONS, DenseLayer
from dreamer.models.recurrent import GRUCell, advance
from dreamer.models.rssm import RSSM
from dreamer.models.unrolled import PLAIN, Between
from dreamer.models.vision import ConvDecoder, ConvEncoder

LARGE = 2**14  # numbers; with fewer, the call takes longer than what is saved
DTYPES = (torch.float32, torch.bfloat16)

# A second caller would wait for the first within torch, with Python's lock, which that one needs.
_one_at_a_time = threading.Lock()


def compile_activations(module: nn.Module) -> bool:
    """Let every ELU in a module be the compiled one, and compile it now; tells if there is any.

    Raises:
        RuntimeError: there is no C++ compiler, or none that works.
        OSError: there is no folder to keep the result in.
    """
    layers = [x for x in module.modules() if isinstance(x, DenseLayer | ConvEncoder | ConvDecoder)]
    layers = [layer for layer in layers if layer.activation is ACTIVATIONS["elu"]]
    if layers:
        if not are_kept():
            print("Compiling activations for this processor, once: up to half a minute.")
        for dtype in DTYPES:
            _kernel(dtype)
    for layer in layers:
        layer.activation = compiled_elu
    return bool(layers)


def compile_recurrence(module: nn.Module, device: torch.device) -> None:
    """Let every recurrent model in a module take compiled functions between its products.

    They are compiled when they are first called, for the sizes they are called with, and once more
    for any others. A call takes the host longer than the operations it replaces do: they are for
    recordings.

    Raises:
        RuntimeError: nothing can be compiled for the device.
    """
    _compiled(_add_one)(torch.zeros(2, device=device))  # before anything depends on it
    for part in module.modules():
        if isinstance(part, RSSM):
            part.between = _compiled_between()
        if isinstance(part, GRUCell):
            part.advance = _compiled(advance)


@functools.cache
def _compiled_between() -> Between:
    return Between(*map(_compiled, PLAIN))


@functools.cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, fullgraph=True)


def _add_one(x: Tensor) -> Tensor:
    return x + 1


def are_kept() -> bool:
    """Whether an earlier run has compiled them: reading them takes milliseconds."""
    return all(_path(dtype).exists() for dtype in DTYPES)


def compiled_elu(x: Tensor) -> Tensor:
    """`F.elu(x, inplace=True)`: (...) -> (...), with its gradient."""
    if x.numel() < LARGE or x.device.type != "cpu" or x.dtype not in DTYPES:
        return F.elu_(x)
    if not (x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)):
        return F.elu_(x)
    if not (torch.is_grad_enabled() and x.requires_grad):
        return _elu_(x)
    y = _Elu.apply(x)
    assert isinstance(y, Tensor)
    return y


class _Elu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        return _elu_(x)

    @staticmethod
    @once_differentiable
    def backward(ctx, *grad_outputs: Tensor):
        (y,) = ctx.saved_tensors
        return torch.ops.aten.elu_backward(grad_outputs[0], 1, 1, 1, True, y)


def _elu_(x: Tensor) -> Tensor:
    """Change a tensor without gaps."""
    with _one_at_a_time:
        _kernel(x.dtype)([x.as_strided((x.numel(),), (1,))])  # its memory as one row
    return x


@functools.cache
def _kernel(dtype: torch.dtype) -> Callable[[list[Tensor]], object]:
    """ELU of a list of one row (n,), in place."""
    path = _path(dtype)
    if not path.exists():
        _compile(dtype, path)
    # What torch has for loading imports the compiler: a second, and 70 MB.
    loader = torch._C._aoti.AOTIModelPackageLoader  # pyright: ignore[reportAttributeAccessIssue]
    return loader(str(path), "model", False, 1, -1).boxed_run


class _Definition(nn.Module):
    """What is compiled, of a row (n,)."""

    def forward(self, x: Tensor) -> None:
        x.copy_(torch.where(x > 0, x, torch.expm1(x)))


def _compile(dtype: torch.dtype, path: Path) -> None:
    import torch._inductor  # takes a second

    sizes = {"x": {0: torch.export.Dim("numbers", min=2)}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about itself
        program = torch.export.export(
            _Definition(), (torch.zeros(LARGE, dtype=dtype),), dynamic_shapes=sizes
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f"{os.getpid()}-{path.name}")
        torch._inductor.aoti_compile_and_package(
            program,
            package_path=str(draft),
            inductor_configs={"cpp.dynamic_threads": True},  # as many as at the call, not as now
        )
    draft.replace(path)  # another process may be doing the same


def _path(dtype: torch.dtype) -> Path:
    """Where the kernel lies, by all that it was made of and for."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    made_of = (torch.__version__, _processor(), Path(__file__).read_text())
    name = hashlib.sha256("\n".join(made_of).encode()).hexdigest()[:16]
    return caches / "dreamer" / f"elu-{str(dtype).removeprefix('torch.')}-{name}.pt2"


def _processor() -> str:
    """The processor's name and what it can do."""
    try:
        lines = Path("/proc/cpuinfo").read_text().partition("\n\n")[0].splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(x for x in lines if x.startswith(("model name", "flags", "Features")))
