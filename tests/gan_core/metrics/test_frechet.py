"""Moments are exact for any split into batches; the distance equals scipy's within 1e-6."""

from pathlib import Path

import numpy as np
import pytest
import scipy.linalg

from gan_core.errors import DataError, SettingsError
from gan_core.metrics.frechet import Moments, frechet_distance


def features(n: int, width: int, seed: int, shift: float = 0.0) -> np.ndarray:
    """Features like those of a network: rectified and correlated, with a spectrum over three decades."""
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(99).normal(size=(width, width)) * np.geomspace(1, 1e-3, width)
    return np.maximum(rng.normal(size=(n, width)) @ mix + shift, 0).astype(np.float32)


def moments(rows: np.ndarray, parts: int = 5) -> Moments:
    result = Moments(rows.shape[1])
    for part in np.array_split(rows, parts):
        result.update(part)
    return result


def by_scipy(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x.astype(np.float64), y.astype(np.float64)
    cov_x, cov_y = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = scipy.linalg.sqrtm(cov_x @ cov_y)
    return float(np.square(x.mean(0) - y.mean(0)).sum() + np.trace(cov_x) + np.trace(cov_y) - 2 * np.trace(root).real)


@pytest.mark.parametrize("n", [10, 64, 65, 500])
def test_moments_of_batches_equal_those_of_all_rows(n: int) -> None:
    rows = features(n, 64, seed=1)
    found = moments(rows, parts=7)
    assert found.n == n
    np.testing.assert_allclose(found.mean, rows.astype(np.float64).mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.cov, np.cov(rows.astype(np.float64), rowvar=False), rtol=1e-9, atol=1e-14)


def test_covariance_stays_accurate_with_a_large_mean() -> None:
    rows = np.random.default_rng(0).normal(size=(1000, 8))
    np.testing.assert_allclose(moments(rows + 1e6, parts=50).cov, np.cov(rows, rowvar=False), atol=1e-8)


@pytest.mark.parametrize(("n", "m"), [(20, 20), (20, 300), (300, 20), (300, 200)])
def test_merged_moments_equal_those_of_all_rows(n: int, m: int) -> None:
    x, y = features(n, 32, seed=1), features(m, 32, seed=2)
    merged = moments(x)
    merged.merge(moments(y))
    both = moments(np.concatenate([x, y]))
    assert merged.n == n + m
    np.testing.assert_allclose(merged.mean, both.mean, rtol=1e-12)
    np.testing.assert_allclose(merged.cov, both.cov, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("n", [20, 300])
def test_moments_round_trip_through_a_file(n: int, tmp_path: Path) -> None:
    saved = moments(features(n, 32, seed=1))
    saved.save(tmp_path / "m.npz", {"split": "train"})
    loaded, about = Moments.load_with_metadata(tmp_path / "m.npz")
    assert about == {"split": "train"}
    assert loaded.n == n
    np.testing.assert_array_equal(loaded.cov, saved.cov)
    np.testing.assert_array_equal(loaded.mean, saved.mean)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "missing"])
def test_a_damaged_file_raises_data_error(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "m.npz"
    moments(features(300, 32, seed=1)).save(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    {
        "truncated": lambda: path.write_bytes(content[: len(content) // 2]),
        "flipped": lambda: path.write_bytes(content),
        "empty": lambda: path.write_bytes(b""),
        "missing": path.unlink,
    }[damage]()
    with pytest.raises(DataError, match="is not a file of feature moments"):
        Moments.load(path)


@pytest.mark.parametrize(
    ("n", "m"), [(1000, 900), (70, 66), (65, 65), (40, 1000), (1000, 40), (30, 50)], ids=lambda count: str(count)
)
def test_distance_equals_scipys(n: int, m: int) -> None:
    x, y = features(n, 64, seed=1), features(m, 64, seed=2, shift=0.1)
    assert frechet_distance(moments(x), moments(y)) == pytest.approx(by_scipy(x, y), rel=1e-6)


@pytest.mark.filterwarnings("ignore:Matrix is singular")  # scipy warns about the tested case
def test_distance_of_dead_features_equals_scipys() -> None:
    x, y = features(400, 64, seed=1), features(300, 64, seed=2, shift=0.1)
    x[:, 5:20], y[:, 10:30] = 0, 0
    assert frechet_distance(moments(x), moments(y)) == pytest.approx(by_scipy(x, y), rel=1e-6)


def test_distance_of_known_gaussians() -> None:
    """Independent coordinates: (difference of means)² plus (difference of standard deviations)², summed."""
    x = np.random.default_rng(0).normal(size=(500, 3))
    x = (x - x.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False))).T
    y = x * [1, 2, 3] + [0, 1, -2]
    assert frechet_distance(moments(x), moments(y)) == pytest.approx(1 + 4 + 1 + 4, rel=1e-9)


@pytest.mark.parametrize("n", [30, 500])
def test_distance_to_itself_is_zero(n: int) -> None:
    x = moments(features(n, 64, seed=1))
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-5)


def test_distance_is_symmetric() -> None:
    x, y = moments(features(30, 64, seed=1)), moments(features(500, 64, seed=2, shift=0.1))
    assert frechet_distance(x, y) == pytest.approx(frechet_distance(y, x), rel=1e-9)


def test_distance_of_too_few_or_incompatible_rows_is_an_error() -> None:
    with pytest.raises(DataError, match="two pictures"):
        frechet_distance(moments(features(1, 8, seed=0), parts=1), moments(features(9, 8, seed=0)))
    with pytest.raises(SettingsError, match="8 features cannot be compared with one of 16"):
        frechet_distance(moments(features(9, 8, seed=0)), moments(features(9, 16, seed=0)))
    with pytest.raises(DataError, match="NaN or infinity"):
        Moments(2).update(np.array([[1.0, np.nan]]))
    with pytest.raises(DataError, match=r"\(3, 5\)"):
        Moments(4).update(np.zeros((3, 5)))
