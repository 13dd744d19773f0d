"""Fixtures: a single thread (so that sums do not depend on the number of cores), the toy family, a small dataset, runs."""

import functools
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from gan_core.data import PreparedDataset
from gan_core.families import FAMILIES
from tests.datasets import blobs, write_prepared
from tests.gan_core.training.runs import Make, short_run
from tests.gan_core.training.toy import Toy


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _toy_family(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, "toy", Toy)


@pytest.fixture(scope="session")
def blob_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared dataset of 64 grey pictures of blobs, 16x16 pixels."""
    return write_prepared(tmp_path_factory.mktemp("blobs") / "prepared", blobs(64))


@pytest.fixture
def blob_data(blob_folder: Path, tmp_path: Path) -> PreparedDataset:
    """The same dataset, opened."""
    return PreparedDataset(blob_folder, tmp_path / "decoded")


@pytest.fixture
def make(blob_data: PreparedDataset, tmp_path: Path) -> Make:
    """A function that makes a trainer in ``tmp_path/NAME`` (:func:`short_run`)."""
    return functools.partial(short_run, blob_data, tmp_path)
