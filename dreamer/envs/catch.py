"""Catch: a small world of pixels with one delayed reward.

`dreamer/envs/dummy.py` builds it.
"""

import numpy as np

from dreamer.envs.dummy_base import IMAGE_SIZE, DummyEnvs
from dreamer.types import ActionSpace

COLUMNS = 7
FALL = 9  # policy steps from the top to the paddle
EDGE = IMAGE_SIZE // COLUMNS  # pixels; the ball is a square, and the paddle as wide
ROW = 6  # pixels that the ball falls in a policy step
PADDLE_HEIGHT = 4  # pixels
BALL, PADDLE = 255, 128  # brightness


class CatchEnvs(DummyEnvs):
    """Move a paddle below a falling ball.

    The ball starts at the top of one of seven columns, with equal probability, and falls for nine
    steps. The paddle starts in the middle. Action 0 moves it a column to the left, 1 keeps it
    there, 2 moves it to the right; at an edge it stays. The last step is terminal and rewarded with
    +1 if the paddle is below the ball, else with -1. All other rewards are 0.

    Optimum: every column is within three steps, so 1.

    Random: the paddle's column is a Markov chain of nine uniform steps, the ball's is uniform and
    independent of it. So they agree with a probability of 1/7, and the mean is 2/7 - 1.
    """

    action_space = ActionSpace(3, discrete=True)
    optimum = 1.0
    random_return = 2 / COLUMNS - 1

    def __init__(self, count: int, seed: int):
        super().__init__(count, seed, FALL)
        self.obs_shapes = {"image": (1, IMAGE_SIZE, IMAGE_SIZE)}
        self._ball = np.zeros(count, int)  # (E,) column
        self._paddle = np.zeros(count, int)  # (E,) column

    def _begin(self, env: int, rng: np.random.Generator) -> None:
        self._ball[env], self._paddle[env] = rng.integers(COLUMNS), COLUMNS // 2

    def _advance(self, action: np.ndarray) -> np.ndarray:
        self._paddle = np.clip(self._paddle + action.argmax(1) - 1, 0, COLUMNS - 1)
        caught = np.where(self._paddle == self._ball, 1, -1)
        return np.where(self._time == FALL - 1, caught, 0)

    def _is_terminal(self) -> np.ndarray:
        return self._time == FALL

    def _draw(self) -> np.ndarray:
        image = np.zeros((self.count, 1, IMAGE_SIZE, IMAGE_SIZE), np.uint8)
        for env in range(self.count):
            top, left = ROW * self._time[env], EDGE * self._ball[env]
            image[env, 0, top : top + EDGE, left : left + EDGE] = BALL
            left = EDGE * self._paddle[env]
            image[env, 0, -PADDLE_HEIGHT:, left : left + EDGE] = PADDLE
        return image
