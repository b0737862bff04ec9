"""The vocabulary of the project: what one step, one batch and one latent state are.

Everything else imports these words; this file imports nothing of the project. Real and imagined
time share one alignment: index t holds what is known on ARRIVING at t, and the action that led
there is `prev_action[t]`.

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
    """What a policy may do: one of `size` choices (one-hot), or `size` numbers in [-1, 1].

    Or several choices at once: then `choices` says how many options each has, (3, 2) say, and an
    action is their one-hot vectors one after the other, `size` numbers in all.
    """

    size: int
    discrete: bool
    choices: tuple[int, ...] = ()  # empty: one choice, or continuous


class TimeStep(NamedTuple):
    """One step of E environments, as NumPy arrays, on arriving at it."""

    obs: dict[str, np.ndarray]  # image (E, C, 64, 64) uint8; a vector (E, O) float32
    reward: np.ndarray  # (E,) float32, raw, summed over the action repeat; 0 where is_first
    is_first: np.ndarray  # (E,) bool
    is_last: np.ndarray  # (E,) bool, the episode ends here: terminal OR time limit
    is_terminal: np.ndarray  # (E,) bool, the future is worth nothing from here


class Batch(NamedTuple):
    """Sequences from the replay, time first. Pixels stay uint8 and rewards raw until the model."""

    obs: dict[str, Tensor]  # image (T, B, C, 64, 64) uint8; a vector (T, B, O) float32
    prev_action: Tensor  # (T, B, A) the action that led INTO obs[t]; zeros at an episode's reset
    reward: Tensor  # (T, B)
    is_first: Tensor  # (T, B) bool; also set at t = 0 of every sequence
    is_terminal: Tensor  # (T, B) bool


class RSSMState(NamedTuple):
    """The latent state of the world model, for any leading shape."""

    deter: Tensor  # (..., D)
    stoch: Tensor  # (..., S, K) one-hot rows; Gaussian latents have K = 1
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
    """An imagined future of N starts; index 0 is the real start state."""

    features: Tensor  # (H+1, N, F)
    prev_action: Tensor  # (H+1, N, A); [0] is zero
    reward: Tensor  # (H+1, N) the reward head's mean
    discount: Tensor  # (H+1, N) gamma times the probability to go on; [0] from the replay

    def detach(self) -> "Trajectory":
        """The same numbers without a graph."""
        return Trajectory(*(x.detach() for x in self))
