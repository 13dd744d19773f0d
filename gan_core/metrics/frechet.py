"""The Fréchet distance between two sets of features, each taken as a Gaussian (Heusel et al. 2017, equation 6)."""

import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from gan_core.errors import DataError, SettingsError
from gan_core.files import replacing


class Moments:
    """Count, mean and covariance of features that arrive in batches, in float64.

    Up to ``features`` rows are kept as they are: the covariance of so few has no full rank, and what is computed from the
    rows is both faster and more exact. More rows are folded into mean and scatter matrix, a block at a time, by the
    pairwise update of Chan, Golub & LeVeque (1983), which does not cancel as a sum of squares does.
    """

    def __init__(self, features: int) -> None:
        """Nothing yet, of ``features`` values a row."""
        self.features = features
        self._folded = 0
        self._mean = np.zeros(features)
        self._scatter: np.ndarray = np.zeros(())
        self._pending: list[np.ndarray] = []

    @property
    def n(self) -> int:
        """Rows so far."""
        return self._folded + sum(len(rows) for rows in self._pending)

    @property
    def mean(self) -> np.ndarray:
        """Mean, float64 (features,). Raises DataError when there are no rows."""
        if self.n == 0:
            raise DataError("There are no features yet, and so no mean of them. Add some first.")
        if not self._folded:
            return self._rows().mean(0)
        self._fold()
        return self._mean

    @property
    def cov(self) -> np.ndarray:
        """Unbiased covariance, float64 (features, features). Raises DataError below two rows."""
        factor = self.factor()
        if factor is not None:
            return factor.T @ factor
        self._fold()
        return self._scatter / self._degrees()

    def update(self, features: Tensor | np.ndarray) -> None:
        """Add rows, (N, features).

        Raises:
            DataError: another width, or values that are not finite.
        """
        rows = np.array(features.detach().cpu().numpy() if isinstance(features, Tensor) else features, dtype=np.float64)
        if rows.ndim != 2 or rows.shape[1] != self.features:
            raise DataError(f"Expected rows of {self.features} features, got an array of shape {rows.shape}.")
        if not np.isfinite(rows).all():
            raise DataError("Features are not finite: the extractor's weights or input are broken.")
        self._pending.append(rows)
        if self.n - self._folded > self.features:
            self._fold()

    def merge(self, other: "Moments") -> None:
        """Add all rows of ``other``."""
        if other.features != self.features:
            raise SettingsError(f"Moments of {other.features} features do not merge with those of {self.features}.")
        folded, mean, scatter = other._folded, other._mean, other._scatter
        for rows in list(other._pending):
            self.update(rows)
        if folded:
            self._absorb(folded, mean, scatter)

    def factor(self) -> np.ndarray | None:
        """F, float64 (n, features), with FᵀF the covariance, while there are few enough rows; None afterwards."""
        if self._folded:
            return None
        return (self._rows() - self.mean) / np.sqrt(self._degrees())

    def save(self, path: Path | str, about: dict[str, Any] | None = None) -> None:
        """Write to ``path`` (npz, no pickle), whole or not at all. ``about`` is kept beside the numbers."""
        arrays: dict[str, np.ndarray] = {"about": np.array(json.dumps(about or {}, sort_keys=True))}
        if not self._folded:
            arrays["rows"] = self._rows()
        else:
            self._fold()
            arrays |= {"n": np.array(self._folded), "mean": self._mean, "scatter": self._scatter}
        with replacing(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path | str) -> "Moments":
        """Read what :meth:`save` wrote.

        Raises:
            DataError: missing, damaged, or not such a file.
        """
        return cls.load_with_about(path)[0]

    @classmethod
    def load_with_about(cls, path: Path | str) -> tuple["Moments", dict[str, Any]]:
        """Like :meth:`load`, with what was kept beside the numbers."""
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
            raise DataError(f"{path} does not hold moments of features: {error}") from error
        return moments, about

    def _degrees(self) -> int:
        if self.n < 2:
            raise DataError(
                f"A Fréchet distance takes two pictures or more on each side; there {'is' if self.n == 1 else 'are'} {self.n}."
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
        """Chan's update of the folded part by ``n`` rows with this mean and scatter matrix."""
        total = self._folded + n
        shift = mean - self._mean
        self._scatter = self._scatter + scatter + np.outer(shift, shift) * (self._folded * n / total)
        self._mean = self._mean + shift * (n / total)
        self._folded = total


def frechet_distance(a: Moments, b: Moments) -> float:
    """|mean_a - mean_b|² + tr(A) + tr(B) - 2 tr((AB)^½), for covariances A and B; never below 0.

    With A = FᵀF the last trace is the sum of the square roots of the eigenvalues of F B Fᵀ, a symmetric matrix: no square
    root of a non-symmetric one, no complex numbers, nothing added to the diagonal. Where both sets are small it is the sum
    of the singular values of F Gᵀ.

    Raises:
        SettingsError: features of different widths.
        DataError: fewer than two rows in one of them.
    """
    if a.features != b.features:
        raise SettingsError(f"No distance between {a.features} and {b.features} features.")
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
        # Rounding may leave an eigenvalue that is zero a little below it.
        root = np.sqrt(eigenvalues.clip(min=0)).sum()
    shift = np.square(a.mean - b.mean).sum()
    return max(0.0, float(shift + trace_a + trace_b - 2 * root))


def covariance_factor(cov: np.ndarray) -> np.ndarray:
    """F with FᵀF = ``cov``, from its eigenvalues; as many rows as ``cov`` has positive ones."""
    values, vectors = np.linalg.eigh(cov)
    positive = values > 0
    return (vectors[:, positive] * np.sqrt(values[positive])).T
