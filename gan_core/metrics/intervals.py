"""95 % confidence intervals: by a jackknife over tenths of the pictures, or from one value per picture."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gan_core.metrics.features import Features
from gan_core.metrics.frechet import covariance_factor, frechet_distance

GROUPS = 10
LEAST = 20
"""Minimum number of pictures for an interval: two per group."""
_Z = 1.959964


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value, and its values with each group of pictures removed: the delete-a-group jackknife (Quenouille 1956)."""

    value: float
    deleted: np.ndarray | None = None
    """float64 (GROUPS,); None if no interval is requested, or if there are too few pictures."""
    least: float = -math.inf
    """Lower bound of the metric."""

    @property
    def interval(self) -> tuple[float, float] | tuple[None, None]:
        """Lower and upper end of the 95 % confidence interval over the sampling of pictures."""
        if self.deleted is None:
            return None, None
        spread = np.square(self.deleted - self.deleted.mean()).sum()
        reach = quantile(GROUPS - 1) * math.sqrt((GROUPS - 1) / GROUPS * spread)
        return max(self.least, self.value - reach), self.value + reach


def mean_estimate(estimates: Sequence[Estimate]) -> Estimate:
    """The mean of estimates over the same groups of pictures."""
    deleted = [estimate.deleted for estimate in estimates if estimate.deleted is not None]
    return Estimate(
        value=float(np.mean([estimate.value for estimate in estimates])),
        deleted=np.mean(deleted, axis=0) if len(deleted) == len(estimates) else None,
        least=min(estimate.least for estimate in estimates),
    )


def groups(count: int) -> np.ndarray:
    """The group, 0 to 9, of each of ``count`` pictures: always the same, drawn at random (files come sorted), equal in size.

    Two sets of as many pictures get the same groups: pictures that belong together are left out together.
    """
    # RandomState's stream is frozen for all versions of numpy.
    return np.random.RandomState(1).permutation(count) % GROUPS


def fid_estimate(real: Features, fake: Features, *, interval: bool) -> Estimate:
    """The FID, and its values with each group of real and generated pictures removed.

    If a side keeps fewer feature rows than it has pictures, groups of the kept rows are removed, one side at a time, and
    the changes are scaled up to groups of all pictures.
    """
    value = frechet_distance(real.moments, fake.moments)
    deleted = None
    if interval and min(real.n, fake.n) >= LEAST:
        if real.n <= real.moments.features >= fake.n:
            deleted = _few_by_few(real, fake)
        elif real.complete and fake.complete:
            sides = _Side(real), _Side(fake)
            deleted = np.array([_distance(*(side.without(group) for side in sides)) for group in range(GROUPS)])
        else:
            deleted = value + _changes(real, fake, value) + _changes(fake, real, value)
    return Estimate(value=value, deleted=deleted, least=0.0)


def mean_interval(values: np.ndarray) -> tuple[float, float] | tuple[None, None]:
    """95 % interval (Student's t) of the mean of one value per picture, float64 (N,); None, None below 20 pictures."""
    n = len(values)
    if n < LEAST:
        return None, None
    reach = quantile(n - 1) * float(values.std(ddof=1)) / math.sqrt(n)
    return float(values.mean()) - reach, float(values.mean()) + reach


def mean_of_means_interval(
    values: Sequence[np.ndarray], pictures: Sequence[np.ndarray]
) -> tuple[float, float] | tuple[None, None]:
    """95 % interval of the mean of several means of one value per picture; None, None if one has fewer than 20 values.

    Values of the same picture in several means form a cluster (cluster-robust variance, Liang & Zeger 1986).

    Args:
        values: float64 (N,) each.
        pictures: (N,) each: identifiers of the pictures.
    """
    if min(map(len, values)) < LEAST:
        return None, None
    value = float(np.mean([part.mean() for part in values]))
    pulls = np.concatenate([(part - part.mean()) / len(part) for part in values]) / len(values)
    names, which = np.unique(np.concatenate(list(pictures)), return_inverse=True)
    n = len(names)
    spread = np.square(np.bincount(which, weights=pulls)).sum() * n / (n - 1)
    reach = quantile(n - 1) * math.sqrt(spread)
    return value - reach, value + reach


def proportion_interval(share: float, n: int) -> tuple[float, float] | tuple[None, None]:
    """95 % interval of a share of ``n`` pictures (Wilson 1927); None, None below 20 pictures."""
    if n < LEAST:
        return None, None
    shrink = 1 + _Z**2 / n
    centre = (share + _Z**2 / (2 * n)) / shrink
    reach = _Z / shrink * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    return centre - reach, centre + reach


def quantile(degrees: int) -> float:
    """Student's t at 97.5 %, within 0.001 from 8 degrees of freedom on (Abramowitz & Stegun 1964, 26.7.5)."""
    z, n = _Z, degrees
    return (
        z
        + (z**3 + z) / (4 * n)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)
    )


def _few_by_few(real: Features, fake: Features) -> np.ndarray:
    """FIDs without each group, where neither side has more pictures than features.

    tr (AB)^½ is the nuclear norm of the product of the two centred feature matrices. Their product is made once; leaving
    pictures out of it drops rows and columns, and centring it anew takes their means out.
    """
    x, y = (_rows(side) for side in (real, fake))
    # What both have in common only costs digits.
    centre = x.mean(0)
    x, y = x - centre, y - centre
    product, of_x, of_y = x @ y.T, groups(len(x)), groups(len(y))
    squares = [np.square(rows).sum(1) for rows in (x, y)]
    deleted = []
    for group in range(GROUPS):
        kept = of_x != group, of_y != group
        n, m = (int(k.sum()) for k in kept)
        means = x[kept[0]].mean(0), y[kept[1]].mean(0)
        traces = [
            (square[k].sum() - k.sum() * np.square(mean).sum()) / (k.sum() - 1)
            for square, k, mean in zip(squares, kept, means, strict=True)
        ]
        part = product[np.ix_(*kept)]
        part = part - part.mean(0) - part.mean(1, keepdims=True) + part.mean()
        shift = np.square(means[0] - means[1]).sum()
        deleted.append(shift + sum(traces) - 2 * _nuclear(part) / math.sqrt((n - 1) * (m - 1)))
    return np.array(deleted)


def _nuclear(matrix: np.ndarray) -> float:
    """The sum of its singular values."""
    small = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    # By eigenvalues of its square: half the time of singular values, and more digits than an interval needs.
    return _sum_of_roots(small @ small.T)


def _sum_of_roots(matrix: np.ndarray) -> float:
    """The sum of the square roots of a symmetric matrix's eigenvalues; rounding may leave a zero one a little below."""
    return float(np.sqrt(np.linalg.eigvalsh(matrix).clip(min=0)).sum())


@dataclass(frozen=True, kw_only=True)
class _Part:
    """A Gaussian: by its factor where there are few pictures, by its covariance otherwise."""

    mean: np.ndarray
    factor: np.ndarray | None = None
    cov: np.ndarray | None = None

    @property
    def trace(self) -> float:
        if self.cov is not None:
            return float(np.trace(self.cov))
        assert self.factor is not None
        return float(np.square(self.factor).sum())


def _distance(a: _Part, b: _Part) -> float:
    """The Fréchet distance, where one side at least has a covariance."""
    if a.cov is None:
        a, b = b, a
    factor = b.factor
    if factor is None:
        assert b.cov is not None
        try:
            factor = np.linalg.cholesky(b.cov).T  # a third of the time of eigenvectors
        except np.linalg.LinAlgError:  # hardly more pictures than features
            factor = covariance_factor(b.cov)
    root = _sum_of_roots(factor @ a.cov @ factor.T)
    return float(np.square(a.mean - b.mean).sum() + a.trace + b.trace - 2 * root)


class _Side:
    """Pictures of which a group can be left out."""

    def __init__(self, features: Features) -> None:
        assert features.rows is not None
        self.few = features.n <= features.moments.features
        self.n = features.n
        self.rows = _rows(features) if self.few else features.rows
        self.groups = groups(len(self.rows))
        if not self.few:
            self.mean, self.scatter = features.moments.mean, features.moments.cov * (features.n - 1)

    def without(self, group: int) -> _Part:
        chosen = self.groups == group
        if self.few:
            rows = self.rows[~chosen]
            mean = rows.mean(0)
            return _Part(mean=mean, factor=(rows - mean) / math.sqrt(len(rows) - 1))
        # The pairwise update of Chan, Golub & LeVeque (1983) the other way round.
        rows = self.rows[chosen].astype(np.float64)
        mean, kept = rows.mean(0), self.n - len(rows)
        rest = (self.n * self.mean - len(rows) * mean) / kept
        rows -= mean
        scatter = self.scatter - rows.T @ rows
        scatter -= np.outer(mean - rest, mean - rest) * (kept * len(rows) / self.n)
        return _Part(mean=rest, cov=scatter / (kept - 1))


def _changes(side: Features, other: Features, value: float) -> np.ndarray:
    """By how much the FID changes without each group of ``side``, enlarged where not every picture has its row."""
    whole, parts = _whole(other), _Side(side)
    assert side.rows is not None
    # Removing k/10 of n pictures changes a mean by sqrt(k / ((10 n - k) n)) of a deviation, a tenth of all by 1 / sqrt(9 n).
    n, k = side.n, len(side.rows)
    enlarged = math.sqrt((GROUPS * n - k) / ((GROUPS - 1) * k))
    return enlarged * np.array([_distance(parts.without(group), whole) - value for group in range(GROUPS)])


def _whole(features: Features) -> _Part:
    factor = features.moments.factor()
    return _Part(mean=features.moments.mean, factor=factor, cov=features.moments.cov if factor is None else None)


def _rows(features: Features) -> np.ndarray:
    assert features.rows is not None
    return np.asarray(features.rows, np.float64)
