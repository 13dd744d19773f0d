"""Training: the loop, its settings, batches of real images, checkpoints and health checks."""
