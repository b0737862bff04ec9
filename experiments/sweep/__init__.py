"""A sweep: the jobs of a grid, run by Hydra's launchers, and a table of them."""
