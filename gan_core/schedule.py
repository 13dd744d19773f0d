"""Schedules of settings over the burn-in of a run."""

import math


def cosine(start: float, end: float, progress: float) -> float:
    """Cosine schedule from ``start`` at progress 0 to ``end`` at progress 1 (Huang et al. 2024, section 3.5)."""
    return end + (start - end) * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0))) / 2
