"""Rows of features are kept on request; those of real pictures are cached beside their moments."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from gan_core.data import PreparedDataset
from gan_core.metrics import features
from gan_core.metrics.features import extract_features, real_features
from gan_core.metrics.inception import Extractor
from gan_core.metrics.sources import DatasetSplit, random_subset
from tests.datasets import blobs, write_prepared

N = 12


@pytest.fixture
def split(tmp_path: Path) -> DatasetSplit:
    return DatasetSplit(PreparedDataset(write_prepared(tmp_path / "dataset", blobs(N))), "train")


def test_rows_equal_the_networks_features(split: DatasetSplit, averages: Extractor) -> None:
    found = extract_features(split, N, averages, keep=True, batch_size=5)
    assert found.rows is not None
    np.testing.assert_allclose(found.rows, averages(torch.from_numpy(blobs(N))).numpy(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.moments.mean, found.rows.mean(0), rtol=1e-5)
    assert found.complete
    assert extract_features(split, N, averages, keep=False).rows is None


def test_a_random_subset_of_rows_is_kept_for_many_pictures(
    split: DatasetSplit, averages: Extractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = extract_features(split, N, averages, keep=True, batch_size=5)
    monkeypatch.setattr(features, "MAX_ROWS", 7)
    part = extract_features(split, N, averages, keep=True, batch_size=5)
    assert whole.rows is not None
    np.testing.assert_array_equal(part.rows, whole.rows[random_subset(N, 7)])
    assert (part.n, part.complete) == (N, False)


def test_one_pass_over_real_pictures_serves_training_and_evaluation(
    split: DatasetSplit, averages: Extractor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = tmp_path / "moments"
    measured = real_features(split, N, averages, keep=False, cache_dir=cache)
    assert measured.rows is None
    assert sorted(path.suffix for path in cache.iterdir()) == [".npy", ".npz"]
    with caplog.at_level(logging.INFO, "gan_core.metrics.features"):
        evaluated = real_features(split, N, averages, keep=True, cache_dir=cache, batch_size=5)
    assert "from the cache" in caplog.text
    np.testing.assert_array_equal(evaluated.moments.mean, measured.moments.mean)
    expected = averages(torch.from_numpy(blobs(N))).numpy()
    np.testing.assert_allclose(evaluated.rows, expected, rtol=1e-4, atol=1e-6)


def test_cached_moments_are_kept_when_only_rows_are_missing(
    split: DatasetSplit, averages: Extractor, tmp_path: Path
) -> None:
    cache = tmp_path / "moments"
    first = real_features(split, N, averages, keep=False, cache_dir=cache)
    (path,) = cache.glob("*.npy")
    path.unlink()
    again = real_features(split, N, averages, keep=True, cache_dir=cache, batch_size=5)
    np.testing.assert_array_equal(again.moments.mean, first.moments.mean)
    assert again.complete


def test_damaged_rows_are_computed_again_with_a_warning(
    split: DatasetSplit, averages: Extractor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = real_features(split, N, averages, keep=True, cache_dir=tmp_path / "moments")
    expected = np.array(first.rows)
    (path,) = (tmp_path / "moments").glob("*.npy")
    path.write_bytes(path.read_bytes()[:-100])
    again = real_features(split, N, averages, keep=True, cache_dir=tmp_path / "moments")
    assert "again, because the file cannot be used" in caplog.text
    np.testing.assert_allclose(again.rows, expected, rtol=1e-4, atol=1e-6)
