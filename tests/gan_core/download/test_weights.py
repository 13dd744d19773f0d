"""Weights are fetched once, into the folder that the user chooses, and checked."""

from pathlib import Path

import pytest

from gan_core.cache import user_cache_dir
from gan_core.download import weights
from gan_core.download.fetch import Url
from gan_core.errors import FetchError
from gan_core.files import sha256_file


def test_the_weights_folder_follows_the_environment_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANTRY_WEIGHTS_DIR", str(tmp_path / "mine"))
    assert weights.weights_dir() == tmp_path / "mine"
    monkeypatch.setenv("GANTRY_WEIGHTS_DIR", "")  # as a template of a container's environment leaves it
    assert weights.weights_dir() == user_cache_dir() / "weights"
    monkeypatch.delenv("GANTRY_WEIGHTS_DIR")
    assert weights.weights_dir() == user_cache_dir() / "weights"


def test_if_all_addresses_fail_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANTRY_WEIGHTS_DIR", str(tmp_path))
    monkeypatch.setattr(weights, "_INCEPTION_ADDRESSES", (Url(url=(tmp_path / "absent.pt").as_uri()),))
    with pytest.raises(FetchError, match=weights.INCEPTION_FILE) as error:
        weights.inception_file()
    assert str(tmp_path / weights.INCEPTION_FILE) in str(error.value)
    assert weights.INCEPTION_SHA256 in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANTRY_WEIGHTS_DIR", str(tmp_path))
    monkeypatch.setattr(weights, "_INCEPTION_ADDRESSES", (Url(url=(tmp_path / "absent.pt").as_uri()),))
    (tmp_path / weights.INCEPTION_FILE).write_bytes(b"half of it")
    with pytest.raises(FetchError):
        weights.inception_file()


@pytest.mark.weights
def test_the_fetched_file_has_the_expected_tensors(weights_file: Path) -> None:
    assert sha256_file(weights_file) == weights.INCEPTION_SHA256
    tensors = weights.torchscript_tensors(weights_file)
    assert tensors["net.layers.mixed_10.conv.weight"].shape == (320, 2048, 1, 1)
    assert len(tensors) == 94 * 4
