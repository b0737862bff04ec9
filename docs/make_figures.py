"""Draw the figures of docs/ from a run folder: `python docs/make_figures.py RUN_DIR NAME`.

Writes docs/NAME_curves.png (losses and returns over frames) and docs/NAME_dream.png (a strip of
the last open-loop film: truth, model, error).
"""

import json
import sys
from pathlib import Path

import imageio.v2 as imageio
import matplotlib.pyplot as plt
import numpy as np

DOCS = Path(__file__).parent
PANELS = {
    "image loss (nats)": ["world_model/image_nll", "world_model/vector_nll"],
    "KL (nats)": ["world_model/kl"],
    "reward loss (nats)": ["world_model/reward_nll"],
    "policy entropy (nats)": ["actor/entropy"],
    "return of an episode": ["collect/return", "eval/return_mean"],
    "critic's value": ["critic/value", "critic/target"],
}


def draw_curves(run_dir: Path, path: Path, random_return: float | None) -> None:
    """One panel for each of the PANELS, frames on every x axis."""
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").open()]
    figure, axes = plt.subplots(2, 3, figsize=(12, 6), layout="constrained")
    for axis, (title, keys) in zip(axes.flat, PANELS.items(), strict=True):
        for key in keys:
            points = [(x["frames"], x[key]) for x in lines if x.get(key) is not None]
            if points:
                axis.plot(*zip(*points, strict=True), label=key, marker=".", markersize=3)
        axis.set(title=title, xlabel="frames")
        if title.startswith("return") and random_return is not None:
            axis.axhline(random_return, color="grey", linestyle=":", label="random policy")
        axis.legend(frameon=False, fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(" / ".join(run_dir.parts[-4:]))
    figure.savefig(path, dpi=110)


def draw_strip(run_dir: Path, path: Path, steps: int) -> None:
    """Every few steps of the first sequence of the newest film, side by side."""
    film = sorted((run_dir / "videos").glob("open_loop_*.mp4"))[-1]
    images = [np.asarray(x) for x in imageio.get_reader(film)]
    side = images[0].shape[0] // 3
    chosen = np.linspace(0, len(images) - 1, steps).astype(int)
    strip = np.concatenate([images[i][:, : side + 4] for i in chosen], 1)
    imageio.imwrite(path, strip.repeat(2, 0).repeat(2, 1))


def main() -> None:
    """Draw both figures of one run; the third argument is the random policy's return."""
    run_dir, name = Path(sys.argv[1]), sys.argv[2]
    random_return = float(sys.argv[3]) if len(sys.argv) > 3 else None
    draw_curves(run_dir, DOCS / f"{name}_curves.png", random_return)
    draw_strip(run_dir, DOCS / f"{name}_dream.png", steps=10)


if __name__ == "__main__":
    main()
