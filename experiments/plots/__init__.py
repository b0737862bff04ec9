"""Figures of runs and of the published data, from tables of curves, as PNG and PDF files.

`figures` draws those of a table of runs, `published_figures` those of the paper's data, and
`search_figures` those of a search. The modules `curves`, `bars`, `aggregates`, `profiles` and
`search` draw single figures as matplotlib Figures.
"""

from experiments.plots.search import search_figures
from experiments.plots.selection import Captioned, figures, published_figures, shows_curves

__all__ = ["Captioned", "figures", "published_figures", "search_figures", "shows_curves"]
