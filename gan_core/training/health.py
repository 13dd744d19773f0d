"""Health of a run, measured: diversity of what the generator makes, and when to call a run collapsed."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor


@torch.no_grad()
def spread(images: Tensor) -> Tensor:
    """Root mean square distance of each image to the mean image: 0 when all are equal. (N, C, H, W) to a scalar."""
    images = images.float()
    return (images - images.mean(dim=0, keepdim=True)).square().mean().sqrt()


class Watch:
    """Judges logged metrics: NaN at once, a collapse after some patience."""

    def __init__(self, collapse_diversity: float, patience: int) -> None:
        self._limit, self._patience = collapse_diversity, patience
        self.poor = 0
        """Logged steps one after the other with too little diversity."""

    def diagnose(self, metrics: Mapping[str, float]) -> str | None:
        """What is wrong, in words, or None. ``health/diversity`` is the fakes' spread over the real images' spread."""
        for name, value in metrics.items():
            if not math.isfinite(value):
                return f"{name} is {value}"
        diversity = metrics.get("health/diversity", math.inf)
        self.poor = self.poor + 1 if diversity < self._limit else 0
        if self.poor >= self._patience:
            return (
                f"the generator has collapsed: its images differ by {diversity:.3f} of what real ones do, under "
                f"{self._limit} for {self.poor} logged steps"
            )
        return None
