"""Health of a run: the diversity of generated images, and the detection of NaN and mode collapse."""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from torch.nn import functional

from gan_core.families import DiversityPair
from gan_core.nn import collectives


@torch.no_grad()
def spread(images: Tensor, classes: Tensor | None = None) -> Tensor:
    """Root mean square distance of images (N, C, H, W) to their mean image, a scalar; 0 if all images are equal.

    The images are those of all workers, which all call this with as many: each may have only one. With ``classes``,
    int64 (N,), they are those of this worker, and distances are to the mean image of the same class.
    """
    rows = images.float().flatten(1)
    if classes is None:
        mean = collectives.mean_over_workers(rows.mean(dim=0))
        return collectives.mean_over_workers((rows - mean).square().mean()).sqrt()
    # Matrix products instead of index_add, whose order of summation on a GPU is not fixed.
    member = functional.one_hot(classes).float()
    means = member.T @ rows / member.sum(dim=0).clamp_min(1)[:, None]
    return (rows - member @ means).square().mean().sqrt()


@torch.no_grad()
def diversity(pairs: Iterable[DiversityPair]) -> Tensor:
    """The spread of generated images divided by that of real images, the minimum over ``pairs``; a scalar.

    If a worker has at least two images per class, spread is measured within classes, so that a generator with one picture
    per class counts as collapsed.
    """
    ratios = []
    for pair in pairs:
        # Also if it is not used: all workers take part, and another one may have too few images of a class.
        ratio = spread(pair.fakes) / spread(pair.reals).clamp_min(1e-8)
        of, of_real = pair.fake_labels, pair.real_labels
        if of is not None and of_real is not None and len(of_real) >= 2 * len(of_real.unique()):
            ratio = spread(pair.fakes, of) / spread(pair.reals, of_real).clamp_min(1e-8)
        ratios.append(ratio)
    return torch.stack(ratios).amin()


class HealthMonitor:
    """Detects NaN in logged metrics at once, and mode collapse after ``patience`` logged steps."""

    def __init__(self, collapse_diversity: float, patience: int) -> None:
        self._limit, self._patience = collapse_diversity, patience
        self.low_diversity_steps = 0
        """Number of consecutive logged steps with too little diversity."""

    def diagnose(self, metrics: Mapping[str, float]) -> str | None:
        """Describe what is wrong, or return None. ``metrics["health/diversity"]`` comes from :func:`diversity`."""
        for name, value in metrics.items():
            if not math.isfinite(value):
                return f"{name} is {value}"
        diversity = metrics.get("health/diversity", math.inf)
        self.low_diversity_steps = self.low_diversity_steps + 1 if diversity < self._limit else 0
        if self.low_diversity_steps >= self._patience:
            return (
                f"the generator has collapsed: the diversity of its images is {diversity:.3f} of that of real ones, below "
                f"{self._limit} for {self.low_diversity_steps} logged steps"
            )
        return None
