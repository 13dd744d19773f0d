"""The order of streamed data: row groups are shuffled, and the pictures of neighbouring ones are mixed in windows.

The order is a function of (seed, epoch), the data and the size of a window: it does not depend on batches, workers or hosts.
Any part of it is computed without what precedes it.
"""

from dataclasses import dataclass

import numpy as np
import torch

from gan_core import randomness

MOST_PICTURES = 65_536
"""Largest number of pictures in a window, unless one row group has more: a larger window would delay the first batch."""

Key = tuple[int, int]
"""Epoch, and number of the window in it."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """Consecutive positions of the order, and the pictures at them."""

    first: int
    """Position in the order of the first picture, counted over all epochs."""
    groups: np.ndarray
    """int64 (n,): index of the row group of the picture at each position."""
    members: np.ndarray
    """int64 (n,): its number in that row group, among the pictures of this order."""


class WindowedOrder:
    """Endless order of pictures: row groups in a new random order each epoch, pictures shuffled within a window of them."""

    def __init__(self, rows: np.ndarray, sizes: np.ndarray, *, window_bytes: int, seed: int) -> None:
        """
        Args:
            rows: number of pictures of each row group in this order, int64 (g,); groups with none are left out.
            sizes: bytes of each row group, int64 (g,).
            window_bytes: largest size of a window, unless one row group is larger.
            seed: seed of the order.
        """
        self._groups = np.flatnonzero(rows)
        self._rows, self._sizes = rows[self._groups], sizes[self._groups]
        self._window_bytes, self._seed = window_bytes, seed
        self.count = int(self._rows.sum())
        """Number of pictures in an epoch."""
        self._plans: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    def key_of(self, position: int) -> Key:
        """The window that holds ``position``."""
        epoch, offset = divmod(position, self.count)
        return epoch, int(np.searchsorted(self._plan(epoch)[2], offset, side="right")) - 1

    def after(self, key: Key) -> Key:
        """The window that follows."""
        epoch, number = key
        return (epoch, number + 1) if number + 1 < len(self._plan(epoch)[1]) else (epoch + 1, 0)

    def window(self, key: Key) -> Window:
        """Compute a window."""
        epoch, number = key
        shuffled, begins, positions = self._plan(epoch)
        end = begins[number + 1] if number + 1 < len(begins) else len(shuffled)
        inside = shuffled[begins[number] : end]
        rows = self._rows[inside]
        groups = np.repeat(self._groups[inside], rows)
        members = np.arange(len(groups)) - np.repeat(np.cumsum(rows) - rows, rows)
        mixed = self._permutation(len(groups), epoch, number)
        first = epoch * self.count + int(positions[number])
        return Window(first=first, groups=groups[mixed], members=members[mixed])

    def _plan(self, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Row groups in the order of an epoch; where in it each window begins; and at which position of the epoch."""
        plan = self._plans.get(epoch)
        if plan is None:
            shuffled = self._permutation(len(self._groups), epoch)
            begins, positions, size, count, position = [0], [0], 0, 0, 0
            for place, (more, many) in enumerate(
                zip(self._sizes[shuffled].tolist(), self._rows[shuffled].tolist(), strict=True)
            ):
                if count and (size + more > self._window_bytes or count + many > MOST_PICTURES):
                    begins.append(place)
                    positions.append(position)
                    size, count = 0, 0
                size, count, position = size + more, count + many, position + many
            plan = shuffled, np.array(begins), np.array(positions)
            # Two epochs, because a batch may end one and begin the next.
            self._plans = {**{e: p for e, p in self._plans.items() if abs(e - epoch) == 1}, epoch: plan}
        return plan

    def _permutation(self, count: int, epoch: int, *window: int) -> np.ndarray:
        seed = randomness.derive_seed(self._seed, "epoch", epoch, *window)
        return torch.randperm(count, generator=torch.Generator().manual_seed(seed)).numpy()
