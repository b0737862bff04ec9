"""What torch's compiler makes for the machine at hand: ELU and dreams on CPUs, recurrences on GPUs.

torch's own kernels are made for many processors, and on CPUs its `expm1` takes three times as long
as one for this processor alone. A run that asks for it lets its networks take this one, for any
number of numbers. And where networks are small, a step of a dream takes as long as the number of
its operations says, not their work: compiled it is one call (`ahead_of_time.py` makes both).

On GPUs the small operations between the products of a recurrent step, some forty with their
gradients, take as long as their number says, too. Compiled they are eleven.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call

from dreamer import distributions
from dreamer.models.actor_critic import ActorCritic
from dreamer.models.ahead_of_time import Kernel, load, make, path_of
from dreamer.models.mlp import ACTIVATIONS, DenseLayer
from dreamer.models.recurrent import GRUCell, advance
from dreamer.models.rssm import RSSM, DreamStep
from dreamer.models.unrolled import PLAIN, Between
from dreamer.models.vision import ConvDecoder, ConvEncoder

LARGE = 2**14  # numbers; with fewer, the call takes longer than what is saved
LARGE_STEP = 2 * 10**8  # multiplications by the recurrent weights; with more, little is saved
DTYPES = (torch.float32, torch.bfloat16)


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
            _elu_kernel(dtype)
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
    return all(_elu_path(dtype).exists() for dtype in DTYPES)


def compiled_elu(x: Tensor) -> Tensor:
    """`F.elu(x, inplace=True)`: (...) -> (...), with its gradient."""
    if x.numel() < LARGE or x.device.type != "cpu" or x.dtype not in DTYPES:
        return F.elu_(x)
    if torch.compiler.is_exporting():  # the compiler at work on what contains it
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
    _elu_kernel(x.dtype)([x.as_strided((x.numel(),), (1,))])  # its memory as one row
    return x


@functools.cache
def _elu_kernel(dtype: torch.dtype) -> Kernel:
    """ELU of one row (n,), in place."""
    path = _elu_path(dtype)
    if not path.exists():
        numbers = torch.export.Dim("numbers", min=2)
        make(path, _elu_of_row, [torch.zeros(LARGE, dtype=dtype)], [{0: numbers}])
    return load(path)


def _elu_of_row(x: Tensor) -> None:
    x.copy_(torch.where(x > 0, x, torch.expm1(x)))


def _elu_path(dtype: torch.dtype) -> Path:
    return path_of(f"elu-{str(dtype).removeprefix('torch.')}", Path(__file__).read_text())


def compile_dream(rssm: RSSM, actor_critic: ActorCritic, starts: int) -> DreamStep | None:
    """Compile a step of dreams from so many starts, the actor's choice included, in float32.

    Returns:
        `rssm.dream_step` with the actor in it and the weights that both have at the call; not the
        compiled one for other numbers of starts. None where that would gain nothing: products are
        large, or gradients have to flow through dreams.

    Raises:
        RuntimeError: there is no C++ compiler, or none that works.
        OSError: there is no folder to keep the result in.
    """
    products = starts * rssm.gru.linear.weight.numel()
    if actor_critic.through_dynamics or len(rssm.priors) > 1 or products > LARGE_STEP:
        return None
    dreamer = _Dreamer(rssm, actor_critic)
    weights = [*rssm.named_parameters("rssm"), *actor_critic.actor.named_parameters("actor")]

    def step(*inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        given = {name: x for (name, _), x in zip(weights, inputs[4:], strict=True)}
        return functional_call(dreamer, given, inputs[:4])

    path = _dream_path(rssm, actor_critic, starts)
    if not path.exists():
        print("Compiling a step of dreams for this processor, once: a quarter of a minute.")
        shapes = (rssm.feature_size,), (rssm.deter_size,), (actor_critic.action_size,)
        shapes = *shapes, (rssm.latent.variables, rssm.latent.statistics)
        examples = [torch.zeros(starts, *shape) for shape in shapes]
        inputs = [*examples, *(x for _, x in weights)]
        make(path, step, inputs, [None] * len(inputs))
    kernel = load(path)

    def dream_step(
        features: Tensor, deter: Tensor, action_noise: Tensor | None, state_noise: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        as_compiled = len(features) == starts and features.device.type == "cpu"
        if action_noise is None or not as_compiled:
            return dreamer(features, deter, action_noise, state_noise)
        inputs = [x.contiguous() for x in (features, deter, action_noise, state_noise)]
        row, deter, action = kernel(inputs + [x for _, x in weights])
        return row, deter, action

    return dream_step


def _dream_path(rssm: RSSM, actor_critic: ActorCritic, starts: int) -> Path:
    """By all that the step is made of: code, sizes and choices."""
    sources = *sorted(Path(__file__).parent.glob("*.py")), Path(distributions.__file__)
    sizes = starts, rssm.img_in.linear.weight.shape, actor_critic.actor.trunk.output_size
    choices = rssm.config, rssm.latent, actor_critic.config, actor_critic.choices
    return path_of("dream", repr((sizes, choices)), *(path.read_text() for path in sources))


class _Dreamer(nn.Module):
    """A step of dreams in which the actor chooses."""

    def __init__(self, rssm: RSSM, actor_critic: ActorCritic):
        super().__init__()
        self.rssm, self.actor = rssm, actor_critic.actor
        self.act = actor_critic.act

    def forward(
        self, features: Tensor, deter: Tensor, action_noise: Tensor | None, state_noise: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As `RSSM.dream_step`."""
        return self.rssm.dream_step(self.act, features, deter, action_noise, state_noise)
