"""Training: the loop, evaluation, checkpoints, signals."""
