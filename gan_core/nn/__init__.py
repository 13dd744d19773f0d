"""Layers, normalisation, resampling, initialisation, losses and penalties shared by the families."""
