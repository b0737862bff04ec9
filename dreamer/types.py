"""The data types of the project: steps, batches, latent states and trajectories.

This file imports nothing from the project. Replayed and imagined sequences have the same alignment:
index t holds what is known on ARRIVING at t, and the action that led there is `prev_action[t]`.

Shape letters, project-wide:

    T  replay time            E  parallel environments      M  embedding
    B  batch                  A  action                     D  deterministic state
    H  imagination horizon    O  one vector observation     S x K  stochastic state
    N = T * B  imagined starts                              P  statistics per variable
    C  image channels                                       F = S * K + D  features
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class ActionSpace(NamedTuple):
    """Actions: one of `size` options (one-hot), or `size` numbers in [-1, 1].

    For several choices at once, `choices` holds the number of options of each, such as (3, 2). An
    action is then the concatenation of their one-hot vectors, `size` numbers in all.
    """

    size: int
    discrete: bool
    choices: tuple[int, ...] = ()  # empty: one choice, or continuous


class TimeStep(NamedTuple):
    """One step of E environments, as NumPy arrays."""

    obs: dict[str, np.ndarray]  # image (E, C, 64, 64) uint8; a vector (E, O) float32
    reward: np.ndarray  # (E,) float32, raw, summed over the action repeat; 0 where is_first
    is_first: np.ndarray  # (E,) bool
    is_last: np.ndarray  # (E,) bool, the episode ends here: terminal OR time limit
    is_terminal: np.ndarray  # (E,) bool, the future has value 0 from here


class Batch(NamedTuple):
    """Sequences from the replay, time first. Images are uint8 and rewards raw."""

    obs: dict[str, Tensor]  # image (T, B, C, 64, 64) uint8; a vector (T, B, O) float32
    prev_action: Tensor  # (T, B, A) the action that led INTO obs[t]; zeros at an episode's reset
    reward: Tensor  # (T, B)
    is_first: Tensor  # (T, B) bool; also set at t = 0 of every sequence
    is_terminal: Tensor  # (T, B) bool


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
