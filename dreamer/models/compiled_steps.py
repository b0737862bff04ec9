"""Steps of sequences and of dreams as one call each, compiled ahead of time for the CPU at hand.

Where networks are small, a step takes as long as the number of its operations says, not their
work. `rssm.py` and `steps.py` define what is compiled; `ahead_of_time.py` compiles it.
"""

import functools
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dreamer.models.actor_critic import ActorCritic
from dreamer.models.ahead_of_time import Kernel, load, make, path_of
from dreamer.models.linear import LARGE_IN_SEQUENCE
from dreamer.models.rssm import RSSM, DreamStep
from dreamer.models.steps import Constants, Gradients, Kept, Later, Steps, Wanted, Weights

# Multiplications of the largest product in a step of a dream; with more, little is saved.
LARGE_IN_DREAM = 2 * 10**8


def compile_sequences(rssm: RSSM, batch: int) -> bool:
    """Let a model unroll so many sequences at once by compiled steps, on CPUs in float32.

    Returns:
        Whether it does; not where that would gain nothing, as products are large.

    Raises:
        RuntimeError: there is no C++ compiler, or none that works.
        OSError: there is no folder to keep the result in.
    """
    largest = max(layer.weight.numel() for layer in (rssm.gru.linear, rssm.obs_dist))
    if not rssm.unrolls or batch * largest >= LARGE_IN_SEQUENCE:
        return False
    kernels = [_sequence_kernel(rssm, batch, f) for f in (_forward_step, _backward_step)]

    def make_steps(constants: Constants, batch_now: int) -> Steps:
        weight = constants.gates
        is_known = batch_now == batch and weight.dtype == torch.float32 and weight.is_cpu
        return _CompiledSteps(constants, *kernels) if is_known else Steps(constants, batch_now)

    rssm.make_steps = make_steps
    return True


class _CompiledSteps(Steps):
    """As `Steps`, each a single call."""

    def __init__(self, constants: Constants, forward: Kernel, backward: Kernel):
        self._constants = [x.contiguous() for x in constants]
        self._forward, self._backward = forward, backward

    def forward(
        self, stoch: Tensor, deter: Tensor, noise: Tensor, stoch_out: Tensor, s: Kept
    ) -> Tensor:
        """As that of `Steps`."""
        return self._forward([stoch, deter, noise, stoch_out, *s, *self._constants])[0]

    def backward(
        self, later: Later, wanted: Wanted, probs: Tensor, normed: Tensor, s: Kept, g: Gradients
    ) -> Later:
        """As that of `Steps`."""
        inputs = [*later, *wanted, probs, normed, *s, *g, *self._constants]
        of_deter, of_stoch = self._backward(inputs)
        return Later(of_deter, of_stoch, s.keep)


def _forward_step(*inputs: Tensor) -> Tensor:
    """`Steps.forward` of a list of tensors, its constants last."""
    given = iter(inputs)
    stoch, deter, noise, stoch_out = itertools.islice(given, 4)
    s = Kept._make(itertools.islice(given, len(Kept._fields)))
    s = s._replace(rounded=s.deter)  # in float32 they are one
    steps = Steps(Constants._make(given), len(s.keep))
    return steps.forward(stoch, deter, noise, stoch_out, s)


def _backward_step(*inputs: Tensor) -> tuple[Tensor, Tensor]:
    """`Steps.backward` of a list of tensors, its constants last; without what it hands through."""
    given = iter(inputs)
    later = Later._make(itertools.islice(given, len(Later._fields)))
    wanted = Wanted._make(itertools.islice(given, len(Wanted._fields)))
    probs, normed = itertools.islice(given, 2)
    s = Kept._make(itertools.islice(given, len(Kept._fields)))
    g = Gradients._make(itertools.islice(given, len(Gradients._fields)))
    steps = Steps(Constants._make(given), len(s.keep))
    of_deter, of_stoch, _ = steps.backward(later, wanted, probs, normed, s, g)
    return of_deter, of_stoch


def _sequence_kernel(rssm: RSSM, batch: int, function: Callable[..., Any]) -> Kernel:
    """Of a function that takes what `_CompiledSteps` hands over."""
    hidden, size, latent = rssm.config.hidden, rssm.deter_size, rssm.latent
    sizes = batch, hidden, size, latent.variables, latent.classes
    path = path_of(f"sequence{function.__name__}", repr(sizes), *_sources())
    if not path.exists():
        print("Compiling steps of sequences for this processor, once: a quarter of a minute.")
        s = Kept.empty(torch.zeros(batch, 1), hidden, size, rssm.stoch_size, torch.float32)
        sample = torch.zeros(batch, latent.variables, latent.classes)
        weights = Weights(
            stoch=torch.zeros(hidden, rssm.stoch_size),
            gates=torch.zeros(3 * size, hidden + size),
            gates_bias=torch.zeros(3 * size),
            norm=torch.zeros(3 * size),
            norm_bias=torch.zeros(3 * size),
            deter=torch.zeros(hidden, size),
            stats=torch.zeros(rssm.stoch_size, hidden),
            stats_bias=torch.zeros(rssm.stoch_size),
        )
        constants = Constants.of(weights, torch.float32, latent.classes)
        if function is _forward_step:
            inputs = [sample, s.deter, sample, sample, *s, *constants]
        else:
            wanted = Wanted(s.deter, sample, sample)
            later = Later(s.deter, s.stoch_in, s.keep)
            inputs = [*later, *wanted, sample, s.gates, *s, *Gradients.empty(s), *constants]
        # One tensor for each, or they would be taken for one.
        make(path, function, [x.clone() for x in inputs], [None] * len(inputs))
    return load(path)


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
    dreamer, unused = _Dreamer(rssm, actor_critic), ("rssm.obs_out.", "rssm.obs_dist.")
    weights = [x for x in dreamer.named_parameters() if not x[0].startswith(unused)]
    largest = max(x.numel() for _, x in weights)
    if actor_critic.through_dynamics or len(rssm.priors) > 1 or starts * largest >= LARGE_IN_DREAM:
        return None

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
    """By all that the step is made of: sizes, choices and code."""
    sizes = starts, rssm.img_in.linear.weight.shape, actor_critic.actor.trunk.output_size
    choices = rssm.config, rssm.latent, actor_critic.config, actor_critic.choices
    return path_of("dream", repr((sizes, choices)), *_sources())


@functools.cache
def _sources() -> list[str]:
    """The code that steps are made of."""
    models = Path(__file__).parent
    paths = *sorted(models.glob("*.py")), models.parent / "distributions.py"
    return [path.read_text() for path in paths]


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
