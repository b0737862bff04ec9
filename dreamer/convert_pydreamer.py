"""Convert weights from and to PyDreamer, https://github.com/jurgisp/pydreamer.

The parity tests use it, and users with a checkpoint of PyDreamer. It knows the networks and a table
of names, but neither the agent nor Lightning.

PyDreamer's features have the deterministic part first, its images are flattened with the channels
first, and some of our dense layers are two of its own. All this only orders the same numbers.
"""

import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dreamer.models.actor import Actor
from dreamer.models.actor_critic import ActorCritic
from dreamer.models.auxiliary_critic import AuxiliaryCritic
from dreamer.models.heads import Head
from dreamer.models.layers import MLP, DenseLayer
from dreamer.models.observations import Decoder, Encoder
from dreamer.models.pydreamer import GRUStack, UnbiasedGRU, VectorEncoder
from dreamer.models.reward_heads import SupportLayer
from dreamer.models.rssm import RSSM, Prior
from dreamer.models.vision import ConvEncoder
from dreamer.models.world_model import WorldModel


class Part(NamedTuple):
    """A part of one of our parameters, in PyDreamer's order."""

    parameter: Tensor
    index: Tensor  # where each number is in the flat parameter


class PyDreamerWeight(NamedTuple):
    """An array of PyDreamer: parts of our parameters, one below the other."""

    parts: tuple[Part, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape in PyDreamer's layout."""
        rows = sum(len(part.index) for part in self.parts)
        return (rows, *self.parts[0].index.shape[1:])

    def to_reference(self, *, gradient: bool = False) -> Tensor | None:
        """Return a copy of the weights, or of their gradient, in PyDreamer's layout.

        None if there is no gradient.
        """
        found = [p.grad if gradient else p for p, _ in self.parts]
        if any(x is None for x in found):
            return None
        pairs = zip(found, self.parts, strict=True)
        return torch.cat([x.detach().cpu().reshape(-1)[part.index] for x, part in pairs])  # pyright: ignore[reportOptionalMemberAccess]

    @torch.no_grad()
    def load(self, values: Tensor) -> None:
        """Set the weights to values of PyDreamer's shape."""
        sizes = [len(part.index) for part in self.parts]
        for (parameter, index), block in zip(self.parts, values.split(sizes), strict=True):
            flat = parameter.cpu().reshape(-1).clone()  # in this order, whatever that in memory
            flat[index] = block.to(flat)
            parameter.copy_(flat.view(parameter.shape))


def pydreamer_parameters(
    model: WorldModel | RSSM, actor_critic: ActorCritic | None = None
) -> dict[str, PyDreamerWeight]:
    """Return all parameters of networks by their names in PyDreamer, with `/` for its dots.

    With an actor-critic, those of the world model begin with `wm/`, the others with `ac/`.
    Without one, they are relative to the model: `core/cell/z_mlp/weight` of a world model is
    `cell/z_mlp/weight` of its RSSM.
    """
    if isinstance(model, RSSM):
        return dict(_rssm("cell", model, torch.arange(_embed_size(model))))
    if actor_critic is None:
        return dict(_world_model("", model))
    return dict(_world_model("wm/", model)) | dict(
        _actor_critic("ac", actor_critic, _feature_order(model.rssm))
    )


@torch.no_grad()
def load_pydreamer_weights(
    weights: Mapping[str, Tensor | np.ndarray],
    model: WorldModel | RSSM,
    actor_critic: ActorCritic | None = None,
) -> None:
    """Set every parameter of networks to PyDreamer's weights.

    The actor beside PyDreamer's auxiliary critic, which nothing trains, is left out.

    Args:
        weights: by the names of `pydreamer_parameters`, for the same networks.
        model: see there.
        actor_critic: see there.

    Raises:
        ValueError: weights are missing, unexpected or of another shape; the message lists all of
            them, and nothing is loaded.
    """
    parameters = pydreamer_parameters(model, actor_critic)
    weights = {name: x for name, x in weights.items() if not re.match(UNTRAINED, name)}
    support = weights.pop(f"{'wm/' if actor_critic else ''}{SUPPORT}", None)
    problems = [f"missing: {name}" for name in parameters.keys() - weights.keys()]
    problems += [f"unexpected: {name}" for name in weights.keys() - parameters.keys()]
    problems += [
        f"wrong shape: {name} is {tuple(weights[name].shape)} instead of {parameters[name].shape}"
        for name in parameters.keys() & weights.keys()
        if tuple(weights[name].shape) != parameters[name].shape
    ]
    problems += _support_problems(model, support)
    if problems:
        listing = "\n  ".join(sorted(problems))
        raise ValueError(f"The weights must be those of these networks, got:\n  {listing}")
    for name, weight in parameters.items():
        weight.load(torch.as_tensor(weights[name]))


def load_pydreamer(path: str | Path, model: WorldModel, actor_critic: ActorCritic) -> None:
    """Load a checkpoint of PyDreamer: the file of a training, or only the agent's `state_dict`.

    The networks must have the configuration of the run that saved it. Probes, optimisers and
    counters are left out. Only tensors and plain values are unpickled, so an untrusted file cannot
    run code.

    Raises:
        pickle.UnpicklingError: the file is damaged, or contains other objects.
        ValueError: the weights do not fit the networks; nothing is loaded.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, ValueError) as error:
        reason = str(error).split("\n")[0]
        raise pickle.UnpicklingError(
            f"The file is damaged or no checkpoint of tensors ({reason})"
        ) from error
    state = content.get(STATE, content) if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not all(isinstance(x, Tensor) for x in state.values()):
        raise ValueError(
            f"The file must hold a `state_dict` of tensors, or one under `{STATE}`, got a "
            f"{type(content).__name__} without it"
        )
    weights = {name.replace(".", "/"): x for name, x in state.items()}
    weights = {name: x for name, x in weights.items() if not name.startswith(PROBES)}
    load_pydreamer_weights(weights, model, actor_critic)


Weights = Iterator[tuple[str, PyDreamerWeight]]
STATE = "model_state_dict"  # key of the agent's weights in the file of a training
PROBES = "probe_model/"
SUPPORT = "decoder/reward/_support"
UNTRAINED = r"(wm/)?ac_aux/actor/"  # the beginning of their names


def _support_problems(model: WorldModel | RSSM, support: Tensor | np.ndarray | None) -> list[str]:
    """Compare the support of the reward head, a constant, with PyDreamer's; None: it has none."""
    layer = model.heads["reward"].out if isinstance(model, WorldModel) else None
    ours = layer.support.tolist() if isinstance(layer, SupportLayer) else None
    theirs = None if support is None else torch.as_tensor(support).tolist()
    if ours is None or theirs is None:
        same = ours is theirs
    else:
        same = len(ours) == len(theirs) and np.allclose(ours, theirs)
    return [] if same else [f"other values: {SUPPORT} is {theirs} instead of {ours}"]


def _whole(parameter: Tensor) -> Part:
    return Part(parameter, torch.arange(parameter.numel()).view(parameter.shape))


def _rows(parameter: Tensor, rows: Tensor) -> Part:
    return Part(parameter, _whole(parameter).index[rows])


def _columns(parameter: Tensor, columns: Tensor | slice | None) -> Part:
    part = _whole(parameter)
    return part if columns is None else Part(parameter, part.index[:, columns])


def _stacked(
    name: str, layers: Sequence[nn.Module], columns: Tensor | slice | None = None
) -> Weights:
    """Yield one layer of PyDreamer that is several of ours, with the same inputs."""
    yield f"{name}/weight", PyDreamerWeight(tuple(_columns(x.weight, columns) for x in layers))  # pyright: ignore
    if layers[0].bias is not None:
        yield f"{name}/bias", PyDreamerWeight(tuple(_whole(x.bias) for x in layers))  # pyright: ignore


def _parameters(name: str, module: nn.Module) -> Weights:
    """Yield the weights of a layer that is the same in PyDreamer."""
    for key, parameter in module.named_parameters():
        yield f"{name}/{key.replace('.', '/')}", PyDreamerWeight((_whole(parameter),))


def _mlp(
    name: str, trunk: MLP, outputs: Sequence[nn.Module], columns: Tensor | None = None
) -> Weights:
    """Yield the weights of hidden layers and of the last one."""
    for i, layer in enumerate(trunk):
        assert isinstance(layer, DenseLayer)
        yield from _stacked(f"{name}/{3 * i}", [layer.linear], columns if i == 0 else None)
        yield from _parameters(f"{name}/{3 * i + 1}", layer.norm)
    yield from _stacked(f"{name}/{3 * len(trunk)}", outputs, None if len(trunk) else columns)


def _head(name: str, head: Head | Actor, features: Tensor) -> Weights:
    outputs = [head.out.out] if head.out.std is None else [head.out.out, head.out.std]
    yield from _mlp(f"{name}/model", head.trunk, outputs, features)


def _world_model(prefix: str, model: WorldModel) -> Weights:
    features = _feature_order(model.rssm)
    yield from _encoder(f"{prefix}encoder", model.encoder)
    yield from _rssm(f"{prefix}core/cell", model.rssm, _embed_order(model.encoder))
    yield from _decoder(f"{prefix}decoder", model.decoder, features)
    for name in ("reward", "terminal"):
        if name in model.heads:
            head = model.heads[name]
            assert isinstance(head, Head)
            yield from _head(f"{prefix}decoder/{name}/model", head, features)
    for critic in model.auxiliary.values():
        if isinstance(critic, AuxiliaryCritic):
            yield from _head(f"{prefix}ac_aux/critic", critic.critic, features)
            yield from _head(f"{prefix}ac_aux/critic_target", critic.target_critic, features)


def _actor_critic(name: str, networks: ActorCritic, features: Tensor) -> Weights:
    yield from _head(f"{name}/actor", networks.actor, features)
    yield from _head(f"{name}/critic", networks.critic, features)
    if networks.config.slow_critic:
        yield from _head(f"{name}/critic_target", networks.target_critic, features)


def _encoder(name: str, encoder: Encoder) -> Weights:
    if encoder.image_keys:
        for i, conv in enumerate(encoder.image.convs):
            yield from _parameters(f"{name}/encoder_image/model/{2 * i}", conv)
    if encoder.vector_keys:
        vector = encoder.vector
        if not isinstance(vector, VectorEncoder):
            raise TypeError(
                "The encoder of vectors must be a VectorEncoder for PyDreamer's weights, got "
                f"{type(vector).__name__}; set `encoder.vector._target_`"
            )
        yield from _mlp(f"{name}/encoder_vecobs/model", vector.trunk, [vector.out])


def _decoder(name: str, decoder: Decoder, features: Tensor) -> Weights:
    if decoder.image_keys:
        yield from _stacked(f"{name}/image/model/0", [decoder.image.dense], features)
        for i, conv in enumerate(decoder.image.convs):
            yield from _parameters(f"{name}/image/model/{2 * i + 2}", conv)
    if decoder.vector_keys:
        outputs = [layer.out for layer in decoder.outputs.values()]
        yield from _mlp(f"{name}/vecobs/model/model", decoder.vector, outputs, features)  # pyright: ignore


def _rssm(name: str, rssm: RSSM, embed: Tensor) -> Weights:
    (prior,) = rssm.priors
    assert isinstance(prior, Prior)
    inputs, post = rssm.img_in, rssm.obs_out
    yield from _stacked(f"{name}/z_mlp", [inputs.linear], slice(rssm.stoch_size))
    actions = _columns(inputs.linear.weight, slice(rssm.stoch_size, None))
    yield f"{name}/a_mlp/weight", PyDreamerWeight((actions,))
    yield from _parameters(f"{name}/in_norm", inputs.norm)
    yield from _gru(f"{name}/gru", rssm.gru)
    yield from _parameters(f"{name}/prior_mlp_h", prior.layer.linear)
    yield from _parameters(f"{name}/prior_norm", prior.layer.norm)
    yield from _parameters(f"{name}/prior_mlp", prior.out)
    yield from _stacked(f"{name}/post_mlp_h", [post.linear], slice(rssm.deter_size))
    embeds = _columns(post.linear.weight, rssm.deter_size + embed)
    yield f"{name}/post_mlp_e/weight", PyDreamerWeight((embeds,))
    yield from _parameters(f"{name}/post_norm", post.norm)
    yield from _parameters(f"{name}/post_mlp", rssm.obs_dist)


def _gru(name: str, stack: nn.Module) -> Weights:
    if not isinstance(stack, GRUStack):
        raise TypeError(
            "The recurrent cell must be one of PyDreamer's for its weights, got "
            f"{type(stack).__name__}; set `cell` to gru, gru_layernorm or gru_layernorm_dv2"
        )
    for k, cell in enumerate(stack.layers):
        if isinstance(cell, UnbiasedGRU):
            yield from _unbiased_gru(f"{name}/layers/{k}", cell)
        else:
            yield from _parameters(f"{name}/layers/{k}", cell)


def _unbiased_gru(name: str, cell: UnbiasedGRU) -> Weights:
    weight = cell.linear.weight
    # Blocks of rows: reset, candidate, update here; reset, update, candidate there.
    reset, candidate, update = torch.arange(len(weight)).chunk(3)
    rows = torch.cat([reset, update, candidate])
    inputs = weight.shape[1] - len(weight) // 3
    index = _rows(weight, rows).index
    yield f"{name}/weight_ih/weight", PyDreamerWeight((Part(weight, index[:, :inputs]),))
    yield f"{name}/weight_hh/weight", PyDreamerWeight((Part(weight, index[:, inputs:]),))
    for key, parameter in cell.norm.named_parameters():
        yield f"{name}/lnorm/{key}", PyDreamerWeight((_rows(parameter, rows),))


def _feature_order(rssm: RSSM) -> Tensor:
    """Where each of PyDreamer's features, deter then stoch, is in ours."""
    ours = torch.arange(rssm.stoch_size + rssm.deter_size)
    return torch.cat([ours[rssm.stoch_size :], ours[: rssm.stoch_size]])


def _embed_size(rssm: RSSM) -> int:
    return rssm.obs_out.linear.in_features - rssm.deter_size


def _embed_order(encoder: Encoder) -> Tensor:
    """Where each number of PyDreamer's embedding is in ours: images have the channels first."""
    order = torch.arange(encoder.output_size)
    if not encoder.image_keys:
        return order
    image = encoder.image
    assert isinstance(image, ConvEncoder)
    last = image.convs[-1]
    assert isinstance(last, nn.Conv2d)
    pixels = order[: image.output_size].view(-1, last.out_channels)  # (h * w, C)
    return torch.cat([pixels.T.flatten(), order[image.output_size :]])
