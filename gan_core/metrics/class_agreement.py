"""Do generated pictures show their class? Accuracies of a classifier of the features, fitted on real or on generated pictures.

- Class agreement: a classifier fitted on real pictures is tested on generated ones.
- Class training: a classifier fitted on generated pictures is tested on real ones (the classification accuracy score of
  Ravuri & Vinyals 2019, here on features).

The classifier is a linear discriminant with a shrunk covariance (Ledoit & Wolf 2004): in closed form, so that it needs no
learning rate, gives the same result in every run, and can be fitted again without each tenth of the pictures.
"""

import itertools
from collections.abc import Sequence
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
    real: Labelled,
    fake: Labelled,
    *,
    classes: int,
    translated: bool = False,
    device: torch.device | None = None,
) -> ClassAccuracies:
    """Accuracies of classifiers of the features, with intervals.

    Ten classifiers are fitted on real pictures, each without one group. They are tested on the real and on the generated
    pictures of that group. The interval is that of a share of pictures (Student's t, clustered by picture, and at least as
    wide as Wilson's). One classifier is fitted on all generated pictures and tested on all real ones; on translations, ten,
    as above. The interval of the training accuracy is a delete-a-group jackknife over both sides, at least as wide as
    Wilson's.

    Args:
        real: real pictures.
        fake: generated pictures.
        classes: number of classes.
        translated: whether the generated pictures are translations, each in the group of its source. A real picture would be
            recognised as its own translation, whose class is another one.
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
    of_real = _Sums(real, classes, where)
    for group in range(GROUPS):
        classifier = of_real.fit(group)
        for side, right in zip((real, fake), recognised, strict=True):
            chosen = side.groups == group
            right[chosen] = classifier.predict(side.rows[chosen]) == side.labels[chosen]
    del of_real
    training = _training_of_translations if translated else _training
    estimate = training(real, fake, classes, where)
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


def _training(real: Labelled, fake: Labelled, classes: int, device: torch.device) -> Estimate:
    """The share of real pictures that a classifier recognises that was fitted on generated ones."""

    def share(classifier: Discriminant, kept: np.ndarray) -> float:
        return float((classifier.predict(real.rows[kept]) == real.labels[kept]).mean())

    sums = _Sums(fake, classes, device)
    without = [share(sums.fit(group), real.groups != group) for group in range(GROUPS)]
    return _share_estimate(share(sums.fit(), np.ones(len(real.rows), bool)), without, real)


def _training_of_translations(real: Labelled, fake: Labelled, classes: int, device: torch.device) -> Estimate:
    """As :func:`_training`, but each group of real pictures by a classifier that was fitted without its translations."""
    sums = _Sums(fake, classes, device)
    sizes = np.bincount(real.groups, minlength=GROUPS)
    # Number of pictures of the second group that are recognised without the translations of either group.
    right = np.zeros((GROUPS, GROUPS))
    for one, other in itertools.combinations_with_replacement(range(GROUPS), 2):
        classifier = sums.fit(one, other)
        for removed, tested in {(one, other), (other, one)}:
            chosen = real.groups == tested
            right[removed, tested] = (classifier.predict(real.rows[chosen]) == real.labels[chosen]).sum()
    without = (right.sum(1) - right.diagonal()) / (len(real.rows) - sizes)
    return _share_estimate(float(right.trace() / len(real.rows)), without, real)


def _share_estimate(value: float, without: Sequence[float] | np.ndarray, of: Labelled) -> Estimate:
    return Estimate(value=value, jackknife=np.array(without), lower_bound=0.0, upper_bound=1.0, pictures=len(of.rows))


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

    def fit(self, *without: int) -> Discriminant:
        """The classifier of all pictures outside the groups ``without``."""
        groups = [group for group in range(GROUPS) if group not in without]
        kept = torch.isin(self._groups, torch.tensor(groups, device=self._groups.device))
        n = int(kept.sum())
        sums, counts = self._sums[:, groups].sum(1), self._counts[:, groups].sum(1)
        means = sums / counts.clamp(min=1)[:, None]
        # Within classes: of the deviations of the pictures from the mean of their class.
        products = self._total - self._products[sorted(set(without))].sum(0) if without else self._total
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
