"""Weights of the authors' TensorFlow program, in and out of our networks.

The parity tests and whoever owns a `variables.pkl` of https://github.com/danijar/dreamerv2 use it.
It knows the networks and one table of names, but neither the agent nor Lightning.
"""

import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dreamer.models.actor import Actor
from dreamer.models.actor_critic import ActorCritic
from dreamer.models.heads import DistributionLayer, Head
from dreamer.models.layers import MLP, DenseLayer
from dreamer.models.observations import Decoder, Encoder
from dreamer.models.rssm import RSSM, GRUCell, Prior
from dreamer.models.vision import ChannelNorm
from dreamer.models.world_model import WorldModel


class ReferenceWeight(NamedTuple):
    """One of our parameters, and the order in which the authors keep its axes."""

    parameter: nn.Parameter
    axes: tuple[int, ...]  # theirs, as indices of ours

    @property
    def shape(self) -> tuple[int, ...]:
        """As the authors have it."""
        return tuple(self.parameter.shape[axis] for axis in self.axes)

    def to_reference(self, values: Tensor) -> np.ndarray:
        """Weights or gradients in our layout -> theirs."""
        return values.detach().cpu().permute(self.axes).numpy()

    def from_reference(self, values: np.ndarray) -> Tensor:
        """Weights or gradients in their layout -> ours."""
        return torch.tensor(values).permute(tuple(np.argsort(self.axes)))


class Counters(NamedTuple):
    """How far a saved run had come; the agent's attributes of the same names."""

    policy_steps: int
    updates: int


def reference_parameters(module: nn.Module) -> dict[str, ReferenceWeight]:
    """Every parameter of a network by its name in the authors' program.

    Names start at `module`: `rssm/gru/kernel` of a WorldModel is `gru/kernel` of its RSSM.

    Args:
        module: WorldModel, ActorCritic, or one of the parts that these are made of.

    Raises:
        TypeError: the authors have no such network.
    """
    return dict(_named(module, ""))


def load_reference_weights(module: nn.Module, weights: Mapping[str, np.ndarray]) -> None:
    """Set every parameter of a network to the authors' weights, in their layout.

    Args:
        module: as for `reference_parameters`.
        weights: by the names of `reference_parameters(module)`.

    Raises:
        ValueError: weights are missing, unexpected or of another shape; all of them are named, and
            nothing was loaded.
    """
    _load(reference_parameters(module), weights)


@torch.no_grad()
def load_variables_pkl(path: str | Path, model: WorldModel, actor_critic: ActorCritic) -> Counters:
    """Load the file `variables.pkl` that the authors' program saves.

    It is a tuple of arrays without names, in the order of TensorFlow's `Module.variables`. The
    networks must have been built with the configuration of the run that saved it, and that run
    must have explored greedily, which is the default. Only NumPy arrays are unpickled: a foreign
    file can not run code. The optimisers' moments are not in the file.

    Returns:
        The run's counters.

    Raises:
        pickle.UnpicklingError: there is something else than arrays in the file.
        ValueError: the arrays do not fit the networks; nothing was loaded.
    """
    with Path(path).open("rb") as file:
        arrays = _ArrayUnpickler(file).load()
    names = variable_names(model, actor_critic)
    if not isinstance(arrays, tuple) or len(arrays) != len(names):
        raise ValueError(
            f"Expect a tuple of {len(names)} arrays for these networks, actually: "
            f"{type(arrays).__name__} of {len(arrays)}. Was another configuration saved?"
        )
    variables = {name: np.asarray(x) for name, x in zip(names, arrays, strict=True)}
    counters = Counters(int(variables.pop("tfstep")), int(variables.pop("updates", 0)))
    magnitude = torch.tensor(variables.pop("rewnorm/mag"))
    _load(reference_parameters(model) | reference_parameters(actor_critic), variables)
    actor_critic.reward_norm.magnitude.copy_(magnitude)
    return counters


def variable_names(model: WorldModel, actor_critic: ActorCritic) -> list[str]:
    """Names of the arrays of `variables.pkl`, in order.

    TensorFlow lists a module's own variables, then those of its submodules by attribute name, a
    dictionary's by key; what was seen is skipped. Without a slow critic, `_target_critic` is
    the critic.
    """
    names = [*reference_parameters(model), *reference_parameters(actor_critic)]
    slow = actor_critic.config.slow_critic
    critics = ["target_critic", "actor", "critic"] if slow else ["critic", "actor"]
    parts = [*critics, "rewnorm", "encoder", "decoder", "discount", "reward", "rssm"]
    ordered = ["tfstep", "updates"] if slow else ["tfstep"]
    for part in parts:
        ordered += sorted((n for n in names if n.split("/")[0] == part), key=_creation_order)
        ordered += ["rewnorm/mag"] if part == "rewnorm" else []
    return ordered


def _creation_order(name: str) -> tuple[list[str], int]:
    """Layers by name, the weights of one layer as it made them."""
    *layer, weight = name.split("/")
    return layer, ("kernel", "bias", "gamma", "beta", "norm_gamma", "norm_beta").index(weight)


@torch.no_grad()
def _load(ours: dict[str, ReferenceWeight], weights: Mapping[str, np.ndarray]) -> None:
    problems = [f"missing: {name}" for name in ours.keys() - weights.keys()]
    problems += [f"unexpected: {name}" for name in weights.keys() - ours.keys()]
    problems += [
        f"misshapen: {name} is {weights[name].shape} instead of {ours[name].shape}"
        for name in ours.keys() & weights.keys()
        if weights[name].shape != ours[name].shape
    ]
    if problems:
        listing = "\n  ".join(sorted(problems))
        raise ValueError(f"Expect the weights of these networks, actually:\n  {listing}")
    for name, weight in ours.items():
        weight.parameter.copy_(weight.from_reference(weights[name]))


class _ArrayUnpickler(pickle.Unpickler):
    """Admits what a pickled NumPy array is made of, whichever NumPy wrote it."""

    def find_class(self, module_name: str, global_name: str):
        module_name = module_name.replace("numpy.core", "numpy._core")
        if (name := f"{module_name}.{global_name}") in _ARRAY_PARTS:
            return super().find_class(module_name, global_name)
        raise pickle.UnpicklingError(f"Expect nothing but NumPy arrays, actually: {name}")


_ARRAY_PARTS = (
    "numpy.ndarray",
    "numpy.dtype",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy._core.numeric._frombuffer",
)
_AXES = {1: (0,), 2: (1, 0), 4: (2, 3, 1, 0)}  # of vectors, matrices and convolution kernels


def _named(module: nn.Module, prefix: str) -> Iterator[tuple[str, ReferenceWeight]]:
    """Walk down to the layers that hold parameters, and lay these out."""
    match module:
        case nn.Identity():
            return
        case nn.Linear() | nn.Conv2d() | nn.ConvTranspose2d() | nn.LayerNorm():
            names = ("gamma", "beta") if isinstance(module, nn.LayerNorm) else ("kernel", "bias")
            for name, ours in zip(names, (module.weight, module.bias), strict=True):
                assert isinstance(ours, nn.Parameter)
                yield prefix + name, ReferenceWeight(ours, _AXES[ours.ndim])
        case _:
            for name, part in _parts(module):
                yield from _named(part, prefix + name)


def _parts(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """THE table: what the authors call the parts of a network."""
    match module:
        case WorldModel():
            yield "encoder/", module.encoder
            yield "rssm/", module.rssm
            yield "decoder/", module.decoder
            for name, head in module.heads.items():
                yield f"{name}/", head
        case ActorCritic():
            yield "actor/", module.actor
            yield "critic/", module.critic
            if module.config.slow_critic:
                yield "target_critic/", module.target_critic
        case RSSM():
            yield "gru/", module.gru
            yield from _dense("img_in", "img_in_norm", module.img_in)
            for k, prior in enumerate(module.priors):
                assert isinstance(prior, Prior)
                yield from _dense(f"img_out_{k}", f"img_out_norm_{k}", prior.layer)
                yield f"img_dist_{k}/", prior.out
            yield from _dense("obs_out", "obs_out_norm", module.obs_out)
            yield "obs_dist/", module.obs_dist
        case GRUCell():
            yield "", module.linear
            yield "norm_", module.norm
        case Encoder() | Decoder():
            if module.image_keys:
                if isinstance(module, Decoder):
                    yield "convin/", module.image.dense
                for i, conv in enumerate(module.image.convs):
                    yield f"conv{i}/", conv
                for i, norm in enumerate(module.image.norms):
                    assert isinstance(norm, ChannelNorm)
                    yield f"convnorm{i}/", norm.norm
            if module.vector_keys:
                yield from _layers(module.vector, "densenorm")
                if isinstance(module, Decoder):
                    for key in module.vector_keys:
                        yield f"dense_{key}/", module.outputs[key]
        case Head() | Actor():
            yield from _layers(module.trunk, "norm")
            yield "out/", module.out
        case DistributionLayer():
            yield "out/", module.out
            if module.std is not None:
                yield "std/", module.std
        case _:
            raise TypeError(f"Expect a network of the authors, actually: {type(module).__name__}")


def _dense(name: str, norm: str, layer: object) -> Iterator[tuple[str, nn.Module]]:
    assert isinstance(layer, DenseLayer)
    yield f"{name}/", layer.linear
    yield f"{norm}/", layer.norm


def _layers(mlp: MLP, norm: str) -> Iterator[tuple[str, nn.Module]]:
    for i, layer in enumerate(mlp):
        yield from _dense(f"dense{i}", f"{norm}{i}", layer)
