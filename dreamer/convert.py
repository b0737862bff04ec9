"""Convert weights from and to the authors' TensorFlow program.

The parity tests use it, and users with a `variables.pkl` of https://github.com/danijar/dreamerv2.
It knows the networks and a table of names, but neither the agent nor Lightning.
`load_pydreamer` is that of `convert_pydreamer.py`.
"""

import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dreamer.array_pickle import ArrayPickleError, read_arrays
from dreamer.convert_pydreamer import load_pydreamer as load_pydreamer
from dreamer.models.actor import Actor
from dreamer.models.actor_critic import ActorCritic
from dreamer.models.heads import DistributionLayer, Head
from dreamer.models.layers import MLP, DenseLayer
from dreamer.models.observations import Decoder, Encoder
from dreamer.models.rssm import RSSM, GRUCell, Prior
from dreamer.models.vision import ChannelNorm
from dreamer.models.world_model import WorldModel


class ReferenceWeight(NamedTuple):
    """A parameter, and the order of its axes in the authors' program."""

    parameter: nn.Parameter
    axes: tuple[int, ...]  # the authors' axes, as indices of the parameter's

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape in the authors' layout."""
        return tuple(self.parameter.shape[axis] for axis in self.axes)

    def to_reference(self, values: Tensor) -> np.ndarray:
        """Convert weights or gradients to the authors' layout."""
        return values.detach().cpu().permute(self.axes).numpy()

    def from_reference(self, values: np.ndarray) -> Tensor:
        """Convert weights or gradients from the authors' layout."""
        return torch.tensor(values).permute(tuple(np.argsort(self.axes)))


class Counters(NamedTuple):
    """Progress of a saved run; the agent has attributes of the same names."""

    policy_steps: int
    updates: int


def reference_parameters(module: nn.Module) -> dict[str, ReferenceWeight]:
    """Return all parameters of a network by their names in the authors' program.

    Names are relative to `module`: `rssm/gru/kernel` of a WorldModel is `gru/kernel` of its RSSM.

    Args:
        module: WorldModel, ActorCritic, or one of their parts.

    Raises:
        TypeError: The authors have no such network.
    """
    return dict(_named(module, ""))


def load_reference_weights(module: nn.Module, weights: Mapping[str, np.ndarray]) -> None:
    """Set every parameter of a network to the authors' weights, in their layout.

    Args:
        module: See `reference_parameters`.
        weights: Arrays by the names of `reference_parameters(module)`.

    Raises:
        ValueError: Weights are missing, unexpected or of another shape; the message lists all of
            them, and nothing is loaded.
    """
    _load(reference_parameters(module), weights)


@torch.no_grad()
def load_variables_pkl(path: str | Path, model: WorldModel, actor_critic: ActorCritic) -> Counters:
    """Load a file `variables.pkl` of the authors' program.

    It is a tuple of unnamed arrays, in the order of TensorFlow's `Module.variables`. The networks
    must have the configuration of the run that saved it, and that run must have used the default
    exploration, greedy. The file is read, not unpickled, so that nothing in it is called. It does
    not contain the optimisers' moments.

    Returns:
        The run's counters.

    Raises:
        pickle.UnpicklingError: The file is damaged, or contains other objects than arrays.
        ValueError: The arrays do not fit the networks; nothing is loaded.
    """
    try:
        arrays = read_arrays(Path(path).read_bytes())
    except ArrayPickleError as error:
        raise pickle.UnpicklingError(
            f"The file is damaged or no pickle of arrays ({error})"
        ) from error
    names = variable_names(model, actor_critic)
    if not isinstance(arrays, tuple) or len(arrays) != len(names):
        found = f"a {type(arrays).__name__}"
        found += f" of {len(arrays)}" if isinstance(arrays, tuple | list | dict) else ""
        raise ValueError(
            f"The file must hold a tuple of {len(names)} arrays for these networks, got {found}. "
            "Was it saved with another configuration?"
        )
    if not all(isinstance(one, np.ndarray | np.generic | int) for one in arrays):
        raise ValueError("The file must hold a tuple of arrays, got other objects in it")
    variables = {name: np.asarray(x) for name, x in zip(names, arrays, strict=True)}
    for name in ("tfstep", "updates", "rewnorm/mag"):
        if name in variables and variables[name].shape:
            raise ValueError(f"`{name}` must be a number, got shape {variables[name].shape}")
    counters = Counters(int(variables.pop("tfstep")), int(variables.pop("updates", 0)))
    magnitude = torch.tensor(variables.pop("rewnorm/mag"))
    _load(reference_parameters(model) | reference_parameters(actor_critic), variables)
    actor_critic.reward_norm.magnitude.copy_(magnitude)
    return counters


def variable_names(model: WorldModel, actor_critic: ActorCritic) -> list[str]:
    """Return the names of the arrays of `variables.pkl`, in order.

    TensorFlow lists a module's own variables, then those of its submodules by attribute name,
    those of a dictionary by key, each variable once. Without a slow critic, `_target_critic` is
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
    """Sort key: layers by name, the weights of a layer in order of creation."""
    *layer, weight = name.split("/")
    return layer, ("kernel", "bias", "gamma", "beta", "norm_gamma", "norm_beta").index(weight)


@torch.no_grad()
def _load(parameters: dict[str, ReferenceWeight], weights: Mapping[str, np.ndarray]) -> None:
    problems = [f"missing: {name}" for name in parameters.keys() - weights.keys()]
    problems += [f"unexpected: {name}" for name in weights.keys() - parameters.keys()]
    problems += [
        f"wrong shape: {name} is {weights[name].shape} instead of {parameters[name].shape}"
        for name in parameters.keys() & weights.keys()
        if weights[name].shape != parameters[name].shape
    ]
    if problems:
        listing = "\n  ".join(sorted(problems))
        raise ValueError(f"The weights must be those of these networks, got:\n  {listing}")
    for name, weight in parameters.items():
        weight.parameter.copy_(weight.from_reference(weights[name]))


_AXES = {1: (0,), 2: (1, 0), 4: (2, 3, 1, 0)}  # of vectors, matrices and convolution kernels


def _named(module: nn.Module, prefix: str) -> Iterator[tuple[str, ReferenceWeight]]:
    """Yield the parameters of all layers, with their names and axes."""
    match module:
        case nn.Identity():
            return
        case nn.Linear() | nn.Conv2d() | nn.ConvTranspose2d() | nn.LayerNorm():
            names = ("gamma", "beta") if isinstance(module, nn.LayerNorm) else ("kernel", "bias")
            for name, parameter in zip(names, (module.weight, module.bias), strict=True):
                assert isinstance(parameter, nn.Parameter)
                yield prefix + name, ReferenceWeight(parameter, _AXES[parameter.ndim])
        case _:
            for name, part in _parts(module):
                yield from _named(part, prefix + name)


def _parts(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the parts of a network with their names in the authors' program."""
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
            raise TypeError(
                f"`module` must be a network of the authors, got {type(module).__name__}"
            )


def _dense(name: str, norm: str, layer: object) -> Iterator[tuple[str, nn.Module]]:
    assert isinstance(layer, DenseLayer)
    yield f"{name}/", layer.linear
    yield f"{norm}/", layer.norm


def _layers(mlp: nn.Module, norm: str) -> Iterator[tuple[str, nn.Module]]:
    if not isinstance(mlp, MLP):
        raise TypeError(f"Dense layers must be an MLP of the authors, got {type(mlp).__name__}")
    for i, layer in enumerate(mlp):
        yield from _dense(f"dense{i}", f"{norm}{i}", layer)
