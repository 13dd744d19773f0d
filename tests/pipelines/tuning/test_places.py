"""With a storage, a trial works on the disk of its host, and what it records reaches the driver's host."""

import dataclasses
import itertools
import json
import shutil

import pytest

from gan_core.errors import StageError
from gan_core.training.start import Start
from pipelines.storage.folders import fetch_folder
from pipelines.tracking import RunLog
from pipelines.tuning.places import TrialFollower, TrialsInStorage, trial_run_key, trials_in_storage
from tests.datasets import blobs, write_prepared


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.storage.inputs.publish_weights", lambda *_: None)
    monkeypatch.setattr("pipelines.storage.inputs.fetch_weights", lambda *_: None)
    data = write_prepared(tmp_path / "data", blobs(8))
    with trials_in_storage(f"file://{tmp_path}/storage", "key", data, cache_gib=1) as place:
        yield place


def record(files, trial, step):
    with RunLog(files.events, key=trial_run_key("search", trial), name=trial) as log:
        log.log_metrics({"fid": 1.0}, step)


def metrics(folder, trial):
    log = (folder / trial_run_key("search", trial) / "events.jsonl").read_text()
    return [event["step"] for event in map(json.loads, log.splitlines()) if event["kind"] == "metrics"]


def test_events_reach_the_driver_once_and_a_trial_goes_on_with_its_log_on_another_host(place, tmp_path):
    follower = TrialFollower(place, tmp_path / "mirrors", tmp_path / "events", "search")
    with follower.running():
        with place.on_trial("t1") as files:
            assert (files.data.folder / "dataset.json").is_file()
            assert not files.work.exists()
            record(files, "t1", 10)
            record(files, "t1", 20)
            files.sync()
            follower.pull(everything=True)
            assert metrics(tmp_path / "events", "t1") == [10, 20]
        with place.on_trial("t2") as files:
            record(files, "t2", 10)
        with place.on_trial("t1") as files:  # it resumes from the checkpoint of step 10
            record(files, "t1", 20)
            record(files, "t1", 30)
    assert metrics(tmp_path / "events", "t1") == [10, 20, 30]
    assert metrics(tmp_path / "events", "t2") == [10]

    elsewhere = TrialFollower(place, tmp_path / "other-mirrors", tmp_path / "other-events", "search")
    elsewhere.pull()
    assert metrics(tmp_path / "other-events", "t1") == [10, 20, 30]


def test_a_host_without_the_run_to_start_from_gets_it_once_by_its_content(place, tmp_path, monkeypatch):
    (tmp_path / "parent").mkdir()
    (tmp_path / "parent" / "start.json").write_text("{}")
    start = Start(name="faces/3", digest="a" * 64, images_seen=8, folder=tmp_path / "parent")
    fetched, fetch = [], fetch_folder
    monkeypatch.setattr("pipelines.tuning.places.fetch_folder", lambda *args: fetched.append(args) or fetch(*args))
    monkeypatch.setattr("pipelines.tuning.places.user_cache_dir", lambda: tmp_path / "host")
    with place.on_trial("t1") as files:
        assert files.start is None, "this search starts from random weights"
    data = tmp_path / "data"
    with trials_in_storage(f"file://{tmp_path}/storage", "other", data, cache_gib=1, start=start):
        pass
    shutil.rmtree(tmp_path / "parent")
    # Another driver goes on, on a host without the files.
    start = dataclasses.replace(start, folder=None)
    with trials_in_storage(f"file://{tmp_path}/storage", "other", data, cache_gib=1, start=start) as other:
        for trial in ("t1", "t2"):
            with other.on_trial(trial) as files:
                assert [path.name for path in files.start.iterdir()] == ["start.json"]
    assert len(fetched) == 1


def test_a_trial_that_was_replaced_is_told_before_it_sends_a_checkpoint(place):
    def replaced():
        with place.on_trial("t1") as old:
            with place.on_trial("t1") as new:
                record(new, "t1", 10)
            record(old, "t1", 10)
            old.sync()

    with pytest.raises(StageError, match="Another process has taken over work/tune/key/trials/t1"):
        replaced()


def test_a_trial_of_an_earlier_driver_cannot_begin(place):
    old = TrialsInStorage(name=place.name, epoch=place.epoch, inputs=place.inputs)
    new = TrialsInStorage(name=place.name, epoch=place.epoch + 1, inputs=place.inputs)
    with new.on_trial("t1"):
        pass
    with pytest.raises(StageError, match="taken over"), old.on_trial("t1"):
        pass


def test_trials_that_are_quiet_are_asked_more_rarely(place, tmp_path, monkeypatch):
    asked, clock = [], [0.0]
    monkeypatch.setattr("pipelines.tuning.places.time.monotonic", lambda: clock[0])
    with place.on_trial("t1") as files:
        record(files, "t1", 10)
    follower = TrialFollower(place, tmp_path / "mirrors", tmp_path / "events", "search")
    monkeypatch.setattr("pipelines.tuning.places.Mirror.pull", lambda mirror: asked.append(clock[0]) and 0)
    while clock[0] < 1000:
        follower.pull()
        clock[0] += 3
    assert asked[:2] == [0, 3]
    assert all(later - sooner >= 60 for sooner, later in itertools.pairwise(asked) if sooner > 300)
    assert len(asked) < 40
