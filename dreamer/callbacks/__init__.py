"""Lightning callbacks: collection, evaluation, metrics, videos and checkpoints, by frames."""
