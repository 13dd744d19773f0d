"""Evaluation: measure the figures of a trained generator, with their protocols."""
