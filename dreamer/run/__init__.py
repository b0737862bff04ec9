"""One run, from its configuration to its folder: the only package that knows Hydra."""
