"""Performance profiles: which share of runs scores above each level, instead of one number.

It reads one score a run, as `experiments.tables.at_frames` gives them, on Atari games.

Source: Agarwal et al. 2021, Section 4.2.  https://arxiv.org/abs/2108.13264
"""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import experiments.plots.style as style
from experiments import published, scores
from experiments.plots.style import plural, readable
from experiments.tables import matrix, shared_tasks

THRESHOLDS = np.concatenate([np.linspace(0, 1, 81), np.geomspace(1, 100, 121)[1:]])
RESAMPLES = 300
PROFILES_TEXT = (
    "The share of runs whose gamer-normalised score exceeds the level on the x axis, each game "
    "weighing the same; higher is better, 1 is the gamer. Band: 95 % bootstrap interval over "
    "seeds, none with one seed a game. The x axis is linear up to 1 and logarithmic beyond."
)


def performance_profiles(runs: pd.DataFrame) -> Figure:
    """Draw the profile of each variant, over the games that all of them have.

    Args:
        runs: as of `at_frames`, on Atari games by their published names.

    Raises:
        ValueError: if the variants share no game.
    """
    games = shared_tasks(runs)
    if not games:
        raise ValueError("Expect `runs` to hold a task that all variants share, actually: none")
    people = published.baselines().loc[games]
    looks = style.variant_styles(runs["variant"])
    figure, (axis,) = style.panels(1, columns=1, width=7.2, height=3.4)
    for variant, look in looks.items():
        raw = matrix(runs[runs["variant"] == variant])[games]  # (S, G)
        scaled = scores.normalize(raw, people["random"], people["human_gamer"])
        share = scores.performance_profile(scaled, THRESHOLDS)
        low, high = scores.bootstrap_interval(
            lambda x: scores.performance_profile(x, THRESHOLDS),
            scaled,
            rng=np.random.default_rng(0),
            resamples=RESAMPLES,
        )
        # An agent that was published as one number a game has no name for its seed.
        rests_on = plural(len(raw), "seed") if any(raw.index) else "one number a game"
        label = f"{readable(variant)}, {rests_on}"
        axis.plot(THRESHOLDS, share, **look._asdict(), linewidth=1.4, label=label)
        if np.isfinite(low).all():
            axis.fill_between(THRESHOLDS, low, high, color=look.color, alpha=0.18, linewidth=0)
    axis.set_xscale("symlog", linthresh=1)
    levels = [0, 0.5, 1, 2, 5, 10, 20, 50, 100]
    axis.set_xticks(levels, [style.short_number(x) for x in levels])
    axis.set_xticks([], minor=True)
    axis.set_xlim(0, THRESHOLDS[-1])
    axis.set_ylim(0, 1)
    axis.set_xlabel("gamer-normalised score", fontsize=style.NORMAL)
    axis.set_ylabel(f"share of runs above, {plural(len(games), 'game')}", fontsize=style.NORMAL)
    figure.legend(loc="outside right upper", frameon=False, fontsize=style.NORMAL)
    return figure
