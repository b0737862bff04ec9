"""Other implementations of DreamerV2, each in its own virtual environment, for comparison."""
