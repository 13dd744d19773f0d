"""The processes of a node fetch a folder once, use it together, and the cache stays within its limit."""

import contextlib
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from gan_core.locks import lock
from pipelines.storage import node_cache
from pipelines.storage.node_cache import NodeCache, PieceCache
from pipelines.storage.objects import StorageError


def fetcher(size, calls=None):
    def fetch(folder):
        folder.mkdir()
        (folder / "content").write_bytes(b"x" * size)
        if calls is not None:
            calls.append(folder.name)

    return fetch


def held(root: Path, log: Path, seconds: float, number: int) -> None:
    def fetch(folder: Path) -> None:
        with log.open("a") as file:
            file.write(f"{number}\n")
        time.sleep(0.3)
        fetcher(10)(folder)

    with NodeCache(root, 100).hold("a", fetch) as folder:
        assert (folder / "content").read_bytes() == b"x" * 10
        time.sleep(seconds)


def test_several_processes_fetch_once(tmp_path):
    # A fork of this process would inherit the threads of Ray and Prefect.
    context = multiprocessing.get_context("forkserver")
    processes = [context.Process(target=held, args=(tmp_path / "cache", tmp_path / "log", 0, n)) for n in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0] * 4
    assert len((tmp_path / "log").read_text().split()) == 1


def test_the_least_recently_used_go_first_and_what_is_in_use_stays(tmp_path):
    calls = []
    cache = NodeCache(tmp_path, 100)
    for age, name in enumerate("abc"):
        with cache.hold(name, fetcher(30, calls)):
            pass
        os.utime(tmp_path / f"{name}.lock", (age, age))
    with cache.hold("a", fetcher(30, calls)), cache.hold("d", fetcher(60, calls), size=60):
        assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["a", "d"]
    with cache.hold("b", fetcher(30, calls)):
        assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["b", "d"]
    assert calls == ["a", "b", "c", "d", "b"]


def test_what_can_never_fit_is_refused_before_it_is_fetched(tmp_path):
    with (
        pytest.raises(StorageError, match=r"holds at most 100 bytes, and a needs 200 bytes\. Raise storage\.cache_gib"),
        NodeCache(tmp_path, 100).hold("a", fetcher(200), size=200),
    ):
        pass


def test_a_fetch_that_fails_leaves_nothing_and_may_be_repeated(tmp_path):
    def fails(folder):
        raise StorageError("away")

    cache = NodeCache(tmp_path, 100)
    with pytest.raises(StorageError, match="away"), cache.hold("a", fails):
        pass
    with cache.hold("a", fetcher(10)) as folder:
        assert folder.is_dir()


def test_an_entry_appears_when_its_files_are_on_the_disk(tmp_path, monkeypatch):
    flushed = []

    def flush(descriptor):
        assert not (tmp_path / "a").exists()
        flushed.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)

    monkeypatch.setattr(os, "fsync", flush)
    with NodeCache(tmp_path, 100).hold("a", fetcher(10)) as folder:
        assert (folder / "content").is_file()
    assert sorted(flushed) == ["a", "content"]


def test_an_eviction_that_is_killed_leaves_no_part_of_an_entry(tmp_path, monkeypatch):
    cache = NodeCache(tmp_path, 100)
    with cache.hold("a", fetcher(60)):
        pass

    def killed(path, **_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(node_cache.shutil, "rmtree", lambda path, **_: killed(path) if path.exists() else None)
        with pytest.raises(KeyboardInterrupt):
            cache.evict(keep=0)
    assert not (tmp_path / "a").exists()
    with cache.hold("b", fetcher(10)):
        assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["b"]


def test_what_a_killed_process_was_fetching_to_a_folder_is_removed(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / f".{name}.gantry-x1").mkdir()
        (tmp_path / f".{name}.gantry-x1" / "part").write_bytes(b"x" * 90)
    cache = NodeCache(tmp_path, 100)
    in_use = os.open(tmp_path / "b.lock", os.O_RDWR | os.O_CREAT)
    lock(in_use)  # another process is fetching it
    with cache.hold("a", fetcher(10)):
        assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == [".b.gantry-x1", "a"]
    os.close(in_use)


def test_two_processes_may_evict_the_same_entry(tmp_path, monkeypatch):
    cache = NodeCache(tmp_path, 100)
    for name in "ab":
        with cache.hold(name, fetcher(40)):
            pass
    used = cache._used

    def other_evicts(name):
        monkeypatch.setattr(cache, "_used", used)
        cache.evict(keep=0)
        return 0.0

    monkeypatch.setattr(cache, "_used", other_evicts)
    assert cache.evict(keep=0) == []
    assert not (tmp_path / "a").exists()


def _is_whole(descriptor: int) -> bool:
    return True


def folder_bytes(root: Path) -> int:
    total = 0
    for path in root.iterdir():
        with contextlib.suppress(FileNotFoundError):  # evicted meanwhile
            total += path.stat().st_size
    return total


def _ask(root: Path, log: Path, numbers: list[int]) -> None:
    cache = PieceCache(root, 100)

    def fetch(path: Path, number: int) -> None:
        assert folder_bytes(root) <= 70  # room was made
        with log.open("a") as file:
            file.write(f"{number}\n")
        path.write_bytes(bytes([number]) * 30)

    for number in numbers:
        with (
            cache.open(str(number), lambda path, number=number: fetch(path, number), 30, _is_whole) as descriptor,
            open(descriptor, "rb", closefd=False) as file,
        ):
            assert file.read() == bytes([number]) * 30
        assert folder_bytes(root) <= 100


def test_processes_of_a_node_share_the_pieces_and_the_limit(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    asked = [[1, 2, 3] * 5, [3, 2, 1] * 5, [4, 5, 6, 7] * 5]
    for numbers in (asked[:2], asked):
        (tmp_path / "log").write_text("")
        processes = [
            context.Process(target=_ask, args=(tmp_path / "cache", tmp_path / "log", each)) for each in numbers
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
        assert [process.exitcode for process in processes] == [0] * len(numbers)
        if len(numbers) == 2:
            assert sorted((tmp_path / "log").read_text().split()) == ["1", "2", "3"]


def test_what_a_killed_process_was_fetching_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".half").write_bytes(b"x" * 90)
    with PieceCache(tmp_path, 100).open("a", lambda path: path.write_bytes(b"y" * 30) and None, 30, _is_whole):
        assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "a"]
