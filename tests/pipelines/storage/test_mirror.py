"""What a worker writes reaches the driver and the worker after it, once and in order; a replaced one changes nothing."""

import json
import random
import threading

import pytest

from gan_core.errors import StageError
from gan_core.files import atomic_write, sha256_file
from pipelines.storage import mirror
from pipelines.storage.journal import ReplacedError
from pipelines.storage.mirror import Mirror, MirrorWriter
from pipelines.storage.objects import Storage, StorageError

LOGS, CHECKPOINTS = ("*.jsonl",), ("checkpoints/*",)


def writer(storage, folder, epoch=1, **more):
    made = MirrorWriter(storage, "work/key", folder, epoch=epoch, logs=LOGS, checkpoints=CHECKPOINTS, **more)
    made.take_over()
    return made


def add_row(folder, name, row):
    with (folder / name).open("a") as file:
        file.write(json.dumps(row) + "\n")


def put(folder, name, content):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_follower_sees_what_the_writer_has(storage, tmp_path):
    here, there = tmp_path / "worker", tmp_path / "driver"
    source, follower = writer(storage, here), Mirror(storage, "work/key", there)
    for step in range(3):
        add_row(here, "curves.jsonl", {"step": step})
        put(here, f"checkpoints/step-{step}/tensors", bytes([step]) * 1000)
        put(here, f"grids/{step}.png", b"picture %d" % step)
        (here / f"checkpoints/step-{step - 1}/tensors").unlink(missing_ok=True)
        source.sync()
        follower.pull()
        assert contents(there) == contents(here)
    assert follower.pull() == 0
    (here / "grids/0.png").unlink()
    source.sync()
    follower.pull()
    assert "grids/0.png" in contents(there), "only checkpoints are removed"


def test_a_row_that_is_not_written_to_its_end_waits(storage, tmp_path):
    here, there = tmp_path / "worker", tmp_path / "driver"
    source, follower = writer(storage, here), Mirror(storage, "work/key", there)
    (here / "curves.jsonl").write_text('{"step": 1}\n{"st')
    source.sync()
    follower.pull()
    assert (there / "curves.jsonl").read_text() == '{"step": 1}\n'
    with (here / "curves.jsonl").open("a") as file:
        file.write('ep": 2}\n')
    source.sync()
    follower.pull()
    assert (there / "curves.jsonl").read_text() == '{"step": 1}\n{"step": 2}\n'


def test_a_log_larger_than_a_segment_is_sent_in_parts(storage, tmp_path, monkeypatch):
    monkeypatch.setattr(mirror, "_LONGEST", 100)
    here, there = tmp_path / "worker", tmp_path / "driver"
    source, follower = writer(storage, here), Mirror(storage, "work/key", there)
    (here / "curves.jsonl").write_text("".join(f"{'x' * (number * 7 % 300)}\n" for number in range(50)))
    source.sync()
    follower.pull()
    assert contents(there) == contents(here)


def test_a_new_worker_goes_on_from_the_mirror_and_the_old_one_is_stopped(storage, tmp_path):
    old_folder, new_folder, there = tmp_path / "old", tmp_path / "new", tmp_path / "driver"
    old, follower = writer(storage, old_folder), Mirror(storage, "work/key", there)
    add_row(old_folder, "curves.jsonl", {"step": 1})
    put(old_folder, "checkpoints/step-1/tensors", b"1")
    old.sync()
    add_row(old_folder, "curves.jsonl", {"step": 2, "by": "old"})

    new = writer(storage, new_folder)
    assert contents(new_folder) == {"curves.jsonl": b'{"step": 1}\n', "checkpoints/step-1/tensors": b"1"}
    with pytest.raises(ReplacedError, match=r"has taken over work/key.*this one has 1\.1.*cut off"):
        old.sync()
    add_row(new_folder, "curves.jsonl", {"step": 2, "by": "new"})
    new.sync()
    follower.pull()
    assert (there / "curves.jsonl").read_bytes() == (new_folder / "curves.jsonl").read_bytes()


def test_a_worker_of_an_earlier_lease_cannot_take_over(storage, tmp_path):
    writer(storage, tmp_path / "new", epoch=2)
    with pytest.raises(StageError, match="has taken over work/key") as refused:
        writer(storage, tmp_path / "old", epoch=1)
    assert not isinstance(refused.value, ReplacedError), "its driver has to hear of it"


def test_a_driver_that_was_killed_in_the_middle_continues(storage, tmp_path):
    here, there = tmp_path / "worker", tmp_path / "driver"
    source = writer(storage, here)
    for step in range(10):
        add_row(here, "curves.jsonl", {"step": step})
        source.sync()
    (there / "curves.jsonl").parent.mkdir()
    (there / "curves.jsonl").write_bytes((here / "curves.jsonl").read_bytes()[:50])
    Mirror(storage, "work/key", there).pull()
    assert contents(there) == contents(here)


def test_a_file_that_is_of_another_run_is_not_continued(storage, tmp_path):
    here, there = tmp_path / "worker", tmp_path / "driver"
    source = writer(storage, here)
    add_row(here, "curves.jsonl", {"step": 1})
    source.sync()
    put(there, "curves.jsonl", b'{"step": 7}\n{"step": 8}\n')
    with pytest.raises(StorageError, match=r"curves.jsonl differs from its mirror .*Remove the one that is wrong"):
        Mirror(storage, "work/key", there).pull()


def test_a_follower_keeps_only_what_it_accepts(storage, tmp_path):
    here, there = tmp_path / "worker", tmp_path / "driver"
    source = writer(storage, here)
    put(here, "checkpoints/step-1/tensors", b"1")
    put(here, "generator/weights", b"2")
    source.sync()
    Mirror(storage, "work/key", there, accept=lambda name: not name.startswith("checkpoints/")).pull()
    assert contents(there) == {"generator/weights": b"2"}


def test_while_the_storage_is_away_changes_wait(tmp_path, monkeypatch):
    storage = Storage(f"file://{tmp_path}/storage")
    here, there = tmp_path / "worker", tmp_path / "driver"
    source = writer(storage, here)
    away = [True]
    original = Storage.create
    monkeypatch.setattr(Storage, "create", lambda *given: refuse() if away[0] else original(*given))

    def refuse():
        raise StorageError("away")

    with source.running(every=0.02):
        for step in range(20):
            add_row(here, "curves.jsonl", {"step": step})
            put(here, "checkpoints/last", b"%d" % step)
            if step == 15:
                away[0] = False
    Mirror(storage, "work/key", there).pull()
    assert contents(there) == contents(here)


def test_what_a_failed_pull_has_not_brought_the_next_one_brings(tmp_path, monkeypatch):
    storage = Storage(f"file://{tmp_path}/storage")
    here, there = tmp_path / "worker", tmp_path / "driver"
    source, follower = writer(storage, here), Mirror(storage, "work/key", there)
    for step in range(3):
        add_row(here, "curves.jsonl", {"step": step})
        put(here, f"generator/{step}", b"%d" % step)
        source.sync()
    left = [0]

    def away_after(original):
        def request(self, *given):
            left[0] -= 1
            if left[0] < 0:
                raise StorageError("away")
            return original(self, *given)

        return request

    for name in ("read", "download"):
        monkeypatch.setattr(Storage, name, away_after(getattr(Storage, name)))
    for answered in (2, 4, 100):  # away while the journal is read, and while files are fetched
        left[0] = answered
        if answered < 100:
            with pytest.raises(StorageError, match="away"):
                follower.pull()
    follower.pull()
    assert contents(there) == contents(here)


def test_a_file_that_is_removed_while_another_host_fetches_it_is_passed_over(storage, tmp_path, monkeypatch):
    old_folder, new_folder = tmp_path / "old", tmp_path / "new"
    old = writer(storage, old_folder)
    for step in (1, 2):
        put(old_folder, f"checkpoints/{step}", b"%d" % step)
    old.sync()
    original = Storage.download

    def remove_first(self, *given):
        monkeypatch.setattr(Storage, "download", original)
        (old_folder / "checkpoints/1").unlink()
        old.sync()
        return original(self, *given)

    monkeypatch.setattr(Storage, "download", remove_first)
    writer(storage, new_folder)
    assert contents(new_folder) == {"checkpoints/2": b"2"}


def test_content_that_the_storage_has_lost_is_an_error_and_a_worker_goes_on_without_it(storage, tmp_path, caplog):
    here = tmp_path / "worker"
    source = writer(storage, here)
    for step in (1, 2):
        put(here, f"checkpoints/{step}", b"%d" % step)
    source.sync()
    storage.delete(f"work/key/blobs/{sha256_file(here / 'checkpoints/1')}")
    with pytest.raises(StorageError, match=r"work/key is damaged: the content of checkpoints/1 is missing\. Remove"):
        Mirror(storage, "work/key", tmp_path / "driver").pull()
    writer(storage, tmp_path / "next")
    assert contents(tmp_path / "next") == {"checkpoints/2": b"2"}
    assert "has lost the content of checkpoints/1" in caplog.text


def test_a_segment_whose_answer_was_lost_does_not_end_its_writer(tmp_path, monkeypatch):
    storage = Storage(f"file://{tmp_path}/storage")
    here, there = tmp_path / "worker", tmp_path / "driver"
    source = writer(storage, here)
    add_row(here, "curves.jsonl", {"step": 1})
    original = Storage.create

    def unheard(self, *given):
        original(self, *given)
        raise StorageError("no answer")

    monkeypatch.setattr(Storage, "create", unheard)
    with pytest.raises(StorageError, match="no answer"):
        source.sync()
    monkeypatch.setattr(Storage, "create", original)
    add_row(here, "curves.jsonl", {"step": 2})
    put(here, "checkpoints/2", b"2")
    source.sync()
    Mirror(storage, "work/key", there).pull()
    assert contents(there) == contents(here)


def test_a_file_that_the_trainer_removes_while_it_is_sent_is_left_out(storage, tmp_path, monkeypatch):
    monkeypatch.setattr(mirror, "_SMALL", 0)
    here, there = tmp_path / "worker", tmp_path / "driver"
    source = writer(storage, here)
    put(here, "checkpoints/1", b"1")
    put(here, "checkpoints/2", b"2")
    original = Storage.write

    def write(self, name, content):
        if content == here / "checkpoints/1":
            content.unlink()
        original(self, name, content)

    monkeypatch.setattr(Storage, "write", write)
    source.sync()
    Mirror(storage, "work/key", there).pull()
    assert contents(there) == {"checkpoints/2": b"2"}


def test_a_file_that_grows_while_it_is_sent_arrives_undamaged(storage, tmp_path, monkeypatch):
    here, there = tmp_path / "worker", tmp_path / "driver"
    source, follower = writer(storage, here), Mirror(storage, "work/key", there)
    put(here, "events/artifacts/1.png", b"first half")
    original = Storage.write

    def write(self, name, content):
        put(here, "events/artifacts/1.png", b"first half, second half")
        original(self, name, content)

    monkeypatch.setattr(Storage, "write", write)
    source.sync()
    follower.pull()
    source.sync()
    follower.pull()
    assert contents(there) == contents(here)


def test_the_trainer_may_add_and_remove_folders_during_a_sync(tmp_path):
    here = tmp_path / "worker"
    source = writer(Storage(f"file://{tmp_path}/storage"), here)
    over = threading.Event()

    def train():
        while not over.is_set():
            with atomic_write(here / "checkpoints" / "step-1") as temporary:
                temporary.mkdir()
                (temporary / "tensors").touch()

    thread = threading.Thread(target=train)
    thread.start()
    try:
        for _ in range(2000):
            source._names()
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_interrupted_no_row_is_lost_or_doubled(tmp_path, monkeypatch, seed):
    """Workers one after the other, each of which ends at a random request to the storage; a driver that pulls in between."""
    numbers = random.Random(seed)
    storage, there = Storage(f"file://{tmp_path}/storage"), tmp_path / "driver"
    left = [0]

    class KilledError(Exception):
        pass

    for name in ("create", "write", "read", "delete"):
        original = getattr(Storage, name)

        def request(self, *given, original=original):
            left[0] -= 1
            if left[0] < 0:
                raise KilledError
            result = original(self, *given)
            if left[0] == 0 and numbers.random() < 0.5:
                raise KilledError  # done, but nobody hears of it
            return result

        monkeypatch.setattr(Storage, name, request)

    step = 0
    for attempt in range(30):
        here = tmp_path / f"worker-{attempt}"
        left[0] = numbers.randrange(5, 60)
        try:
            source = writer(storage, here)
            rows = (here / "curves.jsonl").read_text().split() if (here / "curves.jsonl").exists() else []
            assert [int(row) for row in rows] == list(range(len(rows)))
            newest = max((int(path.name) for path in (here / "checkpoints").glob("*")), default=-1)
            assert newest < len(rows), "the log reaches at least as far as the checkpoint"
            step = len(rows)
            while True:
                add_row(here, "curves.jsonl", step)
                put(here, f"checkpoints/{step}", b"x" * step)
                (here / f"checkpoints/{step - 2}").unlink(missing_ok=True)
                step += 1
                source.sync()
        except KilledError:
            pass
        left[0] = 10_000
        Mirror(storage, "work/key", there).pull()
    rows = [int(row) for row in (there / "curves.jsonl").read_text().split()]
    assert rows == list(range(len(rows)))
    assert len(rows) > 20
