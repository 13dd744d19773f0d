"""Training: the loop, its settings, its checkpoints, its data and its health."""
