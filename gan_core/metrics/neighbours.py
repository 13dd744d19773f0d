"""Figures from nearest neighbours in feature space: precision, recall, density, coverage, and distances to real pictures.

Precision and recall as in Kynkäänniemi et al. 2019 (k = 3), density and coverage as in Naeem et al. 2020 (k = 5). Balls are
closed, as in both papers: a picture at the distance of the k-th neighbour is inside. Distances are computed in float64, in
blocks of bounded memory.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gan_core.errors import SettingsError
from gan_core.metrics.features import Features
from gan_core.metrics.intervals import GROUPS, MIN_PICTURES, Estimate, jackknife_groups
from gan_core.metrics.sources import random_subset

MAX_PICTURES = 10_000
"""Maximum number of pictures per side: a fixed random subset of larger sets. Time grows quadratically."""
K_MANIFOLD = 3
"""Neighbour that defines the balls of precision and recall."""
K_DENSITY = 5
"""Neighbour that defines the balls of density and coverage."""
MIN_NEIGHBOURS = K_DENSITY + 1
"""Minimum number of pictures per side."""
NAMES = ("precision", "recall", "density", "coverage")
"""The figures, in the order in which they are reported."""

_BLOCK = 512
"""Rows of a block of distances: 40 MB for 10,000 columns."""
_SAME = 1e-10
"""Squared distances below this share of the mean squared norm are zero: features of one picture differ by the rounding of
the batch that it is in, by about 1e-6."""

Estimates = dict[str, Estimate]


@dataclass(frozen=True, kw_only=True)
class Nearest:
    """The nearest real picture of each generated one."""

    distances: np.ndarray
    """Distances to it, float64 (1 + groups, n): row 0 among all real pictures, row 1 + g among those outside jackknife group
    g. Only row 0 without an interval."""
    nearest: np.ndarray
    """Its row in ``real.rows``, int64 (n,)."""
    fake_rows: np.ndarray
    """Rows of ``fake.rows`` that were used, in the order of ``nearest`` and ``distances``."""
    real_rows: np.ndarray
    """Rows of ``real.rows`` that were used."""


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """Result of :func:`neighbours`."""

    estimates: Estimates
    """Precision, recall, density and coverage by name; without a jackknife if there is no interval."""
    to_real: Nearest
    """The nearest real picture of each generated one."""
    real_to_real: np.ndarray
    """Distances of real pictures to the nearest other real one, float64 (1 + groups, m), like ``to_real.distances``."""


def neighbour_count(n: int) -> int:
    """Number of pictures, out of ``n``, that these figures use."""
    return min(n, MAX_PICTURES)


def too_few(real: int, fake: int) -> str:
    """Why the figures cannot be measured with these numbers of pictures; empty if they can."""
    if min(real, fake) >= MIN_NEIGHBOURS:
        return ""
    return (
        f"it needs at least {MIN_NEIGHBOURS} pictures on each side, and there are {real} real and {fake} generated ones"
    )


def neighbours(real: Features, fake: Features, *, interval: bool, device: torch.device | None = None) -> Neighbours:
    """Precision, recall, density and coverage, and the distances to the nearest real pictures.

    The interval is a delete-a-group jackknife: a tenth of the real and of the generated pictures is removed at a time, from
    the balls as well as from the pictures in them. An interval of a share is at least as wide as Wilson's.

    Args:
        real: features of at least 6 real pictures, with rows.
        fake: features of at least 6 generated pictures, with rows.
        interval: whether to compute the jackknife; needs 20 pictures on each side.
        device: a GPU, or None for the CPU; other devices mean the CPU.

    Raises:
        SettingsError: rows are missing, there are fewer than 6 pictures, or the numbers of features differ.
    """
    chosen = [_chosen(features) for features in (real, fake)]
    x, y, same = _centred(real, fake, chosen, device)
    wrong = too_few(len(x), len(y))
    if wrong:
        raise SettingsError(f"Nearest neighbours: {wrong}.")
    grouped = interval and min(len(x), len(y)) >= MIN_PICTURES
    sides = [_Side(rows, grouped) for rows in (x, y)]
    within = [_nearest_within(side, same) for side in sides]
    found = _cross(sides[0], sides[1], within[0], within[1], same)
    pictures = {"precision": len(y), "recall": len(x), "coverage": len(x)}
    estimates = {
        name: Estimate(
            value=float(values[0]),
            jackknife=values[1:] if grouped else None,
            lower_bound=0.0,
            upper_bound=1.0 if name in pictures else np.inf,
            pictures=pictures.get(name),
        )
        for name, values in found.shares.items()
    }
    return Neighbours(
        estimates={name: estimates[name] for name in NAMES},
        to_real=_nearest(found.distances, found.nearest, sides, chosen),
        real_to_real=np.sqrt(within[0][0][:, sides[0].back].cpu().numpy()),
    )


def nearest(real: Features, fake: Features, *, interval: bool, device: torch.device | None = None) -> Nearest:
    """The nearest real picture of each generated one, without the other figures. The arguments are those of
    :func:`neighbours`, with at least one picture on each side.
    """
    chosen = [_chosen(features) for features in (real, fake)]
    x, y, same = _centred(real, fake, chosen, device)
    sides = [_Side(rows, interval and min(len(x), len(y)) >= MIN_PICTURES) for rows in (x, y)]
    parts = [_nearest_in(_squared_distances(sides[1], rows, sides[0], same), sides[0]) for _, rows in sides[1].blocks()]
    distances, found = (torch.cat(part, dim=-1).cpu().numpy() for part in zip(*parts, strict=True))
    return _nearest(distances, found, sides, chosen)


def _nearest(squares: np.ndarray, found: np.ndarray, sides: list["_Side"], chosen: list[np.ndarray]) -> Nearest:
    """From the order of the groups to that of the pictures."""
    return Nearest(
        distances=np.sqrt(squares[:, sides[1].back]),
        nearest=chosen[0][sides[0].order[found][sides[1].back]],
        real_rows=chosen[0],
        fake_rows=chosen[1],
    )


def _chosen(features: Features) -> np.ndarray:
    return random_subset(len(features.kept), neighbour_count(len(features.kept)))


def _centred(
    real: Features, fake: Features, chosen: list[np.ndarray], device: torch.device | None
) -> tuple[Tensor, Tensor, float]:
    """Rows of both sides in float64, and the squared distance below which two rows are equal.

    The rows are shifted by a common centre: shorter rows have more exact distances.
    """
    if real.kept.shape[1] != fake.kept.shape[1]:
        raise SettingsError(
            f"A set of {real.kept.shape[1]} features cannot be compared with one of {fake.kept.shape[1]}. Use the same "
            "number for both."
        )
    where = device if device is not None and device.type == "cuda" else torch.device("cpu")
    x, y = (
        torch.from_numpy(np.asarray(side.kept[rows], np.float64)).to(where)
        for side, rows in zip((real, fake), chosen, strict=True)
    )
    norm = sum(float(side.square().sum()) for side in (x, y)) / max(len(x) + len(y), 1)
    centre = x.mean(0)
    return x - centre, y - centre, _SAME * norm


class _Side:
    """Rows sorted by jackknife group, so that the rows of a group are a slice."""

    def __init__(self, rows: Tensor, grouped: bool) -> None:
        groups = jackknife_groups(len(rows)) if grouped else np.zeros(len(rows), int)
        self.order = np.argsort(groups, kind="stable")
        self.back = np.argsort(self.order, kind="stable")
        self.rows = rows[torch.from_numpy(self.order).to(rows.device)]
        self.squares = self.rows.square().sum(1)
        edges = [0, *np.bincount(groups, minlength=GROUPS if grouped else 1).cumsum().tolist()]
        self.slices = [slice(a, b) for a, b in itertools.pairwise(edges)]
        self.groups = torch.from_numpy(groups[self.order]).to(rows.device)

    def blocks(self) -> Iterator[tuple[int, slice]]:
        """Slices of at most ``_BLOCK`` rows, each within a group."""
        for group, whole in enumerate(self.slices):
            for start in range(whole.start, whole.stop, _BLOCK):
                yield group, slice(start, min(start + _BLOCK, whole.stop))


def _squared_distances(a: _Side, rows: slice, b: _Side, same: float) -> Tensor:
    """Squared distances of ``rows`` of ``a`` to all rows of ``b``, (rows, len(b))."""
    squares = torch.addmm(b.squares[None], a.rows[rows], b.rows.T, alpha=-2).add_(a.squares[rows, None])
    return squares.masked_fill_(squares < same, 0)


def _nearest_within(side: _Side, same: float) -> tuple[Tensor, Tensor, Tensor]:
    """Squared distances to the first, the 3rd and the 5th neighbour in the same set, (1 + groups, n) each.

    Row 0 uses all pictures, row 1 + g all but those of group g.
    """
    n, several = len(side.rows), len(side.slices) > 1
    radii = side.rows.new_empty((3, 1 + len(side.slices) * several, n))
    for _, rows in side.blocks():
        squares = _squared_distances(side, rows, side, same)
        own = torch.arange(rows.start, rows.stop, device=squares.device)
        squares[torch.arange(len(own), device=squares.device), own] = torch.inf
        parts = [squares[:, part] for part in side.slices]
        parts = [part.topk(min(K_DENSITY, part.shape[1]), dim=1, largest=False).values for part in parts]
        for out in range(radii.shape[1]):
            kept = [part for group, part in enumerate(parts) if group != out - 1]
            smallest = torch.cat(kept, 1).topk(K_DENSITY, dim=1, largest=False).values.sort(1).values
            for index, k in enumerate((1, K_MANIFOLD, K_DENSITY)):
                radii[index, out, rows] = smallest[:, k - 1]
    return radii[0], radii[1], radii[2]


def _nearest_in(squares: Tensor, side: _Side) -> tuple[Tensor, Tensor]:
    """The smallest of each row of ``squares`` (rows, n), (1 + groups, rows) as in :class:`Nearest`, and its column."""
    smallest, column = squares.min(1)
    several = len(side.slices) > 1
    minima = torch.stack([squares[:, part].min(1).values for part in side.slices]) if several else smallest[None]
    without = [
        minima[[other for other in range(len(minima)) if other != out]].min(0).values
        for out in range(len(side.slices) * several)
    ]
    return torch.stack([smallest, *without]), column


def _without_groups(radii: Tensor, side: _Side) -> Tensor:
    """Radii, (1 + groups, n), below every distance for the pictures that are removed."""
    for out in range(1, len(radii)):
        radii[out, side.slices[out - 1]] = -1
    return radii


@dataclass(frozen=True, kw_only=True)
class _Cross:
    shares: dict[str, np.ndarray]
    """float64 (1 + groups,) by name: with all pictures, and without each group."""
    distances: np.ndarray
    """Squared distances of generated pictures to the nearest real one, (1 + groups, n), sorted by group."""
    nearest: np.ndarray


Radii = tuple[Tensor, Tensor, Tensor]


def _cross(x: _Side, y: _Side, of_x: Radii, of_y: Radii, same: float) -> _Cross:
    """Compare every generated picture with every real one, once."""
    outs, n, m = of_x[0].shape[0], len(x.rows), len(y.rows)
    device = x.rows.device
    inside = torch.zeros(outs, m, dtype=torch.bool, device=device)  # generated ones in a ball of a real one
    balls = torch.zeros(outs, m, dtype=torch.int64, device=device)  # number of balls that a generated one is in
    reached = torch.zeros(outs, n, dtype=torch.bool, device=device)  # real ones in a ball of a generated one
    closest = torch.full((outs, n), torch.inf, dtype=torch.float64, device=device)  # from a real to a generated one
    nearest = torch.zeros(m, dtype=torch.int64, device=device)
    distances = torch.full((outs, m), torch.inf, dtype=torch.float64, device=device)
    # A ball holds the pictures at its edge, whatever the rounding; one of a removed picture holds none.
    precise, dense = (_without_groups(radii + same, x) for radii in (of_x[1], of_x[2]))
    recalled = _without_groups(of_y[1] + same, y)
    for group, rows in y.blocks():
        squares = _squared_distances(y, rows, x, same)
        to_fake = squares.min(0).values
        for out in range(outs):
            inside[out, rows] = (squares <= precise[out]).any(1)
            balls[out, rows] = (squares <= dense[out]).sum(1)
            if group != out - 1:
                reached[out] |= (squares <= recalled[out, rows, None]).any(0)
                torch.minimum(closest[out], to_fake, out=closest[out])
        distances[:, rows], nearest[rows] = _nearest_in(squares, x)
    covered = closest <= dense

    def share(values: Tensor, side: _Side, out: int) -> float:
        kept = side.groups != out - 1
        return float(values[out][kept].double().mean())

    shares: dict[str, Callable[[int], float]] = {
        "precision": lambda out: share(inside, y, out),
        "recall": lambda out: share(reached, x, out),
        "density": lambda out: share(balls, y, out) / K_DENSITY,
        "coverage": lambda out: share(covered, x, out),
    }
    return _Cross(
        shares={name: np.array([of(out) for out in range(outs)]) for name, of in shares.items()},
        distances=distances.cpu().numpy(),
        nearest=nearest.cpu().numpy(),
    )
