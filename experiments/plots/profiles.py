"""Performance profiles: the share of runs with a score above each threshold.

It reads one score per run, as from `experiments.tables.at_frames`, on Atari games.

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
    "The share of runs whose gamer-normalised score exceeds the threshold on the x axis, with "
    "equal weight for each game; higher is better, 1 is the gamer. Band: 95 % bootstrap interval "
    "over seeds, none with one seed per game. The x axis is linear up to 1 and logarithmic beyond."
)


def performance_profiles(runs: pd.DataFrame) -> Figure:
    """Draw the profile of each variant, over the games that all variants have.

    Args:
        runs: as from `at_frames`, on Atari games with their published names.

    Raises:
        ValueError: The variants share no game.
    """
    games = shared_tasks(runs)
    if not games:
        raise ValueError("`runs` must have a task that all variants share, got none")
    references = published.baselines().loc[games]
    looks = style.variant_styles(runs["variant"])
    figure, (axis,) = style.panels(1, columns=1, width=7.2, height=3.4)
    for variant, look in looks.items():
        raw = matrix(runs[runs["variant"] == variant])[games]  # (S, G)
        scaled = scores.normalize(raw, references["random"], references["human_gamer"])
        share = scores.performance_profile(scaled, THRESHOLDS)
        low, high = scores.bootstrap_interval(
            lambda x: scores.performance_profile(x, THRESHOLDS),
            scaled,
            rng=np.random.default_rng(0),
            resamples=RESAMPLES,
        )
        # Agents published with one score per game have an empty seed.
        count = plural(len(raw), "seed") if any(raw.index) else "one score per game"
        label = f"{readable(variant)}, {count}"
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
