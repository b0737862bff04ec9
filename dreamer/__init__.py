"""DreamerV2 (Hafner et al., ICLR 2021) as a PyTorch Lightning project."""
