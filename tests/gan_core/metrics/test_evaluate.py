"""FID from sources to figure: equal pictures have distance zero in any kind of source, and real moments are cached."""

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from gan_core.data import PreparedDataset
from gan_core.errors import DataError, SettingsError
from gan_core.metrics.evaluate import fid, fid_of_samples, real_moments
from gan_core.metrics.inception import Extractor
from gan_core.metrics.sources import DatasetSplit, PictureFolder
from tests.datasets import blobs, write_prepared
from tests.gan_core.metrics.test_sources import write_folder

N = 12


@pytest.fixture
def dataset(tmp_path: Path) -> PreparedDataset:
    return PreparedDataset(write_prepared(tmp_path / "dataset", blobs(N)))


def sample(n: int, seed: int) -> torch.Tensor:
    return torch.from_numpy(blobs(n, seed=seed + 100))


@pytest.mark.weights
def test_identical_folders_are_at_distance_zero(tmp_path: Path, real_extractor: Extractor) -> None:
    folder = PictureFolder(write_folder(tmp_path / "a", blobs(6)))
    other = PictureFolder(write_folder(tmp_path / "b", blobs(6)))
    figure = fid(folder, other, extractor=real_extractor)
    assert figure.value == pytest.approx(0, abs=1e-4)
    assert (figure.protocol.real_count, figure.protocol.fake_count) == (6, 6)
    assert figure.protocol.dataset_digest == figure.generator_digest


def test_a_folder_has_the_same_fid_as_the_dataset_ingested_from_it(
    tmp_path: Path, dataset: PreparedDataset, small_extractor: Extractor
) -> None:
    folder = PictureFolder(write_folder(tmp_path / "folder", blobs(N)))
    split = DatasetSplit(dataset, "train")
    assert fid(split, folder, extractor=small_extractor).value == pytest.approx(0, abs=1e-6)
    other = PictureFolder(write_folder(tmp_path / "other", blobs(N, seed=5)))
    of_split = fid(split, other, extractor=small_extractor).value
    of_folder = fid(folder, other, extractor=small_extractor).value
    assert of_split == pytest.approx(of_folder, rel=1e-4)
    assert of_split > 1e-5


def test_the_batch_size_does_not_change_the_figure(
    dataset: PreparedDataset, small_extractor: Extractor, tmp_path: Path
) -> None:
    values = [
        fid_of_samples(
            sample,
            dataset,
            split="train",
            count=10,
            seed=1,
            extractor=small_extractor,
            generator_digest="g",
            batch_size=batch_size,
            cache_dir=tmp_path / str(batch_size),
        ).value
        for batch_size in (3, 10)
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-4)


def test_the_figure_carries_its_protocol(dataset: PreparedDataset, small_extractor: Extractor) -> None:
    figure = fid_of_samples(
        sample, dataset, split="train", count=20, seed=3, extractor=small_extractor, generator_digest="generator"
    )
    protocol = figure.protocol
    assert (protocol.fake_count, protocol.real_count) == (20, N)
    assert (protocol.split, protocol.dataset_digest) == ("train", dataset.info.digest)
    assert (protocol.extractor, protocol.features, protocol.precision) == (small_extractor.digest, 64, "fp32")
    assert (figure.generator_digest, figure.seed) == ("generator", 3)


def test_few_pictures_cause_a_warning(
    dataset: PreparedDataset, small_extractor: Extractor, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "gan_core.metrics.evaluate"):
        fid_of_samples(sample, dataset, split="train", count=9, seed=0, extractor=small_extractor, generator_digest="g")
    assert "9 pictures are few for 64 features" in caplog.text
    assert "same counts" in caplog.text


def test_real_moments_are_computed_once(
    dataset: PreparedDataset, small_extractor: Extractor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = tmp_path / "moments"
    first = real_moments(dataset, "train", small_extractor, count=10, cache_dir=cache)
    with caplog.at_level(logging.INFO, "gan_core.metrics.features"):
        again = real_moments(dataset, "train", small_extractor, count=10, cache_dir=cache)
    assert "from the cache" in caplog.text
    np.testing.assert_array_equal(again.cov, first.cov)
    assert len(list(cache.glob("*.npz"))) == 1


def test_cached_moments_depend_on_the_pictures_and_the_extractor(
    dataset: PreparedDataset, small_extractor: Extractor, tmp_path: Path
) -> None:
    cache = tmp_path / "moments"
    real_moments(dataset, "train", small_extractor, count=10, cache_dir=cache)
    real_moments(dataset, "train", small_extractor, count=None, cache_dir=cache)
    other = PreparedDataset(write_prepared(tmp_path / "other", blobs(N, seed=1)))
    real_moments(other, "train", small_extractor, count=10, cache_dir=cache)
    renamed = Extractor(
        small_extractor.network, features=64, precision="fp32", device=torch.device("cpu"), weights="other"
    )
    real_moments(dataset, "train", renamed, count=10, cache_dir=cache)
    assert len(list(cache.glob("*.npz"))) == 4


def test_damaged_cached_moments_are_computed_again_with_a_warning(
    dataset: PreparedDataset, small_extractor: Extractor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = tmp_path / "moments"
    first = real_moments(dataset, "train", small_extractor, count=10, cache_dir=cache)
    (path,) = cache.glob("*.npz")
    path.write_bytes(path.read_bytes()[:500])
    again = real_moments(dataset, "train", small_extractor, count=10, cache_dir=cache)
    assert "again, because the file cannot be used" in caplog.text
    np.testing.assert_allclose(again.cov, first.cov, rtol=1e-6, atol=1e-12)
    caplog.clear()
    with caplog.at_level(logging.INFO, "gan_core.metrics.features"):
        real_moments(dataset, "train", small_extractor, count=10, cache_dir=cache)
    assert "from the cache" in caplog.text


def test_cached_moments_of_other_pictures_are_not_used(
    dataset: PreparedDataset, small_extractor: Extractor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = tmp_path / "moments"
    real_moments(dataset, "train", small_extractor, count=10, cache_dir=cache)
    (ten,) = cache.glob("*.npz")
    real_moments(dataset, "train", small_extractor, count=8, cache_dir=cache)
    (eight,) = set(cache.glob("*.npz")) - {ten}
    shutil.copy(ten, eight)
    assert real_moments(dataset, "train", small_extractor, count=8, cache_dir=cache).n == 8
    assert "belongs to other pictures" in caplog.text


def test_requesting_more_pictures_than_available_is_an_error(
    dataset: PreparedDataset, small_extractor: Extractor
) -> None:
    with pytest.raises(DataError, match="has 12 pictures, fewer than the 13"):
        real_moments(dataset, "train", small_extractor, count=13)
    with pytest.raises(SettingsError, match="2 or more"):
        real_moments(dataset, "train", small_extractor, count=1)
