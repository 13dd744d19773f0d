"""Hyperparameter search: Ray Tune over gan_core's trainer, one process per trial."""
