"""Hosts get prepared data and weights from the storage, each once, and need no internet."""

import hashlib

import pytest

from gan_core.errors import FetchError
from pipelines.storage import inputs
from pipelines.storage.inputs import publish_inputs
from pipelines.storage.objects import StorageError
from tests.datasets import blobs, write_prepared

WEIGHTS = b"weights of a network"


@pytest.fixture
def small_weights(monkeypatch, tmp_path):
    """A small file in place of the weights on the host that has internet, and another host without it."""
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    file = tmp_path / "driver" / inputs.INCEPTION_FILE
    file.parent.mkdir()
    file.write_bytes(WEIGHTS)
    monkeypatch.setattr(inputs, "INCEPTION_SHA256", digest)
    monkeypatch.setattr(inputs, "inception_file", lambda: file)
    monkeypatch.setenv("GANTRY_WEIGHTS_DIR", str(tmp_path / "node"))
    return tmp_path / "node" / inputs.INCEPTION_FILE


def publish(storage, tmp_path, sent, **more):
    data = write_prepared(tmp_path / "data", blobs(4))
    return publish_inputs(
        storage, data, user="work/train/key", cache_gib=1, sending=sent.append, **{"weights": True, **more}
    )


def test_data_and_weights_are_sent_once_and_fetched_by_a_host(storage, tmp_path, small_weights):
    sent = []
    published = publish(storage, tmp_path, sent)
    assert publish(storage, tmp_path, sent) == published
    assert len(sent) == 2
    with published.on_host() as data:
        assert (data.folder / "dataset.json").read_bytes() == (tmp_path / "data" / "dataset.json").read_bytes()
        assert small_weights.read_bytes() == WEIGHTS
    small_weights.write_bytes(b"of the host itself")
    with published.on_host():
        assert small_weights.read_bytes() == b"of the host itself"


def test_what_needs_no_weights_neither_sends_nor_fetches_them(storage, tmp_path, small_weights, monkeypatch):
    def unreachable():
        raise FetchError("no internet")

    monkeypatch.setattr(inputs, "inception_file", unreachable)
    with publish(storage, tmp_path, [], weights=False).on_host():
        assert not small_weights.exists()
    with pytest.raises(FetchError):
        publish(storage, tmp_path, [])


def test_damaged_weights_are_not_used(storage, tmp_path, small_weights):
    published = publish(storage, tmp_path, [])
    (name,) = [entry.name for entry in storage.entries("weights")]
    storage.write(name, b"something else")
    with (
        pytest.raises(StorageError, match=f"{name} is damaged: its content has another digest. Remove it."),
        published.on_host(),
    ):
        pass
    assert not small_weights.exists()
