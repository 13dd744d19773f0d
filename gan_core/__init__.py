"""GAN training and its evaluation in PyTorch; knows nothing of schedulers, trackers or clusters."""

__version__ = "0.1.0"
