"""The kernel Inception distance (Bińkowski et al. 2018, section 4): unbiased, so its expectation is that of any number."""

import numpy as np
import torch
from torch import Tensor

from gan_core.errors import SettingsError
from gan_core.metrics.features import Features
from gan_core.metrics.intervals import GROUPS, LEAST, Estimate, groups
from gan_core.metrics.sources import subset

PICTURES = 10_000
"""Maximum number of pictures per side: a fixed random subset of larger sets. Time grows quadratically."""


def kid_estimate(real: Features, fake: Features, *, interval: bool, device: torch.device | None = None) -> Estimate:
    """The unbiased squared maximum mean discrepancy of features by the kernel (x·y / features + 1)³, in float64.

    Sums of the kernel over pairs of groups of pictures give the value and its jackknife values.

    Args:
        real: features with their rows.
        fake: likewise.
        interval: whether to leave groups out.
        device: a GPU is used, anything else is the CPU.

    Returns:
        The estimate; as it is unbiased it may be a little below 0.

    Raises:
        SettingsError: features whose rows were not kept, or are of different widths.
    """
    x, y = _taken(real, device), _taken(fake, device)
    if x.shape[1] != y.shape[1]:
        raise SettingsError(f"No distance between {x.shape[1]} and {y.shape[1]} features.")
    grouped = interval and min(len(x), len(y)) >= LEAST
    parts_x, parts_y = (_parts(rows) if grouped else [rows] for rows in (x, y))
    within_x, within_y, between = _within(parts_x), _within(parts_y), _sums(parts_x, parts_y)
    sizes_x, sizes_y = (np.array([len(part) for part in parts]) for parts in (parts_x, parts_y))

    def without(group: int | None) -> float:
        kept = [index for index in range(len(parts_x)) if index != group]
        n, m, chosen = int(sizes_x[kept].sum()), int(sizes_y[kept].sum()), np.ix_(kept, kept)
        same = within_x[chosen].sum() / (n * (n - 1)) + within_y[chosen].sum() / (m * (m - 1))
        return float(same - 2 * between[chosen].sum() / (n * m))

    deleted = np.array([without(group) for group in range(GROUPS)]) if grouped else None
    return Estimate(value=without(None), deleted=deleted)


def kid_count(n: int) -> int:
    """Number of pictures, out of ``n``, that the KID uses."""
    return min(n, PICTURES)


def _taken(features: Features, device: torch.device | None) -> Tensor:
    if features.rows is None:
        raise SettingsError("The KID needs the features themselves, and only their moments were kept.")
    rows = features.rows[subset(len(features.rows), kid_count(len(features.rows)))]
    return torch.from_numpy(rows).to(device if device is not None and device.type == "cuda" else "cpu").double()


def _parts(rows: Tensor) -> list[Tensor]:
    of = torch.from_numpy(groups(len(rows))).to(rows.device)
    return [rows[of == group] for group in range(GROUPS)]


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T).div_(x.shape[1]).add_(1).pow_(3)


def _sums(x: list[Tensor], y: list[Tensor]) -> np.ndarray:
    """The kernel summed over pairs of pictures, by their groups."""
    return np.array([[float(_kernel(one, other).sum()) for other in y] for one in x])


def _within(parts: list[Tensor]) -> np.ndarray:
    """Likewise of pairs of different pictures of one set."""
    sums = np.zeros((len(parts), len(parts)))
    for index, part in enumerate(parts):
        kernel = _kernel(part, part)
        sums[index, index] = float(kernel.sum() - kernel.diagonal().sum())
        for later in range(index + 1, len(parts)):
            sums[index, later] = sums[later, index] = float(_kernel(part, parts[later]).sum())
    return sums
