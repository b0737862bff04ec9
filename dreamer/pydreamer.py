"""An agent that computes all losses with the weights before an update, as PyDreamer does.

`experiment=pydreamer` chooses it by `model._target_`. What its networks compute differently is in
`models/pydreamer.py`.

Source: https://github.com/jurgisp/pydreamer
"""

from dataclasses import dataclass

from torch import Tensor

from dreamer.agent import AgentConfig, DreamerAgent, UpdateNoise
from dreamer.types import ActionSpace, Batch, RSSMState


@dataclass(frozen=True)
class PyDreamerAgentConfig(AgentConfig):
    """The agent's networks and how they learn: all losses first, then all steps."""

    def build(
        self, obs_shapes: dict[str, tuple[int, ...]], action_space: ActionSpace
    ) -> "PyDreamerAgent":
        """See `AgentConfig`."""
        return PyDreamerAgent(self, obs_shapes, action_space)


class PyDreamerAgent(DreamerAgent):
    """Imagines with the weights before the update, and steps all optimisers at its end.

    The slow critic is copied before it is used. If a loss or gradient is not finite, no weights
    change. A component's steps are made with the others, so it may ask for one of each network.
    """

    moves_target_first = True
    samples_in_evaluation = True  # PyDreamer has no mode

    def __init__(
        self,
        config: AgentConfig,
        obs_shapes: dict[str, tuple[int, ...]],
        action_space: ActionSpace,
    ):
        super().__init__(config, obs_shapes, action_space)
        self._pending: dict[str, Tensor] = {}  # losses whose gradients wait for their steps

    def _learn(
        self, batch: Batch, start: RSSMState | None, noise: UpdateNoise
    ) -> tuple[RSSMState, dict[str, Tensor]]:
        self._pending = {}
        state, metrics = super()._learn(batch, start, noise)
        return state, metrics | self._make_steps(self._pending)

    def _step(self, name: str, loss: Tensor) -> dict[str, Tensor]:
        """Compute the gradient of one loss; the step follows at the end of the update."""
        self._backward(name, loss)
        self._pending[name] = loss.detach()
        return {}
