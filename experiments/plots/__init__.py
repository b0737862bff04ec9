"""Figures of runs and of the published data, from tables of curves, as PNG and PDF files.

`figures` draws those of a table of runs, `published_figures` those of the paper's data. The modules
`curves`, `bars`, `aggregates` and `profiles` draw single figures as matplotlib Figures.
"""

from experiments.plots.selection import Captioned, figures, published_figures, shows_curves

__all__ = ["Captioned", "figures", "published_figures", "shows_curves"]
