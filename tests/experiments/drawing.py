"""What the tests of figures share: small tables of curves, and how to read a figure's numbers."""

from collections.abc import Iterable

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure


def run(scores: Iterable[float], *, seed="0", task="pong", variant="dreamerv2", every=10):
    """A run whose episodes end every so many frames."""
    scores = list(scores)
    frames = (np.arange(len(scores)) + 1) * every
    ids = {"env": "atari", "task": task, "variant": variant, "seed": seed}
    return pd.DataFrame({**ids, "frames": frames, "score": scores})


def table(*runs: pd.DataFrame) -> pd.DataFrame:
    return pd.concat(runs, ignore_index=True)


def lines(axis: Axes) -> dict[str, np.ndarray]:
    """Label -> (P, 2) frames and scores."""
    named = [line for line in axis.lines if not str(line.get_label()).startswith("_")]
    return {str(line.get_label()): line.get_xydata() for line in named}


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def remarks(axis: Axes) -> str:
    return "\n".join(text.get_text() for text in axis.texts)


def bars(axis: Axes) -> np.ndarray:
    return np.array([bar.get_width() for bar in axis.patches])


def labels(axis: Axes) -> list[str]:
    return [label.get_text() for label in axis.get_yticklabels()]
