"""The Fréchet distance between Gaussians fitted to two sets of features (Heusel et al. 2017, equation 6)."""

import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from gan_core.errors import DataError, SettingsError
from gan_core.files import atomic_write


class Moments:
    """Count, mean and covariance of features that arrive in batches, in float64.

    Up to ``features`` rows are kept as they are: their covariance does not have full rank, and computing from the rows is
    faster and more exact. Further rows are folded into a mean and a scatter matrix, one block at a time, by the pairwise
    update of Chan, Golub & LeVeque (1983), which avoids the cancellation of a sum of squares.
    """

    def __init__(self, features: int) -> None:
        """Start empty, for rows of ``features`` values."""
        self.features = features
        self._folded = 0
        self._mean = np.zeros(features)
        self._scatter: np.ndarray = np.zeros(())
        self._pending: list[np.ndarray] = []

    @property
    def n(self) -> int:
        """Number of rows."""
        return self._folded + sum(len(rows) for rows in self._pending)

    @property
    def mean(self) -> np.ndarray:
        """Mean, float64 (features,). Raises DataError if there are no rows."""
        if self.n == 0:
            raise DataError("The mean of no features is undefined. Add features first.")
        if not self._folded:
            return self._rows().mean(0)
        self._fold()
        return self._mean

    @property
    def cov(self) -> np.ndarray:
        """Unbiased covariance, float64 (features, features). Raises DataError if there are fewer than two rows."""
        factor = self.factor()
        if factor is not None:
            return factor.T @ factor
        self._fold()
        return self._scatter / self._degrees()

    def update(self, features: Tensor | np.ndarray) -> None:
        """Add rows, (N, features).

        Raises:
            DataError: the width differs, or a value is NaN or infinite.
        """
        rows = np.array(features.detach().cpu().numpy() if isinstance(features, Tensor) else features, dtype=np.float64)
        if rows.ndim != 2 or rows.shape[1] != self.features:
            raise DataError(f"Expected rows of {self.features} features, got an array of shape {rows.shape}.")
        if not np.isfinite(rows).all():
            raise DataError(
                "Features hold NaN or infinity: the extractor's weights or its input pictures are damaged. Delete the cached "
                "weights, so that they are fetched again, and check the pictures."
            )
        self._pending.append(rows)
        if self.n - self._folded > self.features:
            self._fold()

    def merge(self, other: "Moments") -> None:
        """Add all rows of ``other``. Raises SettingsError if its number of features differs."""
        if other.features != self.features:
            raise SettingsError(
                f"Moments of {other.features} features cannot be merged with moments of {self.features} features. Use the "
                "same number of features for both."
            )
        folded, mean, scatter = other._folded, other._mean, other._scatter
        for rows in list(other._pending):
            self.update(rows)
        if folded:
            self._absorb(folded, mean, scatter)

    def factor(self) -> np.ndarray | None:
        """F, float64 (n, features), such that FᵀF is the covariance; None if there are more rows than features."""
        if self._folded:
            return None
        return (self._rows() - self.mean) / np.sqrt(self._degrees())

    def save(self, path: Path | str, about: dict[str, Any] | None = None) -> None:
        """Write to ``path`` (npz, without pickle) atomically, with the metadata ``about``."""
        arrays: dict[str, np.ndarray] = {"about": np.array(json.dumps(about or {}, sort_keys=True))}
        if not self._folded:
            arrays["rows"] = self._rows()
        else:
            self._fold()
            arrays |= {"n": np.array(self._folded), "mean": self._mean, "scatter": self._scatter}
        with atomic_write(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path | str) -> "Moments":
        """Read a file that :meth:`save` wrote.

        Raises:
            DataError: the file is missing, damaged or of a different kind.
        """
        return cls.load_with_metadata(path)[0]

    @classmethod
    def load_with_metadata(cls, path: Path | str) -> tuple["Moments", dict[str, Any]]:
        """Like :meth:`load`, together with the metadata."""
        try:
            with np.load(path, allow_pickle=False) as arrays:
                about = json.loads(str(arrays["about"]))
                if "rows" in arrays:
                    moments = cls(arrays["rows"].shape[1])
                    if len(arrays["rows"]):
                        moments.update(arrays["rows"])
                else:
                    moments = cls(len(arrays["mean"]))
                    moments._absorb(int(arrays["n"]), arrays["mean"], arrays["scatter"])
        except (OSError, EOFError, ValueError, KeyError, IndexError, zipfile.BadZipFile, zlib.error) as error:
            raise DataError(f"{path} is not a file of feature moments: {error}") from error
        return moments, about

    def _degrees(self) -> int:
        if self.n < 2:
            raise DataError(
                f"A Fréchet distance needs at least two pictures on each side, and one side has {self.n}. Add pictures."
            )
        return self.n - 1

    def _rows(self) -> np.ndarray:
        return np.concatenate([np.empty((0, self.features)), *self._pending])

    def _fold(self) -> None:
        if self._pending:
            rows = self._rows()
            self._pending = []
            mean = rows.mean(0)
            centred = rows - mean
            self._absorb(len(rows), mean, centred.T @ centred)

    def _absorb(self, n: int, mean: np.ndarray, scatter: np.ndarray) -> None:
        """Chan's update of the folded rows with ``n`` rows of the given mean and scatter matrix."""
        total = self._folded + n
        shift = mean - self._mean
        self._scatter = self._scatter + scatter + np.outer(shift, shift) * (self._folded * n / total)
        self._mean = self._mean + shift * (n / total)
        self._folded = total


def frechet_distance(a: Moments, b: Moments) -> float:
    """|mean_a - mean_b|² + tr(A) + tr(B) - 2 tr((AB)^½), for covariances A and B; never below 0.

    With A = FᵀF, the last trace is the sum of the square roots of the eigenvalues of F B Fᵀ. That matrix is symmetric, so
    that no complex numbers arise and nothing needs to be added to the diagonal. If both sets are small, with B = GᵀG, it is
    the sum of the singular values of F Gᵀ.

    Raises:
        SettingsError: the numbers of features differ.
        DataError: one of them has fewer than two rows.
    """
    if a.features != b.features:
        raise SettingsError(
            f"A set of {a.features} features cannot be compared with one of {b.features}. Use the same number for both."
        )
    few_a, few_b = a.factor(), b.factor()
    if few_a is not None and few_b is not None:
        trace_a, trace_b = np.square(few_a).sum(), np.square(few_b).sum()
        root = np.linalg.svd(few_a @ few_b.T, compute_uv=False).sum()
    else:
        if few_b is not None:
            a, b, few_a = b, a, few_b
        cov_a, cov_b = a.cov, b.cov
        trace_a, trace_b = np.trace(cov_a), np.trace(cov_b)
        factor = few_a if few_a is not None else covariance_factor(cov_a)
        eigenvalues = np.linalg.eigvalsh(factor @ cov_b @ factor.T)
        # Rounding can make a zero eigenvalue slightly negative.
        root = np.sqrt(eigenvalues.clip(min=0)).sum()
    shift = np.square(a.mean - b.mean).sum()
    return max(0.0, float(shift + trace_a + trace_b - 2 * root))


def covariance_factor(cov: np.ndarray) -> np.ndarray:
    """F such that FᵀF = ``cov``, with one row per positive eigenvalue of ``cov``."""
    values, vectors = np.linalg.eigh(cov)
    positive = values > 0
    return (vectors[:, positive] * np.sqrt(values[positive])).T
