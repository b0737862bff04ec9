"""What PyDreamer's world model computes differently: cells, resets, vector encoders, starts.

The configuration chooses these objects by `_target_`. What only orders weights differently is not
here: `dreamer/convert_pydreamer.py` reorders them.

Source: https://github.com/jurgisp/pydreamer
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamer.models.latents import Latent
from dreamer.models.layers import MLP, LayerNorm
from dreamer.models.observations import ObsShapes, VectorConfig
from dreamer.models.rssm import RSSM, GRUCell, ImaginationPolicy, RSSMConfig
from dreamer.models.world_model import WorldModel, WorldModelConfig
from dreamer.schema.types import PositiveCount, doc
from dreamer.schema.validation import check
from dreamer.types import RSSMState, Trajectory

MakeCell = Callable[[int, int], nn.Module]  # from the sizes of the input and of the state


class PlainGRU(nn.GRUCell):
    """The usual gated recurrent unit, with the weights of torch's, its gates in float32.

    An update gate near 1 KEEPS the state; in DreamerV2's it replaces it.
    """

    def __init__(self, input_size: int, size: int):
        super().__init__(input_size, size)
        nn.init.xavier_uniform_(self.weight_ih)
        nn.init.orthogonal_(self.weight_hh)
        for bias in (self.bias_ih, self.bias_hh):
            nn.init.zeros_(bias)

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """Input (..., input_size) and state (..., D) -> new state (..., D) float32."""
        assert hx is not None
        x = F.linear(input, self.weight_ih, self.bias_ih).float()
        h = F.linear(hx, self.weight_hh, self.bias_hh).float()
        x_reset, x_update, x_new = x.chunk(3, -1)
        h_reset, h_update, h_new = h.chunk(3, -1)
        new = torch.tanh(x_new + torch.sigmoid(x_reset + h_reset) * h_new)
        return torch.lerp(new, hx, torch.sigmoid(x_update + h_update))


class GateNormGRU(nn.Module):
    """A gated recurrent unit without biases, with a layer norm for every gate.

    An update gate near 1 replaces the state.
    """

    def __init__(self, input_size: int, size: int):
        super().__init__()
        self.weight_ih = nn.Linear(input_size, 3 * size, bias=False)
        self.weight_hh = nn.Linear(size, 3 * size, bias=False)
        self.ln_reset, self.ln_update, self.ln_newval = (LayerNorm(size) for _ in range(3))

    def forward(self, x: Tensor, deter: Tensor) -> Tensor:
        """Input (..., input_size) and state (..., D) -> new state (..., D) float32."""
        x_reset, x_update, x_new = self.weight_ih(x).float().chunk(3, -1)
        h_reset, h_update, h_new = self.weight_hh(deter).float().chunk(3, -1)
        reset = torch.sigmoid(self.ln_reset(x_reset + h_reset))
        update = torch.sigmoid(self.ln_update(x_update + h_update))
        new = torch.tanh(self.ln_newval(x_new + reset * h_new))
        return torch.lerp(deter, new, update)


class UnbiasedGRU(GRUCell):
    """DreamerV2's cell with layer norm and without a bias."""

    def __init__(self, input_size: int, size: int):
        super().__init__(input_size, size, layer_norm=True)
        self.linear = nn.Linear(input_size + size, 3 * size, bias=False)


class GRUStack(nn.Module):
    """Recurrent cells that share the state: each has an equal part of it.

    The first cell gets the input, every other the new state of the one before.
    """

    def __init__(self, input_size: int, size: int, layers: int, make_cell: MakeCell):
        super().__init__()
        if size % layers:
            raise ValueError(
                f"`deter` must be a multiple of the cell's `layers`, {layers}, got {size}"
            )
        part = size // layers
        sizes = [input_size, *[part] * (layers - 1)]
        self.layers = nn.ModuleList(make_cell(each, part) for each in sizes)

    def forward(self, x: Tensor, deter: Tensor) -> Tensor:
        """Input (..., input_size) and state (..., D) -> new state (..., D) float32."""
        states = []
        for cell, state in zip(self.layers, deter.chunk(len(self.layers), -1), strict=True):
            x = cell(x, state)
            states.append(x)
        return torch.cat(states, -1)


@dataclass(frozen=True)
class StackConfig:
    """A stack of recurrent cells; see the subclasses."""

    layers: Annotated[PositiveCount, doc("Cells, one after the other, that share the state.")]

    def __post_init__(self):
        check(self)

    def build(self, input_size: int, size: int) -> nn.Module:
        """See `dreamer.models.rssm.CellConfig`."""
        return GRUStack(input_size, size, self.layers, self.make_cell)

    def make_cell(self, input_size: int, size: int) -> nn.Module:
        """Build one cell."""
        raise NotImplementedError


@dataclass(frozen=True)
class PlainGRUConfig(StackConfig):
    """PyDreamer's `gru`, its default."""

    def make_cell(self, input_size: int, size: int) -> nn.Module:
        """See `StackConfig`."""
        return PlainGRU(input_size, size)


@dataclass(frozen=True)
class GateNormGRUConfig(StackConfig):
    """PyDreamer's `gru_layernorm`."""

    def make_cell(self, input_size: int, size: int) -> nn.Module:
        """See `StackConfig`."""
        return GateNormGRU(input_size, size)


@dataclass(frozen=True)
class UnbiasedGRUConfig(StackConfig):
    """PyDreamer's `gru_layernorm_dv2`."""

    def make_cell(self, input_size: int, size: int) -> nn.Module:
        """See `StackConfig`."""
        return UnbiasedGRU(input_size, size)


@dataclass(frozen=True)
class VectorEncoderConfig(VectorConfig):
    """Dense layers for vector observations, the last of them linear, as in PyDreamer."""

    def __post_init__(self):
        super().__post_init__()
        if not self.layers:
            raise ValueError("`layers` must have the size of the linear layer at least, got []")

    def build(self, input_size: int) -> nn.Module:
        """See `VectorConfig`."""
        return VectorEncoder(input_size, self)


class VectorEncoder(nn.Module):
    """Dense layers and a linear one: (..., O) -> (..., output_size)."""

    def __init__(self, input_size: int, config: VectorEncoderConfig):
        super().__init__()
        *sizes, self.output_size = config.layers
        self.trunk = MLP(input_size, sizes, activation=config.activation, norm=config.norm)
        self.out = nn.Linear(self.trunk.output_size, self.output_size)

    def forward(self, x: Tensor) -> Tensor:
        """(..., O) -> (..., output_size)."""
        return self.out(self.trunk(x))


@dataclass(frozen=True)
class PyDreamerWorldModelConfig(WorldModelConfig):
    """A world model that imagines from the starts' predicted ends, as PyDreamer does."""

    def build(self, obs_shapes: ObsShapes, action_size: int) -> "PyDreamerWorldModel":
        """See `WorldModelConfig`."""
        return PyDreamerWorldModel(self, obs_shapes, action_size)


class PyDreamerWorldModel(WorldModel):
    """Predicts whether an episode has ended for the starts of trajectories, too.

    DreamerV2 reads it from the replay.
    """

    def imagine(
        self,
        start: RSSMState,
        start_is_terminal: Tensor | None,
        policy: ImaginationPolicy,
        horizon: int,
        *,
        action_noise: Tensor | None = None,
        state_noise: Tensor | None = None,
    ) -> Trajectory:
        """See `WorldModel`; `start_is_terminal` is not read."""
        return super().imagine(
            start, None, policy, horizon, action_noise=action_noise, state_noise=state_noise
        )


@dataclass(frozen=True)
class PyDreamerRSSMConfig(RSSMConfig):
    """A recurrent state-space model that resets the state only, as PyDreamer does."""

    def build(self, embed_size: int, action_size: int, latent: Latent) -> "PyDreamerRSSM":
        """See `RSSMConfig`."""
        return PyDreamerRSSM(embed_size, action_size, latent, self)


class PyDreamerRSSM(RSSM):
    """Keeps the action that leads into an episode's first step.

    In a stored episode this action is zero. It is not where a sequence begins within an episode.
    """

    resets_actions = False

    def __init__(self, embed_size: int, action_size: int, latent: Latent, config: RSSMConfig):
        super().__init__(embed_size, action_size, latent, config)
        # PyDreamer has a matrix for each input of these layers, so they begin with larger weights.
        _init_parts(self.img_in.linear.weight, [self.stoch_size, action_size])
        _init_parts(self.obs_out.linear.weight, [config.deter, embed_size])

    def reset(
        self, prev: RSSMState, prev_action: Tensor, is_first: Tensor
    ) -> tuple[RSSMState, Tensor]:
        """Zero the state (B, ...) before a first step, and keep the action (B, A)."""
        return super().reset(prev, prev_action, is_first)[0], prev_action


def _init_parts(weight: Tensor, sizes: list[int]) -> None:
    """Initialise the columns of each input as a matrix of its own."""
    for part in weight.detach().split(sizes, 1):
        nn.init.xavier_uniform_(part)
