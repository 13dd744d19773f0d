"""Measured quality: feature extractor, metric and cache are three things; every figure carries its protocol."""
