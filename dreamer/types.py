"""The data types of the project: steps, batches, latent states and trajectories.

This file imports nothing from the project. Replayed and imagined sequences have the same alignment:
index t holds what is known on ARRIVING at t, and the action that led there is `prev_action[t]`.

Shape letters, project-wide:

    T  replay time            E  parallel environments      M  embedding
    B  batch                  A  action                     D  deterministic state
    H  imagination horizon    O  one vector observation     S x K  stochastic state
    N = T * B  imagined starts                              P  statistics per variable
    C  image channels                                       F = S * K + D  features
    I  samples of a sequence (IWAE); if more than one, B of what is computed counts all of them
"""

from collections.abc import Mapping
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

# Observations whose names begin so are stored in the replay for probes; no agent observes them.
HIDDEN = "probe/"
Value = TypeVar("Value")


def visible(observations: Mapping[str, Value]) -> dict[str, Value]:
    """Return what belongs to the agent's own observations, by name: all but those for probes."""
    return {key: value for key, value in observations.items() if not key.startswith(HIDDEN)}


class ActionSpace(NamedTuple):
    """Actions: one of `size` options (one-hot), or `size` numbers in [-1, 1].

    For several choices at once, `choices` holds the number of options of each, such as (3, 2). An
    action is then the concatenation of their one-hot vectors, `size` numbers in all.
    """

    size: int
    discrete: bool
    choices: tuple[int, ...] = ()  # empty: one choice, or continuous


def obs_dtype(shape: tuple[int, ...]) -> type[np.uint8] | type[np.float32]:
    """Return the type of an observation: uint8 for images and class images, float32 for vectors."""
    return np.float32 if len(shape) == 1 else np.uint8


class TimeStep(NamedTuple):
    """One step of E environments, as NumPy arrays."""

    # Image (E, C, 64, 64) uint8; class image (E, h, w) uint8; a vector (E, O) float32.
    obs: dict[str, np.ndarray]
    reward: np.ndarray  # (E,) float32, raw, summed over the action repeat; 0 where is_first
    is_first: np.ndarray  # (E,) bool
    is_last: np.ndarray  # (E,) bool, the episode ends here: terminal OR time limit
    is_terminal: np.ndarray  # (E,) bool, the future has value 0 from here


class Batch(NamedTuple):
    """Sequences from the replay, time first. Images are uint8 and rewards raw."""

    # Image (T, B, C, 64, 64) uint8; class image (T, B, h, w) uint8; a vector (T, B, O) float32.
    obs: dict[str, Tensor]
    prev_action: Tensor  # (T, B, A) the action that led INTO obs[t]; zeros at an episode's reset
    reward: Tensor  # (T, B)
    is_first: Tensor  # (T, B) bool; also set at t = 0 of every sequence
    is_terminal: Tensor  # (T, B) bool

    def repeat(self, samples: int) -> "Batch":
        """Repeat every sequence, the copies side by side: (T, B, ...) -> (T, B * I, ...)."""
        if samples == 1:
            return self
        obs = {key: x.repeat_interleave(samples, 1) for key, x in self.obs.items()}
        return Batch(obs, *(x.repeat_interleave(samples, 1) for x in self[1:]))


class RSSMState(NamedTuple):
    """The latent state of the world model, for any leading shape."""

    deter: Tensor  # (..., D)
    stoch: Tensor  # (..., S, K) one-hot rows; Gaussian and binary latents have K = 1
    stats: Tensor  # (..., S, P) logits (P = K), or mean and raw standard deviation (P = 2)

    @property
    def features(self) -> Tensor:
        """(..., F): the stochastic part flattened first, then the deterministic part."""
        return torch.cat([self.stoch.flatten(-2), self.deter], -1)

    def detach(self) -> "RSSMState":
        """The same numbers without a graph."""
        return RSSMState(*(x.detach() for x in self))

    def flatten_time(self) -> "RSSMState":
        """Merge time and batch: (T, B, ...) -> (T * B, ...)."""
        return RSSMState(*(x.flatten(0, 1) for x in self))

    def at(self, index: int) -> "RSSMState":
        """The state at one index of the leading axis: (T, ...) -> (...)."""
        return RSSMState(*(x[index] for x in self))


class Trajectory(NamedTuple):
    """Imagined trajectories from N starts; index 0 is the start state itself."""

    features: Tensor  # (H+1, N, F)
    prev_action: Tensor  # (H+1, N, A); [0] is zero
    reward: Tensor  # (H+1, N) the reward head's mean
    discount: Tensor  # (H+1, N) gamma times the probability of continuing; [0] from the replay

    def detach(self) -> "Trajectory":
        """The same numbers without a graph."""
        return Trajectory(*(x.detach() for x in self))
