"""Training under Ray Train survives a killed worker with identical weights, and reports clear errors."""

import contextlib
import dataclasses
import os
import shutil
import signal
import sys
import threading
import time
import types
from pathlib import Path

import psutil
import pytest
import torch

from gan_core.checkpoint import save_checkpoint
from gan_core.data import PreparedDataset
from gan_core.errors import DataError, SettingsError, StageError, TrainingDivergedError
from gan_core.shards import FolderShards
from gan_core.training.length import read_length
from gan_core.training.start import Start, open_start
from gan_core.training.trainer import Trainer
from pipelines.settings.schema import Settings
from pipelines.tracking.events import find_logs, read_events
from pipelines.training.curves import FID, read_curves
from pipelines.training.fit import _why_died, fit, is_exported, newest_checkpoint_step
from pipelines.training.kept import check_kept, note_kept, torch_tags
from pipelines.training.places import (
    CHECKPOINTS,
    CURVES,
    GENERATOR,
    START,
    SharedDisk,
    shared_storage,
)
from pipelines.training.run_tags import DEVICE, PICTURES, WORKERS
from pipelines.training.worker import save_failure
from tests.datasets import blobs, write_prepared
from tests.pipelines.settings_example import small_settings
from tests.pipelines.toy import command_line, listeners, wait_for


class Killer(threading.Thread):
    """Kills the train worker after it has written a given number of rows of metrics."""

    def __init__(self, curves: Path, rows: int) -> None:
        super().__init__(daemon=True)
        self._curves, self._rows = curves, rows
        self.killed: list[int] = []

    def run(self) -> None:
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline and len(read_curves(self._curves)) < self._rows:
            time.sleep(0.05)
        for process in psutil.Process().children(recursive=True):
            if "RayTrainWorker" in command_line(process):
                os.kill(process.pid, signal.SIGKILL)
                self.killed.append(process.pid)


def _train_parent(place: Path, data: Path, settings: Settings) -> Start:
    """A short run that another one starts from."""
    config = dataclasses.replace(settings.with_steps(4).train.trainer_config(), start_from=None, fid_every=0, seed=1)
    trainer = Trainer(
        settings.model.family, settings.model.config, PreparedDataset(data), config, place / "earlier", device="cpu"
    )
    trainer.run()
    trainer.export_start(place / "parent")
    return open_start(place / "parent", "parent")


@pytest.mark.ray
@pytest.mark.weights
@pytest.mark.parametrize("place", ["disk", "storage"])
def test_a_killed_worker_is_replaced_and_the_weights_are_byte_identical(
    tmp_path: Path, ray_cluster: str, weights_file: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a storage, driver and workers exchange everything through it, as on several hosts. There, the steps are those that
    fit into a time budget, and the worker that replaces the killed one does not measure again. There, too, a damaged generator
    is exported again, from the checkpoints in the storage."""
    if place == "storage":
        monkeypatch.setenv("GANTRY_STORAGE_URI", f"file://{tmp_path}/storage")
    data = write_prepared(tmp_path / "data", blobs(64))
    every = {"log_every": 10, "checkpoint_every": 20, "fid_every": 100_000, "fid_samples": 8}
    length = {"train__steps": 240} if place == "disk" else {"train__minutes": 0.35}
    settings = small_settings(
        **length, train__start_from="parent", **{f"train__{name}": value for name, value in every.items()}
    )
    work = tmp_path / "work" / "key"
    work.mkdir(parents=True)
    start = _train_parent(tmp_path, data, settings)
    killer = Killer(work / CURVES, rows=4)
    killer.start()
    track = tmp_path / "track"
    fit(work, data, settings, run_key="key", run_name="train", track=track, start=start, start_folder=start.folder)
    killer.join()
    assert killer.killed, "the worker finished before it could be killed; increase the steps of this test"
    decided = read_length(work)
    steps = decided.steps if decided else 240
    logged = [*range(10, steps, 10), steps]

    assert (decided is None) == (place == "disk")
    alone = Trainer(
        settings.model.family,
        settings.model.config,
        PreparedDataset(data),
        settings.with_steps(steps).train.trainer_config(),
        tmp_path / "alone",
        device="cpu",
        start=start,
    )
    # Use as many threads as the worker had, one per CPU, because rounding depends on the order of sums.
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        alone.run()
        alone.export_start(tmp_path / "alone-start")
        alone.export(tmp_path / "alone-generator")
    finally:
        torch.set_num_threads(threads)
    weights = "generator.safetensors"
    assert (work / GENERATOR / weights).read_bytes() == (tmp_path / "alone-generator" / weights).read_bytes()
    assert {path.name: path.read_bytes() for path in (work / START).iterdir()} == {
        path.name: path.read_bytes() for path in (tmp_path / "alone-start").iterdir()
    }, "what a later run starts from differs"
    rows = read_curves(work / CURVES).set_index("step")
    assert list(rows.index) == logged
    assert list(rows[FID].dropna().index) == [steps]
    (log,) = find_logs(tmp_path / "track")
    stamps = {event["values"].get("gantry.fid_protocol") for event, _ in read_events(log) if event["kind"] == "tags"}
    assert any("8 against 8 real of train" in stamp for stamp in stamps if stamp)
    tags = {name for event, _ in read_events(log) if event["kind"] == "tags" for name in event["values"]}
    assert {DEVICE, WORKERS, PICTURES} <= tags, "gantry plan finds the speed of this run by them"
    said = {event["values"].get("train.steps") for event, _ in read_events(log) if event["kind"] == "params"}
    assert said == ({str(steps)} if decided else set())

    if place == "disk":
        return
    # A generator that was damaged by a write is exported again without training again.
    assert is_exported(work)
    with (work / GENERATOR / weights).open("r+b") as damaged:
        damaged.seek(-1, os.SEEK_END)
        damaged.write(b"\x7f")
    assert not is_exported(work)
    fit(work, data, settings, run_key="key", run_name="train", track=None, start=start, start_folder=start.folder)
    assert (work / GENERATOR / weights).read_bytes() == (tmp_path / "alone-generator" / weights).read_bytes()
    assert list(read_curves(work / CURVES)["step"]) == logged


@pytest.mark.ray
def test_data_larger_than_the_cache_is_streamed_from_the_storage_with_the_same_result(
    tmp_path: Path, ray_cluster: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GANTRY_STORAGE_URI", f"file://{tmp_path}/storage")
    data = write_prepared(tmp_path / "data", blobs(256), row_group=16)
    cache = sum(path.stat().st_size for path in data.iterdir()) / 2**30 / 2
    settings = small_settings(train__steps=12, train__num_workers=1, storage__cache_gib=cache)
    work = tmp_path / "work" / "key"
    work.mkdir(parents=True)
    fit(work, data, settings, run_key="key", run_name="train", track=None)
    assert "streaming the training data" in capsys.readouterr().out

    family, config = settings.model.family, settings.train.trainer_config()
    streamed = PreparedDataset(data, shards=FolderShards(data))
    alone = Trainer(family, settings.model.config, streamed, config, tmp_path / "alone", device="cpu")
    threads = torch.get_num_threads()
    torch.set_num_threads(2)  # those of the worker
    try:
        alone.run()
        alone.export(tmp_path / "alone-generator")
    finally:
        torch.set_num_threads(threads)
    weights = "generator.safetensors"
    assert (work / GENERATOR / weights).read_bytes() == (tmp_path / "alone-generator" / weights).read_bytes()


def test_data_that_the_family_does_not_support_is_refused_before_ray_starts(tmp_path: Path) -> None:
    data = write_prepared(tmp_path / "data", blobs(16, size=12))
    with pytest.raises(SettingsError, match=r"ingest.size"):
        fit(tmp_path / "work", data, small_settings(), run_key="key", run_name="train", track=None)


def test_a_run_does_not_begin_anew_because_its_checkpoints_are_elsewhere(tmp_path: Path) -> None:
    data, work = write_prepared(tmp_path / "data", blobs(16)), tmp_path / "work" / "key"
    one, other = (f"file://{tmp_path}/{name}" for name in ("one", "other"))

    def refused(uri: str, message: str) -> None:
        with pytest.raises(StageError, match=message):
            fit(work, data, small_settings(storage__uri=uri), run_key="key", run_name="train", track=None)

    save_checkpoint(work / CHECKPOINTS, 10, {"x": torch.zeros(1)}, {})
    refused(one, f"keeps its work in {work}, and .* anew in {one}. To go on with it, unset storage.uri and GANTRY_STOR")
    shutil.rmtree(work)
    with shared_storage(one, work, data, cache_gib=1, events=None) as place, place.on_worker(0) as files:
        note_kept(work, one, [])
        (files.work / CURVES).write_text('{"step": 5}\n')
    for uri in (other, ""):
        refused(uri, f"keeps its work in {one}, .* set storage.uri or GANTRY_STORAGE_URI to {one}. .* remove {work}")
    assert not (tmp_path / "other").exists()
    check_kept("train", work, one, on_disk=CHECKPOINTS, brought=CURVES)
    (work / CURVES).unlink()  # nothing was made there
    check_kept("train", work, other, on_disk=CHECKPOINTS, brought=CURVES)


def test_a_run_that_goes_on_with_another_torch_says_so_and_is_tagged(tmp_path: Path, monkeypatch, capsys) -> None:
    def begin(version: str) -> dict[str, str]:
        monkeypatch.setattr(torch, "__version__", version)
        note_kept(tmp_path, "", check_kept("train", tmp_path, "", on_disk=CHECKPOINTS, brought=CURVES))
        return torch_tags(tmp_path)

    assert begin("1.0") == begin("2.0") == {}, "nothing had been made with the first one"
    (tmp_path / CURVES).touch()
    assert begin("2.0") == {}
    assert capsys.readouterr().out == ""
    assert begin("3.0") == {"gantry.torch_version": "2.0, then 3.0"}
    assert "had torch 2.0, and this one goes on with torch 3.0" in capsys.readouterr().out
    assert begin("3.0") == {"gantry.torch_version": "2.0, then 3.0"}


def test_a_run_resumes_from_the_newest_complete_checkpoint(tmp_path: Path) -> None:
    assert newest_checkpoint_step(tmp_path) == 0
    for step in (20, 40, 60):
        path = save_checkpoint(tmp_path, step, {"x": torch.zeros(1)}, {})
    (path / "state.json").unlink()
    assert newest_checkpoint_step(tmp_path) == 40


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_the_trainer_reaches_the_driver(tmp_path: Path, workers: int) -> None:
    place = SharedDisk(work=str(tmp_path), data="", events="")
    assert place.failure() is None
    # A single worker may return normally; with several, the error must be raised so that the others do not wait.
    ending = pytest.raises(TrainingDivergedError) if workers > 1 else contextlib.nullcontext()
    with ending, save_failure(place, workers):
        raise TrainingDivergedError("it cannot be saved")
    assert isinstance(place.failure(), TrainingDivergedError)
    assert str(place.failure()) == "it cannot be saved"
    place.forget_failure()
    assert place.failure() is None


@pytest.mark.ray
def test_an_error_of_one_worker_ends_the_others_and_workers_listen_only_on_loopback(
    tmp_path: Path, ray_cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_fails(values: dict) -> None:
        import time
        from pathlib import Path

        import ray.train
        import torch.distributed as dist

        from gan_core.errors import DataError
        from pipelines.training.worker import save_failure

        place, context = values["job"].place, ray.train.get_context()
        work = Path(place.work)
        if place.failure():
            return
        with save_failure(place, context.get_world_size()):
            dist.barrier()
            if context.get_world_rank() == 1:
                (work / "together").touch()
                while not (work / "seen").exists():
                    time.sleep(0.1)
                raise DataError("there is no data here")
            dist.barrier()

    monkeypatch.setattr("pipelines.training.fit.train_loop_per_worker", one_fails)
    data = write_prepared(tmp_path / "data", blobs(64))
    work = tmp_path / "work" / "key"
    work.mkdir(parents=True)
    seen: list[tuple[str, int]] = []

    def look() -> None:
        wait_for((work / "together").exists, 180, "the meeting of the workers")
        seen.extend(listeners(child.pid for child in psutil.Process().children(recursive=True)))
        (work / "seen").touch()

    looking = threading.Thread(target=look)
    looking.start()
    settings = small_settings(train__steps=20, train__num_workers=2, train__max_failures=1)
    with pytest.raises(DataError, match="there is no data here"):
        fit(work, data, settings, run_key="key", run_name="train", track=None)
    took = time.time() - (work / "seen").stat().st_mtime
    looking.join()
    assert seen
    assert {ip for ip, _ in seen} <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
    assert took < 240, "the other worker waited for the one that failed"
    assert not list(work.glob("rendezvous-*"))


class _Dead:
    """A trainer whose controller dies immediately."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def fit(self) -> None:
        import ray

        signal.signal(signal.SIGINT, lambda number, frame: sys.exit(0))  # as Ray Train does
        raise ray.exceptions.ActorDiedError()


def test_a_dead_controller_gives_one_error_that_says_how_to_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Simulates the error that a real kill raises; after a real kill, Ray would hold its resources until the driver ends."""
    import ray

    from pipelines.training import local_trainer

    monkeypatch.setattr(local_trainer, "LocalTrainer", _Dead)
    nodes = [{"Alive": True, "NodeManagerHostname": "here", "Resources": {"CPU": 2.0}}]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: types.SimpleNamespace(gcs_address="127.0.0.1:1"))
    data = write_prepared(tmp_path / "data", blobs(64))
    work = tmp_path / "work" / "key"
    work.mkdir(parents=True)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(StageError, match=r"controller died .* run the stage again to resume from them"):
        fit(work, data, small_settings(), run_key="key", run_name="train", track=None)
    assert signal.getsignal(signal.SIGINT) is before, "Ray's handler would end this process with status 0"


def test_a_controller_that_could_not_be_made_says_why() -> None:
    import ray

    told = """The actor died because of an error raised in its creation task, ray::TrainController.__init__()
  File "storage.py", line 1, in get_fs_and_path
pyarrow.lib.ArrowInvalid: Unrecognized filesystem type in URI: ftp://host/folder
"""
    assert _why_died(ray.exceptions.ActorDiedError()).startswith("The actor died unexpectedly")
    assert _why_died(RuntimeError(told)).endswith("Unrecognized filesystem type in URI: ftp://host/folder")
