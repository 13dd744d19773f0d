"""Health of a run, measured: diversity of what the generator makes, and when to call a run collapsed."""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from torch.nn import functional

from gan_core.families import DiversityPair


@torch.no_grad()
def spread(images: Tensor, classes: Tensor | None = None) -> Tensor:
    """Root mean square distance of each image to the mean image, of its class where ``classes`` int64 (N,) are given.

    0 when all are equal. (N, C, H, W) to a scalar.
    """
    rows = images.float().flatten(1)
    if classes is None:
        return (rows - rows.mean(dim=0)).square().mean().sqrt()
    # Products instead of sums at indices: those are added up in any order on a GPU.
    member = functional.one_hot(classes).float()
    means = member.T @ rows / member.sum(dim=0).clamp_min(1)[:, None]
    return (rows - member @ means).square().mean().sqrt()


@torch.no_grad()
def diversity(pairs: Iterable[DiversityPair]) -> Tensor:
    """The spread of what was made over that of real images, the least of all ``pairs``; a scalar.

    Where a batch holds two images a class and more, of those of one class: one picture a class is a collapse.
    """
    ratios = []
    for pair in pairs:
        of, of_real = pair.fake_labels, pair.real_labels
        if of_real is not None and len(of_real) < 2 * len(of_real.unique()):
            of = of_real = None
        ratios.append(spread(pair.fakes, of) / spread(pair.reals, of_real).clamp_min(1e-8))
    return torch.stack(ratios).amin()


class HealthMonitor:
    """Judges logged metrics: NaN at once, a collapse after some patience."""

    def __init__(self, collapse_diversity: float, patience: int) -> None:
        self._limit, self._patience = collapse_diversity, patience
        self.poor = 0
        """Logged steps one after the other with too little diversity."""

    def diagnose(self, metrics: Mapping[str, float]) -> str | None:
        """What is wrong, in words, or None. ``health/diversity`` is that of :func:`diversity`."""
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
