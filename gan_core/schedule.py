"""Schedules over the burn-in of a run."""

import math


def cosine(start: float, end: float, progress: float) -> float:
    """``start`` at progress 0, ``end`` at 1, half a cosine between them (Huang et al. 2024, section 3.5)."""
    return end + (start - end) * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0))) / 2
