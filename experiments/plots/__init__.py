"""Figures of runs and of the published data: tables of curves in, PNG and PDF files out.

`figures` draws all that make sense for a table, `published_figures` those of the paper's data;
single figures come from `curves`, `bars`, `ablations` and `profiles` as matplotlib Figures.
"""

from experiments.plots.selection import figures, published_figures

__all__ = ["figures", "published_figures"]
