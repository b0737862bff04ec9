"""From run folders to scores, tables and figures beside the published ones.

It reads what runs leave on disk and the paper's numbers (`experiments/published`); it never imports
`dreamer`, and `dreamer` never imports it.
"""
