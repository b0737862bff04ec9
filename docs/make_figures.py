"""Draw the figures of docs/, from the root of the repository.

`python -m docs.make_figures published` draws those of the published data.
`python -m docs.make_figures RUN_DIR NAME [RANDOM_RETURN]` draws one run: docs/NAME_curves.png
(losses and returns over frames) and docs/NAME_dream.png (frames of the newest open-loop video).
`python -m docs.make_figures animation RUN_DIR NAME` makes docs/NAME_dream.gif of that video.
`python -m docs.make_figures suites RUNS` draws docs/suites.png: the evaluations of the SUITES,
whose runs lie under the folder RUNS.
`python -m docs.make_figures boxing RUNS` draws docs/boxing_returns.png: the runs of `atari_small`
under the folder RUNS, beside the published ones.
`python -m docs.make_figures episode FILM NAME` makes docs/NAME_episode.gif: half a minute of the
film of an episode, four times as fast and half as large.
"""

import json
import shutil
import sys
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import imageio.v2 as imageio
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import experiments.plots.style as style
from dreamer.video import encode_gif
from experiments import published
from experiments.plots import published_figures

DOCS = Path(__file__).parent
STRIP_STEPS = 4  # pictures of a strip, an even number
PANELS = {
    "image loss (nats)": [
        *("observations/image_nll", "observations/vector_nll"),
        *("world_model/image_nll", "world_model/vector_nll"),  # of earlier versions
    ],
    "KL (nats)": ["world_model/kl"],
    "reward loss (nats)": ["world_model/reward_nll"],
    "policy entropy (nats)": ["actor/entropy"],
    "return of an episode": ["collect/return", "eval/return_mean"],
    "critic's value": ["critic/value", "critic/target"],
}


class Suite(NamedTuple):
    """A small task of a suite; returns are of episodes."""

    folder: str  # <env>/<task>/<variant>
    random: float  # what a random policy gets
    goal: float
    published: str | None = None  # its name among the authors' curves from pixels


SUITES = {
    "CartPole-v1, from vectors": Suite("gym/CartPole-v1/cartpole", 22, 475),
    "Control Suite: cartpole_balance, from vectors": Suite(
        "dmc_proprio/cartpole_balance/cartpole_balance", 299, 1000, "cartpole_balance"
    ),
    "MiniGrid: Empty-5x5, from pixels": Suite("minigrid/Empty-5x5/empty_room", 0.2, 0.955),
    "Pendulum-v1, from vectors": Suite("gym/Pendulum-v1/pendulum", -1147, -200),
}


EPISODE_STEPS, EPISODE_SPEED = 900, 4  # policy steps of a film, and every how many are shown
BOXING = "atari/boxing/atari_small"
BOXING_RANDOM = 0.1
BOXING_FRAMES = 2.1e6  # as far as the figure shows the published runs


def read_metrics(run_dir: Path) -> list[dict[str, float | None]]:
    """The lines that a run has written, each with the values it had at its frame."""
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").open()]


def draw_run(run_dir: Path, random_return: float | None) -> Figure:
    """One panel for each of the PANELS, frames on every x axis."""
    lines = read_metrics(run_dir)
    figure, axes = style.panels(len(PANELS), columns=3, width=3.0, height=2.3)
    for axis, (title, keys) in zip(axes, PANELS.items(), strict=True):
        for key, color in zip(keys, style.COLOURS, strict=False):
            points = [(x["frames"], x[key]) for x in lines if x.get(key) is not None]
            if points:
                axis.plot(*zip(*points, strict=True), color=color, label=key, linewidth=1.2)
        if title.startswith("return") and random_return is not None:
            axis.axhline(random_return, color=style.GREY, linestyle=":", label="random policy")
        axis.set_title(title, fontsize=style.LARGE)
        axis.set_xlim(left=0)
        axis.set_xlabel("frames", fontsize=style.NORMAL)
        axis.legend(frameon=False, fontsize=style.SMALL)
    figure.suptitle(f"{' / '.join(run_dir.parts[-4:])}: one run", fontsize=style.LARGE)
    return figure


def draw_suites(runs: Path) -> Figure:
    """One panel a suite: a line a seed, and what a random policy and the authors' agent reach."""
    figure, axes = style.panels(len(SUITES), columns=2, width=3.4, height=2.3)
    for axis, (title, suite) in zip(axes, SUITES.items(), strict=True):
        _draw_suite(axis, runs / suite.folder, suite)
        axis.set_title(title, fontsize=style.NORMAL)
        axis.set_xlabel("frames", fontsize=style.NORMAL)
        axis.set_xlim(left=0)
    handles = [axis.get_legend_handles_labels()[0] for axis in axes]
    style.legend_below(figure, max(handles, key=len))  # the panel with everything in it
    figure.suptitle("Return of evaluations, mean of their episodes", fontsize=style.LARGE)
    return figure


def _draw_suite(axis: Axes, folder: Path, suite: Suite) -> None:
    seeds = sorted(folder.glob("seed*"))
    if not seeds:
        sys.exit(f"No runs in {folder}. docs/results.md has the commands that make them.")
    key, end = "eval/return_mean", 0
    for seed, color in zip(seeds, style.COLOURS, strict=False):
        points = [(x["frames"], x[key]) for x in read_metrics(seed) if x.get(key) is not None]
        end = max(end, points[-1][0])
        axis.plot(*zip(*points, strict=True), color=color, label=seed.name, linewidth=1.2)
    axis.axhline(suite.random, color=style.GREY, linestyle=":", label="random policy")
    axis.axhline(suite.goal, color=style.GREY, linewidth=0.8, label="goal, or best possible")
    if suite.published:
        curves = published.curves("dmc-vision-dreamerv2")
        curve = curves[curves["task"] == suite.published].groupby("frames")["score"].mean()
        shown = curve[curve.index <= end]
        axis.plot(
            shown.index, shown, "o", color="black", markersize=3, label="published, from pixels"
        )


def draw_boxing(runs: Path) -> Figure:
    """Returns of Boxing over frames: a line a seed, dots for evaluations; and published ones."""
    seeds = sorted((runs / BOXING).glob("seed*"))
    if not seeds:
        sys.exit(f"No runs in {runs / BOXING}. docs/results.md has the command that makes them.")
    figure, (axis,) = style.panels(1, columns=1, width=6.0, height=3.2)
    for seed, color in zip(seeds, style.COLOURS, strict=False):
        lines = read_metrics(seed)
        for key, form in (("collect/return", "-"), ("eval/return_mean", "o")):
            points = [(x["frames"], x[key]) for x in lines if x.get(key) is not None]
            label = f"training, {seed.name}" if form == "-" else None
            axis.plot(*zip(*points, strict=True), form, color=color, label=label, markersize=4)
    axis.plot([], [], "o", color=style.GREY, markersize=4, label="evaluation, mode")
    curves = published.curves("atari-dreamerv2")
    scores = curves[curves["task"] == "boxing"].groupby("frames")["score"]
    shown = scores.agg(["mean", "min", "max"]).loc[:BOXING_FRAMES]
    around = [shown["mean"] - shown["min"], shown["max"] - shown["mean"]]
    half = shown.index[0] / 2  # of a bin: a score is the mean of all its episodes
    axis.errorbar(
        shown.index - half,
        shown["mean"],
        around,
        half,
        color="black",
        fmt="none",
        label="published, 8 seeds: mean over a million frames",
    )
    axis.axhline(BOXING_RANDOM, color=style.GREY, linestyle=":", label="random policy")
    axis.set_xlim(0, BOXING_FRAMES)
    axis.set_xlabel("frames", fontsize=style.NORMAL)
    axis.set_title("Boxing: return of an episode", fontsize=style.LARGE)
    axis.legend(frameon=False, fontsize=style.SMALL, loc="lower right", bbox_to_anchor=(1, 0.2))
    return figure


def read_dream(run_dir: Path) -> np.ndarray:
    """The frames (T, H, W, 3) of the newest open-loop video of a run."""
    film = sorted((run_dir / "videos").glob("open_loop_*.mp4"))[-1]
    return np.stack([np.asarray(x) for x in imageio.get_reader(film)])


def draw_strip(frames: np.ndarray) -> np.ndarray:
    """Every few frames, from the first dreamt one on, in two columns."""
    chosen = np.linspace(0, len(frames) - 1, STRIP_STEPS + 1).astype(int)[1:]
    left, right = np.split(frames[chosen], 2)
    return np.concatenate([np.concatenate(x, 0) for x in (left, right)], 1)


def animate(frames: np.ndarray, *, fps: int) -> bytes:
    """The video as a GIF; its end stays longer."""
    return encode_gif(np.concatenate([frames, frames[-1:].repeat(fps, 0)]), fps=fps)


def keep_pictures(pictures: list[Path]) -> None:
    """Put PNG files into docs/; the PDF beside each is for papers, not for a repository."""
    for picture in pictures:
        shutil.copy(picture, DOCS / picture.name)


def main() -> None:
    """Draw what the command line asks for."""
    if len(sys.argv) < 3 and sys.argv[1:] != ["published"]:
        sys.exit(__doc__)
    with TemporaryDirectory() as folder:
        if sys.argv[1:] == ["published"]:
            keep_pictures([picture for picture, _ in published_figures(Path(folder))])
            return
        if sys.argv[1] == "suites":
            figure = draw_suites(Path(sys.argv[2]))
            keep_pictures([style.save(figure, Path(folder) / "suites")])
            return
        if sys.argv[1] == "boxing":
            figure = draw_boxing(Path(sys.argv[2]))
            keep_pictures([style.save(figure, Path(folder) / "boxing_returns")])
            return
        if sys.argv[1] == "episode":
            shown = islice(imageio.get_reader(sys.argv[2]), 0, EPISODE_STEPS, EPISODE_SPEED)
            film = np.stack([np.asarray(x) for x in shown])
            gif = encode_gif(np.ascontiguousarray(film[:, ::2, ::2]), fps=15)
            (DOCS / f"{sys.argv[3]}_episode.gif").write_bytes(gif)
            return
        if sys.argv[1] == "animation":
            film = animate(read_dream(Path(sys.argv[2])), fps=5)
            (DOCS / f"{sys.argv[3]}_dream.gif").write_bytes(film)
            return
        run_dir, name = Path(sys.argv[1]), sys.argv[2]
        random_return = float(sys.argv[3]) if len(sys.argv) > 3 else None
        figure = draw_run(run_dir, random_return)
        keep_pictures([style.save(figure, Path(folder) / f"{name}_curves")])
        imageio.imwrite(DOCS / f"{name}_dream.png", draw_strip(read_dream(run_dir)))


if __name__ == "__main__":
    main()
