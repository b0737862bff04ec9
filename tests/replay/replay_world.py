"""A world whose every number tells where it comes from, so that any sample can be checked."""

from collections.abc import Callable

import numpy as np

from dreamer.replay.buffer import Replay
from dreamer.types import Batch, TimeStep

OBS_SHAPES = {"image": (1, 6, 7), "vector": (3,)}
ACTION_SIZE = 2


class World:
    """E environments that step together; keeps the whole history of their flags.

    Step n of environment e shows the vector (e, n, 1), an image full of (31 e + n) mod 256, a
    reward of n and, as the action that led to it, (e + 1, n). A reset has no reward and no action.
    """

    def __init__(self, env_count: int, seed: int = 0, lengths: Callable[[], int] | None = None):
        generator = np.random.default_rng(seed)
        self.env_count = env_count
        self._lengths = lengths or (lambda: int(generator.integers(1, 15)))
        self._left = np.zeros(env_count, int)
        self.is_first = np.zeros((0, env_count), bool)
        self.is_last = np.zeros((0, env_count), bool)

    @property
    def steps(self) -> int:
        return len(self.is_first)

    def step(self) -> tuple[TimeStep, np.ndarray]:
        n, env = self.steps, np.arange(self.env_count)
        first = self._left == 0
        for e in np.flatnonzero(first):
            self._left[e] = self._lengths()
        self._left -= 1
        last = self._left == 0
        self.is_first = np.vstack([self.is_first, first])
        self.is_last = np.vstack([self.is_last, last])
        number = np.full(self.env_count, n)
        image = np.zeros((self.env_count, 1, 6, 7), np.uint8)
        image += ((31 * env + n) % 256).astype(np.uint8)[:, None, None, None]
        vector = np.stack([env, number, np.ones_like(env)], 1).astype(np.float32)
        action = np.where(first[:, None], 0, np.stack([env + 1, number], 1)).astype(np.float32)
        reward = np.where(first, 0, n).astype(np.float32)
        step = TimeStep(
            {"image": image, "vector": vector}, reward, first, last, last & (n % 2 == 0)
        )
        return step, action

    def play(self, replay: Replay, steps: int) -> None:
        for _ in range(steps):
            replay.add(*self.step())

    def roll_back(self, steps: int) -> None:
        """Forget the steps since, and let every environment reset next."""
        self.is_first, self.is_last = self.is_first[:steps], self.is_last[:steps].copy()
        self.is_last[-1:] = True
        self._left[:] = 0

    def episodes(self, oldest: int = 0) -> list[tuple[int, int, int]]:
        """All complete episodes that begin at `oldest` or later: environment, start, stop."""
        found = []
        for env in range(self.env_count):
            start = None
            for n in range(oldest, self.steps):
                start = n if self.is_first[n, env] else start
                if self.is_last[n, env] and start is not None:
                    found.append((env, start, n + 1))
        return found

    def check(self, batch: Batch, oldest: int, across_episodes: bool) -> None:
        """Every sequence is a stretch of history, not older than `oldest`, in one environment."""
        env, number, one = batch.obs["vector"].numpy().astype(int).transpose(2, 0, 1)  # (T, B)
        assert (one == 1).all()
        assert (env == env[0]).all()
        assert (number == number[0] + np.arange(len(number))[:, None]).all()
        assert number.min() >= oldest and number.max() < self.steps
        first = self.is_first[number, env]
        assert across_episodes or not first[1:].any()
        assert batch.is_first[0].all()
        assert (batch.is_first[1:].numpy() == first[1:]).all()
        assert (batch.reward.numpy() == np.where(first, 0, number)).all()
        action = np.where(first[..., None], 0, np.stack([env + 1, number], -1))
        assert (batch.prev_action.numpy() == action).all()
        terminal = self.is_last[number, env] & (number % 2 == 0)
        # A roll-back makes a last step of one that was never terminal.
        assert (batch.is_terminal.numpy() <= terminal).all()
        pixel = (31 * env + number) % 256
        assert (batch.obs["image"].numpy() == pixel[:, :, None, None, None]).all()
