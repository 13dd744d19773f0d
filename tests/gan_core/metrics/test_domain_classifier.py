"""The domain classifier is trained on the train split, once, and then read from the cache."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from gan_core.data import PreparedDataset
from gan_core.errors import DataError
from gan_core.metrics import domain_classifier
from gan_core.metrics.domain_classifier import DomainClassifier
from tests.datasets import blobs, write_prepared

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(domain_classifier, "STEPS", (20, 20))


def dataset_at(folder: Path, labels: np.ndarray, size: int = 16) -> tuple[PreparedDataset, torch.Tensor]:
    """Dark and bright blobs: bright ones have label 1, or attribute 0."""
    pixels = blobs(len(labels), size=size)
    bright = labels == 1 if labels.ndim == 1 else labels[:, 0] == 1
    pixels[bright] = 255 - pixels[bright]
    return PreparedDataset(write_prepared(folder, pixels, labels, kind="domains")), torch.from_numpy(pixels)


def test_the_classifier_recognises_domains_and_is_trained_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    labels = np.arange(40) % 2
    dataset, pixels = dataset_at(tmp_path / "d", labels)
    classifier = DomainClassifier(dataset, device=CPU, cache_dir=tmp_path / "c")
    assert classifier.predicts(pixels, 1).tolist() == (labels == 1).tolist()
    assert classifier.predicts(pixels, 0).tolist() == (labels == 0).tolist()
    with caplog.at_level(logging.INFO, "gan_core.metrics.domain_classifier"):
        again = DomainClassifier(dataset, device=CPU, cache_dir=tmp_path / "c")
    assert "Training" not in caplog.text
    assert again.digest == classifier.digest
    assert torch.equal(again.predicts(pixels, 1), classifier.predicts(pixels, 1))
    (path,) = (tmp_path / "c").iterdir()
    path.write_bytes(path.read_bytes()[:100])
    assert DomainClassifier(dataset, device=CPU, cache_dir=tmp_path / "c").predicts(pixels, 1).any()
    assert "Training the classifier again" in caplog.text


def test_the_digest_is_that_of_the_weights_in_use_if_another_process_replaces_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, _ = dataset_at(tmp_path / "d", np.arange(40) % 2)
    expected = DomainClassifier(dataset, device=CPU, cache_dir=tmp_path / "c").digest
    write = domain_classifier.atomic_write

    @contextmanager
    def replaced(path: Path) -> Iterator[Path]:
        with write(path) as temporary:
            yield temporary
        path.write_bytes(b"of another process")

    monkeypatch.setattr(domain_classifier, "atomic_write", replaced)
    assert DomainClassifier(dataset, device=CPU, cache_dir=tmp_path / "e").digest == expected


def test_attributes_are_predicted_independently_also_for_large_pictures(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (24, 2))
    dataset, pixels = dataset_at(tmp_path / "d", labels, size=96)
    classifier = DomainClassifier(dataset, device=CPU, cache_dir=tmp_path / "c")
    assert (classifier.predicts(pixels, 0).numpy() == (labels[:, 0] == 1)).mean() > 0.9


def test_data_without_domains_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no domains.*ingest\.kind"):
        DomainClassifier(PreparedDataset(write_prepared(tmp_path / "d", blobs(4))), device=CPU)
