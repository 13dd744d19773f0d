"""The kernel Inception distance (Bińkowski et al. 2018, section 4). It is unbiased: its expectation is independent of N."""

import numpy as np
import torch
from torch import Tensor

from gan_core.errors import SettingsError
from gan_core.metrics.features import Features
from gan_core.metrics.intervals import GROUPS, MIN_PICTURES, Estimate, jackknife_groups
from gan_core.metrics.sources import random_subset

MAX_PICTURES = 10_000
"""Maximum number of pictures per side: a fixed random subset of larger sets. Time grows quadratically."""


def kid_estimate(real: Features, fake: Features, *, interval: bool, device: torch.device | None = None) -> Estimate:
    """The unbiased squared maximum mean discrepancy of features by the kernel (x·y / features + 1)³, in float64.

    The value and its jackknife are computed from sums of the kernel over pairs of groups of pictures.

    Args:
        real: features of real pictures, with rows.
        fake: features of generated pictures, with rows.
        interval: whether to compute the jackknife.
        device: a GPU, or None for the CPU; other devices mean the CPU.

    Returns:
        The estimate. As it is unbiased, the value can be slightly negative.

    Raises:
        SettingsError: rows are missing, or the numbers of features differ.
    """
    x, y = _rows_used(real, device), _rows_used(fake, device)
    if x.shape[1] != y.shape[1]:
        raise SettingsError(
            f"A set of {x.shape[1]} features cannot be compared with one of {y.shape[1]}. Use the same number for both."
        )
    grouped = interval and min(len(x), len(y)) >= MIN_PICTURES
    parts_x, parts_y = (_parts(rows) if grouped else [rows] for rows in (x, y))
    within_x, within_y, between = _within(parts_x), _within(parts_y), _sums(parts_x, parts_y)
    sizes_x, sizes_y = (np.array([len(part) for part in parts]) for parts in (parts_x, parts_y))

    def without(group: int | None) -> float:
        kept = [index for index in range(len(parts_x)) if index != group]
        n, m, chosen = int(sizes_x[kept].sum()), int(sizes_y[kept].sum()), np.ix_(kept, kept)
        same = within_x[chosen].sum() / (n * (n - 1)) + within_y[chosen].sum() / (m * (m - 1))
        return float(same - 2 * between[chosen].sum() / (n * m))

    jackknife = np.array([without(group) for group in range(GROUPS)]) if grouped else None
    return Estimate(value=without(None), jackknife=jackknife)


def kid_count(n: int) -> int:
    """Number of pictures, out of ``n``, that the KID uses."""
    return min(n, MAX_PICTURES)


def _rows_used(features: Features, device: torch.device | None) -> Tensor:
    rows = features.kept[random_subset(len(features.kept), kid_count(len(features.kept)))]
    return torch.from_numpy(rows).to(device if device is not None and device.type == "cuda" else "cpu").double()


def _parts(rows: Tensor) -> list[Tensor]:
    of = torch.from_numpy(jackknife_groups(len(rows))).to(rows.device)
    return [rows[of == group] for group in range(GROUPS)]


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T).div_(x.shape[1]).add_(1).pow_(3)


def _sums(x: list[Tensor], y: list[Tensor]) -> np.ndarray:
    """Sums of the kernel over pairs of pictures, for each pair of groups."""
    return np.array([[float(_kernel(one, other).sum()) for other in y] for one in x])


def _within(parts: list[Tensor]) -> np.ndarray:
    """As :func:`_sums`, for pairs of different pictures of one set."""
    sums = np.zeros((len(parts), len(parts)))
    for index, part in enumerate(parts):
        kernel = _kernel(part, part)
        sums[index, index] = float(kernel.sum() - kernel.diagonal().sum())
        for later in range(index + 1, len(parts)):
            sums[index, later] = sums[later, index] = float(_kernel(part, parts[later]).sum())
    return sums
