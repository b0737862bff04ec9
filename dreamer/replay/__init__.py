"""The replay: experience on disk, and batches sampled from it."""
