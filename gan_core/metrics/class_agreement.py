"""Do generated pictures show their class? Accuracies of a classifier of the features, fitted on real or on generated pictures.

- Class agreement: a classifier fitted on real pictures is tested on generated ones.
- Class training: a classifier fitted on generated pictures is tested on real ones (the classification accuracy score of
  Ravuri & Vinyals 2019, here on features).

The classifier is a linear discriminant with a shrunk covariance (Ledoit & Wolf 2004): in closed form, so that it needs no
learning rate, gives the same result in every run, and can be fitted again without each tenth of the pictures.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gan_core.errors import SettingsError
from gan_core.metrics.intervals import GROUPS, Estimate, mean_of_means_interval, proportion_interval

MAX_PICTURES = 10_000
"""Maximum number of pictures per side: a fixed random subset of larger sets."""
MIN_PICTURES = 20
"""Minimum number of pictures on each side: two per group."""
VERSION = 1
"""Part of every protocol: increase it when a change here changes accuracies."""
_BLOCK = 2048
"""Rows of a block: 32 MB of 2048 features."""


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Features of pictures with their classes."""

    rows: np.ndarray
    """float (N, features)."""
    labels: np.ndarray
    """Classes, int64 (N,)."""
    groups: np.ndarray
    """Jackknife group of each picture, int64 (N,). No picture is classified by a classifier that was fitted on its group."""
    pictures: np.ndarray
    """Identifiers, (N,): translations of one picture share that of their source."""


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """A share of pictures whose class was recognised."""

    value: float
    interval: tuple[float, float] | tuple[None, None]
    """95 % confidence interval over the sampling of pictures."""
    chance: float
    """The accuracy of naming the most frequent class of these pictures every time."""
    jackknife: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ClassAccuracies:
    """Result of :func:`class_accuracies`."""

    agreement: Accuracy
    """On generated pictures, of classifiers fitted on real ones."""
    of_real: Accuracy
    """The same classifiers on real pictures that they were not fitted on: what a perfect generator gets."""
    training: Accuracy
    """On real pictures, of a classifier fitted on generated ones."""


def too_few(real: int, fake: int) -> str:
    """Why the accuracies cannot be measured with these numbers of pictures; empty if they can."""
    if min(real, fake) >= MIN_PICTURES:
        return ""
    return (
        f"it needs at least {MIN_PICTURES} pictures on each side, and there are {real} real and {fake} generated ones"
    )


def class_accuracies(
    real: Labelled, fake: Labelled, *, classes: int, device: torch.device | None = None
) -> ClassAccuracies:
    """Accuracies of classifiers of the features, with intervals.

    Ten classifiers are fitted on real pictures, each without one group. They are tested on the real and on the generated
    pictures of that group. The interval is that of a share of pictures (Student's t, clustered by picture, and at least as
    wide as Wilson's). The interval of the training accuracy is a delete-a-group jackknife over both sides, at least as wide
    as Wilson's.

    Args:
        real: real pictures.
        fake: generated pictures.
        classes: number of classes.
        device: a GPU, or None for the CPU; other devices mean the CPU.

    Raises:
        SettingsError: a side has fewer than 20 pictures, or the numbers of features differ.
    """
    wrong = too_few(len(real.rows), len(fake.rows))
    if wrong:
        raise SettingsError(f"Class agreement: {wrong}.")
    if real.rows.shape[1] != fake.rows.shape[1]:
        raise SettingsError(
            f"A set of {real.rows.shape[1]} features cannot be compared with one of {fake.rows.shape[1]}. Use the same "
            "number for both."
        )
    where = device if device is not None and device.type == "cuda" else torch.device("cpu")
    recognised = [np.zeros(len(side.rows), bool) for side in (real, fake)]
    for group, classifier in _fits_without_groups(real, classes, where):
        for side, right in zip((real, fake), recognised, strict=True):
            chosen = side.groups == group
            right[chosen] = classifier.predict(side.rows[chosen]) == side.labels[chosen]
    trained, whole = [], np.empty(0)
    for group, classifier in _fits_without_groups(fake, classes, where, all_groups=True):
        kept = real.groups != group
        right = classifier.predict(real.rows[kept]) == real.labels[kept]
        if group is None:
            whole = right
        else:
            trained.append(float(right.mean()))
    estimate = Estimate(
        value=float(whole.mean()),
        jackknife=np.array(trained),
        lower_bound=0.0,
        upper_bound=1.0,
        pictures=len(real.rows),
    )
    return ClassAccuracies(
        agreement=_share(recognised[1], fake),
        of_real=_share(recognised[0], real),
        training=Accuracy(
            value=estimate.value,
            interval=estimate.interval,
            chance=chance(real.labels),
            jackknife=estimate.leave_out_values,
        ),
    )


def chance(labels: np.ndarray) -> float:
    """The share of the most frequent class."""
    return float(np.unique(labels, return_counts=True)[1].max() / len(labels))


def _share(right: np.ndarray, of: Labelled) -> Accuracy:
    value = float(right.mean())
    varies = mean_of_means_interval([right.astype(np.float64)], [of.pictures])
    counted = proportion_interval(value, len(np.unique(of.pictures)))
    interval: tuple[float, float] | tuple[None, None] = (None, None)
    if varies[0] is not None and counted[0] is not None:
        interval = max(min(varies[0], counted[0]), 0.0), min(max(varies[1], counted[1]), 1.0)
    return Accuracy(value=value, interval=interval, chance=chance(of.labels))


@dataclass(frozen=True)
class Discriminant:
    """A fitted linear discriminant."""

    weights: Tensor
    """float64 (features, classes)."""
    bias: Tensor
    """float64 (classes,); -inf for a class without pictures."""
    shrinkage: float
    """Weight of the scaled identity in the covariance, from 0 to 1."""

    def scores(self, rows: Tensor) -> Tensor:
        """Logarithm of the posterior up to a constant, float64 (N, classes), of rows (N, features)."""
        return rows @ self.weights + self.bias

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """The most likely class of each row, int64 (N,)."""
        found = np.empty(len(rows), np.int64)
        for start in range(0, len(rows), _BLOCK):
            part = torch.from_numpy(np.asarray(rows[start : start + _BLOCK], np.float64)).to(self.weights.device)
            found[start : start + _BLOCK] = self.scores(part).argmax(1).cpu().numpy()
        return found


def fit(of: Labelled, classes: int) -> Discriminant:
    """Fit a linear discriminant on all pictures of ``of``."""
    return _Sums(of, classes, torch.device("cpu")).fit()


def _fits_without_groups(
    of: Labelled, classes: int, device: torch.device, *, all_groups: bool = False
) -> Iterator[tuple[int | None, Discriminant]]:
    """Each group with the classifier of all pictures outside it; with ``all_groups``, last None with that of all pictures."""
    sums = _Sums(of, classes, device)
    for group in [*range(GROUPS), *([None] if all_groups else [])]:
        yield group, sums.fit(group)


class _Sums:
    """The sums that a classifier of one side is computed from, by group: 335 MB for 2048 features."""

    def __init__(self, of: Labelled, classes: int, device: torch.device) -> None:
        rows = torch.from_numpy(np.asarray(of.rows, np.float64)).to(device)
        self._labels, groups = (
            torch.from_numpy(np.asarray(values, np.int64)).to(device) for values in (of.labels, of.groups)
        )
        self._groups = groups
        self._centre = rows.mean(0)
        rows = rows - self._centre  # shorter rows have more exact products
        parts = [rows[groups == group] for group in range(GROUPS)]
        self._products = torch.stack([part.T @ part for part in parts])
        self._total = self._products.sum(0)
        del parts
        cells, count = self._labels * GROUPS + groups, classes * GROUPS
        self._sums = rows.new_zeros(count, rows.shape[1]).index_add_(0, cells, rows).unflatten(0, (-1, GROUPS))
        self._counts = torch.bincount(cells, minlength=count).double().unflatten(0, (-1, GROUPS))
        self._squares = rows.square().sum(1)
        # Products of each picture with the sums of its own class by group, for distances to means without a group.
        self._to_sums = rows.new_empty(len(rows), GROUPS)
        for label in range(classes):
            own = self._labels == label
            self._to_sums[own] = rows[own] @ self._sums[label].T

    def fit(self, without: int | None = None) -> Discriminant:
        """The classifier of all pictures, or of those outside a group."""
        groups = [group for group in range(GROUPS) if group != without]
        kept = self._groups != (GROUPS if without is None else without)
        n = int(kept.sum())
        sums, counts = self._sums[:, groups].sum(1), self._counts[:, groups].sum(1)
        means = sums / counts.clamp(min=1)[:, None]
        # Within classes: of the deviations of the pictures from the mean of their class.
        products = self._total if without is None else self._total - self._products[without]
        covariance = (products - sums.T @ means) / n
        to_means = self._to_sums[:, groups].sum(1) / counts.clamp(min=1)[self._labels]
        deviations = (self._squares - 2 * to_means + means.square().sum(1)[self._labels])[kept].clamp(min=0)
        shrinkage = _ledoit_wolf(covariance, float(deviations.square().sum()), n)
        scale = float(covariance.trace()) / len(covariance)
        covariance.mul_(1 - shrinkage).diagonal().add_(shrinkage * scale if scale > 0 else 1.0)
        weights = _solve(covariance, means.T)
        bias = (counts / n).log() - 0.5 * (means.T * weights).sum(0) - self._centre @ weights
        return Discriminant(weights, bias, shrinkage)


def _ledoit_wolf(covariance: Tensor, fourth: float, n: int) -> float:
    """The weight of the identity that brings a covariance closest to the true one on average (Ledoit & Wolf 2004).

    Args:
        covariance: of ``n`` deviations, float64 (features, features).
        fourth: sum of the squared squared lengths of the deviations.
        n: number of deviations.
    """
    features = len(covariance)
    square, trace = float(covariance.square().sum()), float(covariance.trace())
    beta = (fourth / n - square) / n
    delta = square - trace**2 / features
    return min(beta, delta) / delta if beta > 0 < delta else 0.0


def _solve(covariance: Tensor, right: Tensor) -> Tensor:
    """``covariance`` inverse times ``right``; without the directions in which nothing varies."""
    factor, failed = torch.linalg.cholesky_ex(covariance)
    if not failed:
        return torch.cholesky_solve(right, factor)
    values, vectors = torch.linalg.eigh(covariance)
    varies = values > values[-1] * 1e-12
    return (vectors[:, varies] / values[varies]) @ (vectors[:, varies].T @ right)
