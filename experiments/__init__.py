"""Scores, tables and figures of runs and of the published data, and sweeps of runs.

All but `experiments.sweep` read run folders and the published data (`experiments/published`); they
know no agent. `dreamer` never imports this package.
"""
