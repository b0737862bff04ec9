"""When things happen: collection, evaluation, metrics, videos and checkpoints."""
