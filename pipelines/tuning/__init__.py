"""The tune stage: Ray Tune over gan_core's trainer, one process a trial."""
