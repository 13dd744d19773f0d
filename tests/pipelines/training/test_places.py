"""With a storage, workers keep nothing on their host but caches, and what a failed one wrote is not lost."""

import dataclasses
import errno
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

from gan_core.cache import user_cache_dir
from gan_core.data import PreparedDataset
from gan_core.errors import DataError, StageError
from gan_core.families.dcgan import DcganConfig
from gan_core.training.config import TrainConfig
from gan_core.training.trainer import Trainer
from pipelines.storage.journal import ReplacedError
from pipelines.storage.objects import StorageError
from pipelines.tracking import RunLog
from pipelines.tracking.events import read_events
from pipelines.training import places
from pipelines.training.places import CHECKPOINTS, CURVES, shared_storage
from pipelines.training.worker import save_failure
from tests.datasets import blobs, write_prepared


@pytest.fixture
def place(tmp_path):
    data = write_prepared(tmp_path / "data", blobs(8))
    uri, work = f"file://{tmp_path}/storage", tmp_path / "work" / "key"
    work.mkdir(parents=True)
    with shared_storage(uri, work, data, cache_gib=1, events=None) as place:
        yield place


def test_every_worker_has_the_data_and_the_next_first_worker_what_the_last_one_wrote(place):
    for row in range(2):
        with place.on_worker(0) as files:
            assert (files.data / "dataset.json").is_file()
            assert len((files.work / CURVES).read_text().split()) == row if row else not (files.work / CURVES).exists()
            with (files.work / CURVES).open("a") as file:
                file.write(f"{row}\n")
        assert not files.work.exists()
    with place.on_worker(1) as files:
        assert files.data.is_dir()
        assert list(files.work.iterdir()) == []


def test_what_a_failed_worker_wrote_reaches_the_storage(place):
    def fail():
        with place.on_worker(0) as files:
            (files.work / CHECKPOINTS / "step-1").mkdir(parents=True)
            (files.work / CHECKPOINTS / "step-1" / "tensors").write_bytes(b"1")
            raise DataError("broken")

    with pytest.raises(DataError, match="broken"):
        fail()
    with place.on_worker(0) as files:
        assert (files.work / CHECKPOINTS / "step-1" / "tensors").read_bytes() == b"1"


def test_the_end_of_a_replaced_worker_does_not_fail_the_run(place):
    """A host that was cut off comes back while the driver has gone on with another one."""
    with pytest.raises(ReplacedError), save_failure(place, 1):
        raise ReplacedError("another process has taken over")
    assert place.failure() is None


@pytest.mark.parametrize("workers", [1, 2])
def test_a_storage_that_is_away_for_a_while_does_not_end_the_run(place, workers):
    """Ray starts the worker again, which would end at once if its error were kept."""
    with pytest.raises(StorageError), save_failure(place, workers):
        raise StorageError("the storage does not answer")
    assert place.failure() is None


def test_news_go_on_after_the_disk_was_full(monkeypatch, caplog):
    monkeypatch.setattr(places, "_PULL_SECONDS", 0.01)
    pulls = 0

    def pull():
        nonlocal pulls
        pulls += 1
        if pulls == 1:
            raise OSError(errno.ENOSPC, "No space left on device", "curves.jsonl")

    deadline = time.monotonic() + 20
    with places.pulling(pull, "the workers"):
        while pulls < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert pulls >= 3
    assert "No news from the workers" in caplog.text


def test_an_error_of_a_worker_is_kept_with_its_host(place):
    assert place.failure() is None
    place.save_failure(DataError("there is no data"))
    place.save_failure(StageError("a later one"))
    failure = place.failure()
    assert isinstance(failure, DataError)
    assert str(failure).startswith("there is no data (on host ")


def test_the_folder_of_a_killed_worker_is_removed_by_the_next(place):
    program = (
        "import os, signal, sys; from pipelines.runtime.owned import scratch_folder\n"
        "with scratch_folder('work') as folder:\n    (folder / 'x').touch(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", program], check=False)
    assert len(list((user_cache_dir() / "work").iterdir())) == 1
    with place.on_worker(1) as files:
        assert [path for path in (user_cache_dir() / "work").iterdir()] == [files.work.parent]


def test_data_larger_than_the_cache_is_streamed_from_the_storage(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (80, 3, 32, 32), dtype=np.uint8)
    data = write_prepared(tmp_path / "data", pixels, shards=2, row_group=4)
    uri, work = f"file://{tmp_path}/storage", tmp_path / "work" / "key"
    work.mkdir(parents=True)
    limit = sum(path.stat().st_size for path in data.iterdir()) // 2
    with (
        shared_storage(uri, work, data, cache_gib=limit / 2**30, events=None) as place,
        place.on_worker(1) as files,
    ):
        assert place.inputs.streams
        assert [path.name for path in files.data.iterdir()] == ["dataset.json"]
        dataset = PreparedDataset(files.data, shards=files.shards)
        np.testing.assert_array_equal(dataset.pixels()[:], pixels)
        model, config = DcganConfig(width=8, latent=16), TrainConfig(steps=3, batch=8, stream_gib=limit / 2**30)
        trainer = Trainer("dcgan", model, dataset, config, files.work / CHECKPOINTS, device="cpu")
        trainer.run()
        assert trainer.step == 3
        cached = [path.stat().st_size for path in (user_cache_dir() / "row-groups").iterdir()]
        assert 0 < sum(cached) <= limit
    assert not (user_cache_dir() / "prepared").exists()


def test_work_that_the_storage_has_lost_is_made_and_recorded_anew(tmp_path, capsys):
    """As after ``gantry storage --prune``: the driver still has what it brought from there."""
    data, work, events = write_prepared(tmp_path / "data", blobs(8)), tmp_path / "work" / "key", tmp_path / "log"
    work.mkdir(parents=True)
    for row in (1, 2):
        with (
            shared_storage(f"file://{tmp_path}/storage", work, data, cache_gib=1, events=events) as place,
            place.on_worker(0) as files,
        ):
            (files.work / CURVES).write_text(f'{{"step": {row}}}\n')
            with RunLog(files.events, key=events.name, name="n") as log:
                log.log_metrics({"a": row}, row)
        assert (work / CURVES).read_text() == f'{{"step": {row}}}\n'
        assert ("begins anew" in capsys.readouterr().out) is (row == 2)
        shutil.rmtree(tmp_path / "storage" / "work")
    recorded = [event["values"]["a"] for event, _ in read_events(events) if event and event["kind"] == "metrics"]
    assert recorded == [1, 2]


def test_ray_keeps_its_state_through_our_own_client_which_knows_all_addresses(place, monkeypatch):
    for name, value in {"NAME": "account", "KEY": "c2VjcmV0"}.items():
        monkeypatch.setenv(f"AZURE_STORAGE_ACCOUNT_{name}", value)
    azure = dataclasses.replace(place, uri="az://container/prefix").ray_storage()
    assert azure["storage_path"] == f"container/prefix/{place.name}/ray"
    assert azure["storage_filesystem"].type_name == "py::fsspec+az"
