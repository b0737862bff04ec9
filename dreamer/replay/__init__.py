"""Experience on disk and the batches sampled from it."""
