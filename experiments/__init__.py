"""From run folders to scores, tables and figures beside the published ones, and sweeps of runs.

All but `experiments.sweep` read what runs leave on disk and the paper's numbers
(`experiments/published`); they know no agent. `dreamer` never imports it.
"""
