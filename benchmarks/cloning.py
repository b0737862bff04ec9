"""A behaviour clone: a small recurrent network that imitates the actions of stored data.

`benchmarks.offline` compares the offline agent with it. It is plain torch, and knows no rewards:

- The observations, flattened and scaled to unit variance, go through a dense layer and a GRU.
- Discrete actions are classes of a cross entropy, numbers the targets of a squared error.
- A tenth of the episodes is never trained on; the weights with the least loss there are kept.
- It acts with the most probable action, or the mean.
"""

import copy
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from dreamer.data.formats import Pass
from dreamer.types import TimeStep

UNITS = 64
UPDATES, BATCH, LENGTH = 1000, 32, 32  # sequences and policy steps of a batch
LEARNING_RATE = 1e-3
CHECK_EVERY = 100  # updates between two looks at the held-out loss


class Sequences(NamedTuple):
    """Episodes, padded to the same length."""

    obs: Tensor  # (N, T, O)
    action: Tensor  # (N, T, A) chosen at the step, or padding
    mask: Tensor  # (N, T) 1 where an action was chosen


class Clone(nn.Module):
    """Observations (N, T, O) -> actions (N, T, A): logits, or means."""

    mean: Tensor  # (O,)
    scale: Tensor  # (O,)

    def __init__(self, obs: Tensor, action_size: int, *, discrete: bool):
        """Take the scale of the inputs from observations (..., O)."""
        super().__init__()
        flat = obs.flatten(0, -2)
        self.register_buffer("mean", flat.mean(0))
        self.register_buffer("scale", flat.std(0).clamp_min(1e-3))
        self.discrete = discrete
        self.inputs = nn.Sequential(nn.Linear(obs.shape[-1], UNITS), nn.ELU())
        self.memory = nn.GRU(UNITS, UNITS, batch_first=True)
        self.outputs = nn.Linear(UNITS, action_size)

    def forward(self, obs: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return actions (N, T, A) and the state (1, N, UNITS) after the last step."""
        x, last = self.memory(self.inputs((obs - self.mean) / self.scale), state)
        return self.outputs(x), last

    def loss(self, data: Sequences) -> Tensor:
        """Score the actions of the data: ()."""
        out, _ = self(data.obs)
        if self.discrete:
            error = cross_entropy(
                out.flatten(0, 1), data.action.argmax(-1).flatten(), reduction="none"
            )
        else:
            error = mse_loss(out, data.action, reduction="none").sum(-1).flatten()
        return (error * data.mask.flatten()).sum() / data.mask.sum()


class ClonePolicy:
    """Acts in E environments, with the signature of `dreamer.collector.Policy`."""

    def __init__(self, network: Clone):
        self.network = network

    @torch.no_grad()
    def __call__(self, step: TimeStep, state: Tensor | None) -> tuple[np.ndarray, Tensor]:
        """Return actions (E, A) for the step, and the memory (1, E, UNITS)."""
        if state is not None:
            state = state * torch.from_numpy(~step.is_first).float()[None, :, None]
        obs = torch.from_numpy(flattened(step.obs))
        out, after = self.network(obs[:, None], state)
        actions = out[:, 0].clamp(-1, 1).numpy()
        if self.network.discrete:
            actions = np.eye(actions.shape[-1], dtype=np.float32)[out[:, 0].argmax(-1).numpy()]
        return actions, after


def clone(address: str, *, seed: int) -> ClonePolicy:
    """Imitate the actions of the episodes at an address."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    data, discrete = read(address)
    held_out = torch.from_numpy(rng.permutation(len(data.obs)) < max(len(data.obs) // 10, 1))
    trained, others = (Sequences(*(x[rows] for x in data)) for rows in (~held_out, held_out))
    network = Clone(trained.obs[trained.mask > 0], data.action.shape[-1], discrete=discrete)
    optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE)
    best, weights = float("inf"), network.state_dict()
    for update in range(1, UPDATES + 1):
        loss = network.loss(draw(trained, rng))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if update % CHECK_EVERY == 0:
            with torch.no_grad():
                held_out_loss = float(network.loss(others))
            if held_out_loss < best:
                best, weights = held_out_loss, copy.deepcopy(network.state_dict())
    network.load_state_dict(weights)
    return ClonePolicy(network)


def draw(data: Sequences, rng: np.random.Generator) -> Sequences:
    """Draw a batch of sequences that begin anywhere; longer episodes are drawn more often."""
    lengths = data.mask.sum(1).long().numpy()
    rows = rng.choice(len(lengths), BATCH, p=lengths / lengths.sum())
    starts = [rng.integers(max(lengths[row] - LENGTH, 0) + 1) for row in rows]
    return Sequences(
        *(
            torch.stack([x[r, t : t + LENGTH] for r, t in zip(rows, starts, strict=True)])
            for x in data
        )
    )


def read(address: str) -> tuple[Sequences, bool]:
    """Return all episodes at an address, and whether the actions are choices."""
    walk = Pass.of(address)
    episodes = [
        (flattened(obs), np.asarray(episode.flags.prev_action, np.float32))
        for episode, obs in walk.whole()
    ]
    space = walk.source.action_space
    if space is None or space.choices:
        raise ValueError("The data must be of a run with one choice at once, or numbers")
    longest = max(LENGTH + 1, *(len(action) for _, action in episodes))

    def padded(rows: np.ndarray) -> np.ndarray:
        return np.pad(rows, [(0, longest - 1 - len(rows)), (0, 0)])

    # The action that led to a step was chosen at the one before; at the last step there is none.
    return Sequences(
        torch.from_numpy(np.stack([padded(obs[:-1]) for obs, _ in episodes])),
        torch.from_numpy(np.stack([padded(action[1:]) for _, action in episodes])),
        torch.from_numpy(
            np.stack([np.arange(longest - 1) < len(action) - 1 for _, action in episodes])
        ).float(),
    ), space.discrete


def flattened(obs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return observations (n, ...) by name as vectors (n, O), in the order of names."""
    return np.concatenate(
        [np.asarray(x, np.float32).reshape(len(x), -1) for _, x in sorted(obs.items())], 1
    )
