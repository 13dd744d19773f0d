"""What nobody uses can be removed from the storage; what somebody uses on any host is kept."""

import os
import threading
import time
from pathlib import Path

import pytest

from pipelines.storage import inputs, prune
from pipelines.storage.folders import MANIFEST, data_name, publish_folder
from pipelines.storage.inputs import WEIGHTS, publish_inputs
from pipelines.storage.lease import lease
from pipelines.storage.objects import MissingObjectError, Storage
from pipelines.storage.prune import OTHER, list_stored
from pipelines.storage.uses import note_use
from pipelines.storage.work import mark_finished
from tests.datasets import blobs, write_prepared

USER = "work/train/key"
DAY = 86400.0


@pytest.fixture
def storage(tmp_path):
    """A folder, whose times a test can change."""
    return Storage(f"file://{tmp_path}/storage")


def age(tmp_path: Path, days: float, below: str = "") -> None:
    """Make everything below a name older."""
    for path in (tmp_path / "storage" / below).rglob("*"):
        os.utime(path, (time.time() - days * DAY,) * 2)


def publish(storage, tmp_path, user=USER):
    """Publish prepared data as training does; returns its name."""
    data = write_prepared(tmp_path / "data", blobs(4))
    return data_name(publish_inputs(storage, data, user=user, cache_gib=1, weights=False, sending=print).digest)


def by_name(storage):
    return {thing.name: thing for thing in list_stored(storage)}


def test_data_is_kept_while_a_user_holds_its_lease(storage, tmp_path):
    with lease(storage, USER):
        name = publish(storage, tmp_path)
        age(tmp_path, 40, name)
        found = by_name(storage)[name]
        assert [held for held, _ in found.held] == [USER]
        assert found.held[0][1].process == os.getpid()
        assert prune.prune(storage, [found]) == []
    (found,) = prune.prune(storage, [by_name(storage)[name]])
    assert found.name == name
    assert set(by_name(storage)) == {OTHER}


def test_a_user_that_begins_after_the_listing_keeps_the_data(storage, tmp_path):
    name = publish(storage, tmp_path)
    listed = by_name(storage)[name]
    assert listed.removable
    with lease(storage, USER):
        publish(storage, tmp_path)
        assert prune.prune(storage, [listed]) == []
        assert storage.read(f"{name}/{MANIFEST}")


def test_a_user_waits_for_a_removal_and_sends_the_data_again(storage, tmp_path, monkeypatch):
    name = publish(storage, tmp_path)
    order = []
    real = Storage.delete_below

    def delete_slowly(self, prefix):
        time.sleep(1)
        real(self, prefix)
        order.append("removed")

    monkeypatch.setattr(Storage, "delete_below", delete_slowly)
    removal = threading.Thread(target=prune.prune, args=(storage, [by_name(storage)[name]]))
    removal.start()
    while any(entry.name == f"{name}/{MANIFEST}" for entry in storage.entries(name)):
        time.sleep(0.01)
    with lease(storage, USER):
        publish(storage, tmp_path)
        order.append("published")
        removal.join()
        assert order == ["removed", "published"]
        assert by_name(storage)[name].held
        assert storage.read(f"{name}/{MANIFEST}")


def test_a_holder_that_died_keeps_nothing(storage, tmp_path):
    held = lease(storage, USER)
    held.__enter__()  # and no beat, as if its process were killed
    name = publish(storage, tmp_path)
    assert by_name(storage)[name].held
    age(tmp_path, 1)
    assert by_name(storage)[name].unused_days == pytest.approx(1, abs=0.01)
    assert by_name(storage)[name].removable
    held.__exit__(None, None, None)


def test_the_last_use_counts_and_not_the_upload(storage, tmp_path):
    name = publish(storage, tmp_path)
    age(tmp_path, 40)
    assert by_name(storage)[name].unused_days == pytest.approx(40, abs=0.01)
    note_use(storage, name, USER)
    assert by_name(storage)[name].unused_days == pytest.approx(0, abs=0.01)


def test_work_is_listed_as_finished_or_not_and_kept_while_it_is_held(storage):
    for key in ("done", "left", "running"):
        storage.write(f"work/train/{key}/curves/0", b"12345")
    mark_finished(storage, "train", "done")
    with lease(storage, "work/train/running"):
        found = by_name(storage)
        assert {name: thing.finished for name, thing in found.items() if name != OTHER} == {
            "work/train/done": True,
            "work/train/left": False,
            "work/train/running": False,
        }
        assert (found["work/train/left"].size, found["work/train/left"].objects) == (5, 1)
        removed = prune.prune(storage, found.values())
        assert [thing.name for thing in removed] == ["work/train/done", "work/train/left"]
        assert set(by_name(storage)) == {"work/train/running", OTHER}


def test_weights_are_kept_for_their_users(storage, tmp_path, monkeypatch):
    file = tmp_path / "weights.pt"
    file.write_bytes(b"weights")
    monkeypatch.setattr(inputs, "inception_file", lambda: file)
    data = write_prepared(tmp_path / "data", blobs(4))
    with lease(storage, USER):
        publish_inputs(storage, data, user=USER, cache_gib=1, weights=True, sending=print)
        assert by_name(storage)[WEIGHTS].held
    assert by_name(storage)[WEIGHTS].removable
    prune.prune(storage, [by_name(storage)[WEIGHTS]])
    with pytest.raises(MissingObjectError):
        storage.read(f"{WEIGHTS}/{inputs.INCEPTION_FILE}")


def test_what_gantry_did_not_write_is_left_alone(storage, tmp_path):
    publish_folder(storage, "mine/photos", write_prepared(tmp_path / "data", blobs(4)))
    (found,) = list_stored(storage)
    assert (found.name, found.removable) == (OTHER, False)
