"""95 % confidence intervals: by a jackknife over tenths of the pictures, or from one value per picture."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gan_core.metrics.features import Features
from gan_core.metrics.frechet import Moments, covariance_factor, frechet_distance

GROUPS = 10
MIN_PICTURES = 20
"""Minimum number of pictures for an interval: two per group."""
_Z = 1.959964


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value with its delete-a-group jackknife (Quenouille 1956): its values after removing each group of pictures."""

    value: float
    jackknife: np.ndarray | None = None
    """float64 (GROUPS,); None if no interval is requested, or if there are too few pictures."""
    lower_bound: float = -math.inf
    """Lower bound of the metric."""
    upper_bound: float = math.inf
    """Upper bound of the metric."""
    pictures: int | None = None
    """For a share of pictures, their number: the interval is at least as wide as Wilson's. At a share of 0 or 1 the jackknife
    has no width."""

    @property
    def leave_out_values(self) -> tuple[float, ...]:
        """The jackknife as plain numbers; empty if there is none, or if one is not finite."""
        if self.jackknife is None or not np.isfinite(self.jackknife).all():
            return ()
        return tuple(float(value) for value in self.jackknife)

    @property
    def interval(self) -> tuple[float, float] | tuple[None, None]:
        """Lower and upper end of the 95 % confidence interval over the sampling of pictures."""
        if self.jackknife is None:
            return None, None
        spread = np.square(self.jackknife - self.jackknife.mean()).sum()
        reach = student_t_quantile(GROUPS - 1) * math.sqrt((GROUPS - 1) / GROUPS * spread)
        low, high = self.value - reach, self.value + reach
        if self.pictures is not None:
            counted = proportion_interval(self.value, self.pictures)
            if counted[0] is not None:
                low, high = min(low, counted[0]), max(high, counted[1])
        return max(self.lower_bound, low), min(self.upper_bound, high)


def mean_estimate(estimates: Sequence[Estimate]) -> Estimate:
    """The mean of estimates over the same groups of pictures."""
    jackknife = [estimate.jackknife for estimate in estimates if estimate.jackknife is not None]
    pictures = [estimate.pictures for estimate in estimates]
    return Estimate(
        value=float(np.mean([estimate.value for estimate in estimates])),
        jackknife=np.mean(jackknife, axis=0) if len(jackknife) == len(estimates) else None,
        lower_bound=min(estimate.lower_bound for estimate in estimates),
        upper_bound=max(estimate.upper_bound for estimate in estimates),
        pictures=None if None in pictures else min(count for count in pictures if count is not None),
    )


def jackknife_groups(count: int) -> np.ndarray:
    """Assign each of ``count`` pictures to a group from 0 to 9, at random and in equal sizes; deterministic.

    Two sets of the same size get the same groups, so that the two pictures of a pair are left out together.
    """
    # RandomState's stream is frozen for all versions of numpy.
    return np.random.RandomState(1).permutation(count) % GROUPS


def fid_estimate(real: Features, fake: Features, *, interval: bool) -> Estimate:
    """The FID, and its values with each group of real and generated pictures removed.

    If a side keeps fewer feature rows than it has pictures, groups of the kept rows are removed, one side at a time, and
    the changes are scaled up to groups of all pictures.
    """
    value = frechet_distance(real.moments, fake.moments)
    jackknife = None
    if interval and min(real.n, fake.n) >= MIN_PICTURES:
        if real.n <= real.moments.features >= fake.n:
            jackknife = _few_by_few(real, fake)
        elif real.complete and fake.complete:
            sides = _Side(real), _Side(fake)
            jackknife = np.array([_distance(*(side.without(group) for side in sides)) for group in range(GROUPS)])
        else:
            jackknife = value + _changes(real, fake, value) + _changes(fake, real, value)
    return Estimate(value=value, jackknife=jackknife, lower_bound=0.0)


def fid_infinity_estimate(real: Features, fake: Features, fid: Estimate | None = None) -> Estimate:
    """The FID extrapolated to infinitely many generated pictures (Chong & Forsyth 2020).

    The bias of the FID is linear in 1/n, the inverse of the number of generated pictures. The line goes through the FID of
    all of them and the mean FID of two disjoint halves, always against all real pictures. Where a side keeps fewer feature
    rows than it has pictures, the kept rows are all its pictures.

    The interval is the delete-a-group jackknife of the whole extrapolation, as for the FID: a tenth of the real and of the
    generated pictures is removed at a time.

    Args:
        real: features of real pictures, with rows.
        fake: features of generated pictures, with rows, more than twice as many as there are features
            (:func:`fid_infinity_too_few`).
        fid: :func:`fid_estimate` of the two with an interval, to save time; None computes it.
    """
    if not (real.complete and fake.complete):
        fid = None
    real, fake = _of_rows(real), _of_rows(fake)
    if fid is None or fid.jackknife is None:
        fid = fid_estimate(real, fake, interval=True)
    sides, halves = (_Side(real), _Side(fake)), (range(GROUPS // 2), range(GROUPS // 2, GROUPS))

    def extrapolated(whole: float, n: int, of_real: _Part, without: int | None) -> float:
        parts = [sides[1].only([group for group in half if group != without]) for half in halves]
        values = [_distance(part, of_real) for part, _ in parts]
        inverse = float(np.mean([1 / count for _, count in parts]))
        slope = (float(np.mean(values)) - whole) / (inverse - 1 / n)
        return whole - slope / n

    sizes = np.bincount(sides[1].groups, minlength=GROUPS)
    jackknife = None
    if fid.jackknife is not None:
        jackknife = np.array(
            [
                extrapolated(float(fid.jackknife[group]), fake.n - int(sizes[group]), sides[0].without(group), group)
                for group in range(GROUPS)
            ]
        )
    return Estimate(value=extrapolated(fid.value, fake.n, _whole(real), None), jackknife=jackknife)


def fid_infinity_too_few(features: int, fake: int) -> str:
    """Why the FID cannot be extrapolated from ``fake`` generated pictures; empty if it can."""
    needed = 2 * features + GROUPS
    if fake >= needed:
        return ""
    return (
        f"the FID is linear in the inverse of the number of pictures only if there are more pictures than features, also in "
        f"half of them: it needs at least {needed} generated pictures for {features} features, and there are {fake}"
    )


def mean_interval(values: np.ndarray) -> tuple[float, float] | tuple[None, None]:
    """95 % interval (Student's t) of the mean of one value per picture, float64 (N,); None, None below 20 pictures."""
    n = len(values)
    if n < MIN_PICTURES:
        return None, None
    reach = student_t_quantile(n - 1) * float(values.std(ddof=1)) / math.sqrt(n)
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
    if min(map(len, values)) < MIN_PICTURES:
        return None, None
    value = float(np.mean([part.mean() for part in values]))
    pulls = np.concatenate([(part - part.mean()) / len(part) for part in values]) / len(values)
    names, which = np.unique(np.concatenate(list(pictures)), return_inverse=True)
    n = len(names)
    spread = np.square(np.bincount(which, weights=pulls)).sum() * n / (n - 1)
    reach = student_t_quantile(n - 1) * math.sqrt(spread)
    return value - reach, value + reach


def proportion_interval(share: float, n: int) -> tuple[float, float] | tuple[None, None]:
    """95 % interval of a share of ``n`` pictures (Wilson 1927); None, None below 20 pictures."""
    if n < MIN_PICTURES:
        return None, None
    shrink = 1 + _Z**2 / n
    centre = (share + _Z**2 / (2 * n)) / shrink
    reach = _Z / shrink * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    return centre - reach, centre + reach


def student_t_quantile(degrees: int) -> float:
    """Student's t at 97.5 %, within 0.001 from 8 degrees of freedom on (Abramowitz & Stegun 1964, 26.7.5)."""
    z, n = _Z, degrees
    return (
        z
        + (z**3 + z) / (4 * n)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)
    )


def _few_by_few(real: Features, fake: Features) -> np.ndarray:
    """FIDs without each group, if neither side has more pictures than features.

    tr (AB)^½ is the nuclear norm of the product of the two centred feature matrices. The product is computed once. For each
    group, rows and columns are removed and the rest is centred again.
    """
    x, y = (_rows(side) for side in (real, fake))
    # Subtracting a common centre keeps more significant digits.
    centre = x.mean(0)
    x, y = x - centre, y - centre
    product, of_x, of_y = x @ y.T, jackknife_groups(len(x)), jackknife_groups(len(y))
    squares = [np.square(rows).sum(1) for rows in (x, y)]
    jackknife = []
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
        jackknife.append(shift + sum(traces) - 2 * _nuclear(part) / math.sqrt((n - 1) * (m - 1)))
    return np.array(jackknife)


def _nuclear(matrix: np.ndarray) -> float:
    """The nuclear norm: the sum of the singular values."""
    small = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    # Eigenvalues of the square take half the time of singular values and are accurate enough for an interval.
    return _sum_of_roots(small @ small.T)


def _sum_of_roots(matrix: np.ndarray) -> float:
    """The sum of the square roots of the eigenvalues of a symmetric matrix; negative ones (by rounding) count as zero."""
    return float(np.sqrt(np.linalg.eigvalsh(matrix).clip(min=0)).sum())


@dataclass(frozen=True, kw_only=True)
class _Part:
    """A Gaussian, given by a factor of its covariance (few pictures) or by the covariance itself."""

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
    """The Fréchet distance."""
    if a.cov is None:
        a, b = b, a
    if a.cov is None:
        assert a.factor is not None
        assert b.factor is not None
        root = _nuclear(a.factor @ b.factor.T)
        return float(np.square(a.mean - b.mean).sum() + a.trace + b.trace - 2 * root)
    factor = b.factor
    if factor is None:
        assert b.cov is not None
        try:
            factor = np.linalg.cholesky(b.cov).T  # takes a third of the time of an eigendecomposition
        except np.linalg.LinAlgError:  # singular: barely more pictures than features
            factor = covariance_factor(b.cov)
    root = _sum_of_roots(factor @ a.cov @ factor.T)
    return float(np.square(a.mean - b.mean).sum() + a.trace + b.trace - 2 * root)


class _Side:
    """One side of a comparison, from which a group of pictures can be removed."""

    def __init__(self, features: Features) -> None:
        assert features.rows is not None
        self.few = features.n <= features.moments.features
        self.n = features.n
        self.rows = _rows(features) if self.few else features.rows
        self.groups = jackknife_groups(len(self.rows))
        if not self.few:
            self.mean, self.scatter = features.moments.mean, features.moments.cov * (features.n - 1)

    def without(self, group: int) -> _Part:
        chosen = self.groups == group
        if self.few:
            rows = self.rows[~chosen]
            mean = rows.mean(0)
            return _Part(mean=mean, factor=(rows - mean) / math.sqrt(len(rows) - 1))
        # The inverse of the pairwise update of Chan, Golub & LeVeque (1983).
        rows = self.rows[chosen].astype(np.float64)
        mean, kept = rows.mean(0), self.n - len(rows)
        rest = (self.n * self.mean - len(rows) * mean) / kept
        rows -= mean
        scatter = self.scatter - rows.T @ rows
        scatter -= np.outer(mean - rest, mean - rest) * (kept * len(rows) / self.n)
        return _Part(mean=rest, cov=scatter / (kept - 1))

    def only(self, groups: Sequence[int]) -> tuple[_Part, int]:
        """The pictures of ``groups`` alone, and their number."""
        rows = np.asarray(self.rows[np.isin(self.groups, groups)], np.float64)
        mean = rows.mean(0)
        factor = (rows - mean) / math.sqrt(len(rows) - 1)
        if len(rows) <= rows.shape[1]:
            return _Part(mean=mean, factor=factor), len(rows)
        return _Part(mean=mean, cov=factor.T @ factor), len(rows)


def _changes(side: Features, other: Features, value: float) -> np.ndarray:
    """Changes of the FID without each group of ``side``, scaled up if not every picture has a row."""
    whole, parts = _whole(other), _Side(side)
    assert side.rows is not None
    # Removing k/10 of n pictures changes a mean by sqrt(k / ((10 n - k) n)) standard deviations, removing n/10 of them by
    # 1 / sqrt(9 n).
    n, k = side.n, len(side.rows)
    enlarged = math.sqrt((GROUPS * n - k) / ((GROUPS - 1) * k))
    return enlarged * np.array([_distance(parts.without(group), whole) - value for group in range(GROUPS)])


def _whole(features: Features) -> _Part:
    factor = features.moments.factor()
    return _Part(mean=features.moments.mean, factor=factor, cov=features.moments.cov if factor is None else None)


def _of_rows(features: Features) -> Features:
    """The kept rows as features of their own."""
    if features.complete:
        return features
    moments = Moments(features.moments.features)
    moments.update(features.kept)
    return Features(moments, features.rows)


def _rows(features: Features) -> np.ndarray:
    assert features.rows is not None
    return np.asarray(features.rows, np.float64)
