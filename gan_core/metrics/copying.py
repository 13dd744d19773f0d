"""Does a generator copy its training pictures? Distances to the nearest training picture, a score, and the closest pairs."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gan_core.errors import SettingsError
from gan_core.metrics.features import Features
from gan_core.metrics.intervals import GROUPS, Estimate, jackknife_groups
from gan_core.metrics.neighbours import Nearest, nearest
from gan_core.metrics.sources import random_subset

QUANTILE = 0.05
"""Share of the reference pictures that count as near to a training picture."""
MAX_PAIRS = 32
"""Number of closest pairs to show."""
MIN_PICTURES = 20
"""Minimum number of pictures on each side: below it, 5 % is less than one picture."""
HELD_OUT, EACH_OTHER = "held-out pictures", "training pictures, each against the others"
"""What the distances of generated pictures are compared with."""
_QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True, kw_only=True)
class Copying:
    """How near generated pictures are to training pictures, beside other real pictures."""

    estimate: Estimate
    """Share of the generated pictures that are as near to a training picture as the nearest 5 % of the reference. The interval
    is a delete-a-group jackknife over generated, training and reference pictures, at least as wide as Wilson's."""
    expected: float
    """The same share of the reference pictures: what a generator that copies nothing gets."""
    p_value: float
    """Fisher's exact test, one-sided: how likely so large a share is if generated pictures are no nearer than the reference."""
    reference: str
    """:data:`HELD_OUT` or :data:`EACH_OTHER`."""
    reference_count: int
    training_count: int
    """Number of training pictures that were compared."""
    training_total: int
    """Number of training pictures that there are; the copy of one that was not compared is not found."""
    threshold: float
    """The distance below which pictures count as near."""
    fake_quantiles: dict[str, float]
    """Quantiles of the distances of generated pictures."""
    reference_quantiles: dict[str, float]
    """Quantiles of the distances of the reference pictures."""


@dataclass(frozen=True)
class ClosestPairs:
    """Generated pictures with the real picture that is nearest in feature space, the closest first."""

    fakes: Tensor
    """uint8 (n, C, H, W)."""
    reals: Tensor
    """uint8 (n, C, H, W)."""
    distances: np.ndarray
    """Distances of the features, float64 (n,)."""


def copying(
    fakes: np.ndarray, reference: np.ndarray, *, held_out: bool, training_count: int, training_total: int
) -> Copying:
    """The memorisation score from distances to the nearest training picture.

    Args:
        fakes: distances of generated pictures, float64 (1 + groups, n): row 0 to all training pictures, row 1 + g to those
            outside jackknife group g. One row without an interval.
        reference: distances of real pictures that the generator should be no nearer than, likewise (1 + groups, m).
        held_out: whether the reference pictures are held out; else each training picture is compared with the others.
        training_count: number of training pictures that were compared.
        training_total: number of training pictures.

    Raises:
        SettingsError: a side has fewer than 20 pictures.
    """
    n, m = fakes.shape[1], reference.shape[1]
    if min(n, m) < MIN_PICTURES:
        raise SettingsError(f"Copying: it needs {MIN_PICTURES} pictures on each side, and there are {n} and {m}.")

    def share(of_fake: np.ndarray, of_reference: np.ndarray) -> float:
        return float((of_fake <= _threshold(of_reference)).mean())

    jackknife = None
    if len(fakes) > 1 and len(reference) > 1:
        of_fake, of_reference = jackknife_groups(n), jackknife_groups(m)
        jackknife = np.array(
            [
                share(fakes[1 + group, of_fake != group], reference[1 + group, of_reference != group])
                for group in range(GROUPS)
            ]
        )
    threshold = _threshold(reference[0])
    near = int((fakes[0] <= threshold).sum()), int((reference[0] <= threshold).sum())
    return Copying(
        estimate=Estimate(value=near[0] / n, jackknife=jackknife, lower_bound=0.0, upper_bound=1.0, pictures=n),
        expected=near[1] / m,
        p_value=fisher_p_value(near[0], n, near[1], m),
        reference=HELD_OUT if held_out else EACH_OTHER,
        reference_count=m,
        training_count=training_count,
        training_total=training_total,
        threshold=threshold,
        fake_quantiles=_quantiles(fakes[0]),
        reference_quantiles=_quantiles(reference[0]),
    )


def closest_pairs(
    real: Features,
    fake: Features,
    near: Nearest | None,
    *,
    reals: Callable[[np.ndarray], Tensor],
    fakes: Callable[[np.ndarray], Tensor],
) -> ClosestPairs:
    """The closest pairs of a generated and a real picture.

    Args:
        real: features of real pictures, with rows.
        fake: features of generated pictures, with rows.
        near: their :func:`nearest` pictures, to save time; None computes them.
        reals: function from indices of real pictures, int64 (n,), to the pictures, uint8 (n, C, H, W).
        fakes: likewise for generated pictures.
    """
    near = near or nearest(real, fake, interval=False)
    order = np.argsort(near.distances[0], kind="stable")[:MAX_PAIRS]
    # Rows of features to pictures: more than MAX_ROWS pictures keep the rows of a subset.
    of_fake = random_subset(fake.n, len(fake.kept))[near.fake_rows[order]]
    of_real = random_subset(real.n, len(real.kept))[near.nearest[order]]
    return ClosestPairs(fakes(of_fake).cpu(), reals(of_real).cpu(), near.distances[0, order])


def pairs_sheet(pairs: ClosestPairs) -> Tensor:
    """Pictures of a sheet with an even number of columns: each generated picture, then the real one beside it."""
    return torch.stack([pairs.fakes, pairs.reals], dim=1).flatten(0, 1)


def fisher_p_value(near: int, n: int, near_other: int, m: int) -> float:
    """Fisher's exact test, one-sided: the probability of ``near`` or more of ``n`` if both groups have the same share."""
    total = near + near_other

    def log_choose(of: int, chosen: int) -> float:
        return math.lgamma(of + 1) - math.lgamma(chosen + 1) - math.lgamma(of - chosen + 1)

    terms = [
        log_choose(n, k) + log_choose(m, total - k) - log_choose(n + m, total)
        for k in range(max(near, total - m), min(n, total) + 1)
    ]
    return min(1.0, math.fsum(map(math.exp, terms)))


def _threshold(distances: np.ndarray) -> float:
    # An observed distance, so that equal distances fall on the same side.
    return float(np.quantile(distances, QUANTILE, method="inverted_cdf"))


def _quantiles(distances: np.ndarray) -> dict[str, float]:
    return {f"{q:g}": float(np.quantile(distances, q)) for q in _QUANTILES}
