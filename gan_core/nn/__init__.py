"""Layers, normalisation, resampling, initialisation, losses and penalties that the families share."""
