"""Style of all figures: colours, fonts, numbers on axes, panels, files.

The other modules of this package use it. It knows no runs or scores, and does not change
matplotlib's global state: no pyplot, no rcParams.
"""

import re
from collections.abc import Iterable, Sequence
from io import BytesIO
from math import ceil
from pathlib import Path
from typing import NamedTuple

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from PIL import Image

# Okabe & Ito (2008), https://jfly.uni-koeln.de/color: distinguishable with any colour vision.
# Without their yellow (too faint on white) and black (used for published data).
BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
)
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
GREY = "#555555"
DASHES = ("-", "-.", ":")
# Font sizes in points. Figures are drawn at their size in print.
SMALL, NORMAL, LARGE = 7, 8, 10
NICE_STEPS = [1, 2, 2.5, 5, 10]
PNG_DOTS_PER_INCH = 150

FULL_AGENT = "dreamerv2"
_SPELLING = {
    "dreamerv2": "DreamerV2",
    "kl": "KL",
    "iqn": "IQN",
    "dqn": "DQN",
    "pydreamer": "PyDreamer",
    "c51": "C51",
}


class Style(NamedTuple):
    """Colour and dashes of one variant, the same in every figure of a table."""

    color: str
    linestyle: str | tuple[int, tuple[float, ...]]


PUBLISHED = "published"
PUBLISHED_STYLE = Style("black", (0, (4, 2)))
PYDREAMER = "published_pydreamer"
PYDREAMER_STYLE = Style(GREY, (0, (1, 1.5)))


def variant_styles(variants: Iterable[str]) -> dict[str, Style]:
    """Assign styles to variants: the full agent first, the others in alphabetical order.

    From the seventh on, colours repeat with other dashes. Published curves come last, dashed in
    black.
    """
    names = set(variants)
    order = sorted(names - {PUBLISHED}, key=lambda name: (name != FULL_AGENT, name))
    looks = {
        name: Style(COLOURS[i % len(COLOURS)], DASHES[i // len(COLOURS) % len(DASHES)])
        for i, name in enumerate(order)
    }
    return looks | ({PUBLISHED: PUBLISHED_STYLE} if PUBLISHED in names else {})


def readable(name: str) -> str:
    """Format the name of a task or a variant: no_kl_balancing -> No KL Balancing.

    Names with other characters than lower-case words (`tiny-latents=gaussian`) do not change.
    """
    if not re.fullmatch(r"[a-z0-9_]+", name):
        return name
    return " ".join(_SPELLING.get(word, word.capitalize()) for word in name.split("_"))


def plural(count: int, thing: str) -> str:
    """Format a count: 1 seed, 2 seeds."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def short_number(number: float, _position: int | None = None) -> str:
    """Format a tick: 200 as 200, 10000 as 10k, 1500000 as 1.5M."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size and (size > 1e3 or abs(number) >= 1e4):
            return f"{number / size:g}{letter}"
    return f"{number:g}"


def columns_of(count: int) -> int:
    """Return the number of columns for a few panels: up to three, and two for four."""
    return 2 if count == 4 else min(count, 3)


def panels(
    count: int, *, columns: int, width: float = 2.4, height: float = 1.9
) -> tuple[Figure, list[Axes]]:
    """Make a figure of equal panels, row by row.

    Args:
        count: number of panels.
        columns: maximum number of panels in a row.
        width: of a panel, inches.
        height: of a panel, inches.

    Returns:
        The figure, and exactly `count` axes.
    """
    columns = min(columns, count)
    rows = ceil(count / columns)
    figure = Figure(figsize=(columns * width, rows * height), layout="constrained")
    axes = [figure.add_subplot(rows, columns, i + 1) for i in range(count)]
    for axis in axes:
        plain(axis)
    return figure, axes


def plain(axis: Axes) -> None:
    """Style an axis: small ticks with short numbers, light horizontal lines, no box."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=SMALL)
    axis.xaxis.set_major_locator(MaxNLocator(4, steps=NICE_STEPS))
    axis.yaxis.set_major_locator(MaxNLocator(5, steps=NICE_STEPS))
    axis.xaxis.set_major_formatter(FuncFormatter(short_number))
    axis.yaxis.set_major_formatter(FuncFormatter(short_number))
    axis.grid(axis="y", color="#e5e5e5", linewidth=0.6)
    axis.set_axisbelow(True)


def legend_below(figure: Figure, handles: Sequence[Artist]) -> None:
    """Add a legend for all panels below them, and make the figure higher for it."""
    # About twenty characters of the legend fit in one and a half inches.
    widest = max(len(str(handle.get_label())) for handle in handles)
    columns = max(1, int(figure.get_figwidth() / (0.6 + 0.065 * widest)))
    figure.set_figheight(figure.get_figheight() + 0.19 * ceil(len(handles) / columns))
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=min(columns, len(handles)),
        frameon=False,
        fontsize=NORMAL,
    )


def save(figure: Figure, stem: Path) -> Path:
    """Write `stem`.png for screens and `stem`.pdf for print; the same figure gives the same bytes.

    Args:
        figure: any figure.
        stem: path without suffix; its folder is created.

    Returns:
        The path of the PNG file.
    """
    stem.parent.mkdir(parents=True, exist_ok=True)
    png = stem.with_name(stem.name + ".png")
    pixels = BytesIO()
    figure.savefig(pixels, format="png", dpi=PNG_DOTS_PER_INCH)
    # 64 colours are enough for lines, bands and text, and need a third of the bytes.
    image = Image.open(pixels).convert("RGB").quantize(64, dither=Image.Dither.NONE)
    image.save(png, optimize=True)
    figure.set_layout_engine("none")  # the layout is done; repeating it takes seconds
    # Type 42 embeds fonts, so that text can be searched and copied; conferences require it.
    with matplotlib.rc_context({"pdf.fonttype": 42}):
        figure.savefig(stem.with_name(stem.name + ".pdf"), metadata={"CreationDate": None})
    return png
