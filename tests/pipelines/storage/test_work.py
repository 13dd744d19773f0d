"""Finished work of a stage is removed from the storage as from the work directories; other work is kept."""

from pipelines.storage.lease import lease
from pipelines.storage.work import mark_finished, prune_finished, work_name


def keys(storage, stage="train"):
    return storage.subfolders(f"work/{stage}")


def test_finished_work_of_other_keys_is_removed(storage):
    for key in ("old", "unfinished", "used", "new"):
        with lease(storage, work_name("train", key)) as held:
            storage.write(f"work/train/{key}/journal/1", b"x")
            assert held.epoch == 1
    storage.write("work/tune/old/search/state", b"x")
    for key in ("old", "used", "new"):
        mark_finished(storage, "train", key)
    mark_finished(storage, "tune", "old")
    with lease(storage, work_name("train", "used")):
        assert prune_finished(storage, "train", "new") == ["work/train/old"]
    left = {entry.name.split("/")[2] for entry in storage.entries("work/train")}
    assert left == {"unfinished", "used", "new"}
    assert keys(storage, "tune") == ["old"]
    with lease(storage, work_name("train", "old")) as held:
        assert held.epoch == 3, "the lease still counts: an earlier holder cannot be taken for the new one"


def test_a_stage_that_left_nothing_is_not_marked(storage):
    mark_finished(storage, "ingest", "key")
    assert list(storage.entries()) == []
    assert prune_finished(storage, "ingest", "key") == []


def test_an_interrupted_removal_is_completed(storage, monkeypatch):
    storage.write("work/train/old/a", b"x")
    mark_finished(storage, "train", "old")
    storage.delete("work/train/old/a")  # and then its process was killed
    assert prune_finished(storage, "train", "new") == ["work/train/old"]
    assert list(storage.entries("work")) == []
