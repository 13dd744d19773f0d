"""A decoder that crashes, loops or allocates all memory ends only its worker, and its picture is refused."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest

from gan_core.errors import DataError, GantryError
from gan_core.images import pictures, sandbox
from gan_core.images.pictures import PictureError, encode_png
from gan_core.images.sandbox import WorkerEndedError, call, call_decoder, decode, prepare

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 9, 13), dtype=np.uint8)


def in_process() -> int:
    return os.getpid()


def end_by(number: int, mark: Path | None = None) -> str:
    """End this process, or where ``mark`` is there already, return."""
    if mark is not None and mark.exists():
        return "second time"
    if mark is not None:
        mark.touch()
    os.kill(os.getpid(), number)
    time.sleep(60)
    raise AssertionError("it lives")


def spin(seconds_allowed: int) -> None:
    sandbox.CPU_SECONDS = seconds_allowed
    sandbox.begin(7)
    while True:
        pass


def sleep(seconds_allowed: float) -> None:
    sandbox.WALL_SECONDS = seconds_allowed
    sandbox.begin(3)
    time.sleep(60)


def take(bytes_wanted: int) -> int:
    return len(bytearray(bytes_wanted))


def open_without_files() -> str:
    with sandbox.no_files():
        try:
            open("/dev/null").close()
        except OSError as error:
            return str(error.strerror)
    open("/dev/null").close()
    return "opened"


def refuse() -> None:
    raise PictureError("corrupt", "in words")


def fail() -> None:
    raise KeyError("what")


def test_a_worker_decodes_the_same_pixels_as_this_process() -> None:
    content = encode_png(PIXELS)
    np.testing.assert_array_equal(decode(content, 3), PIXELS)
    np.testing.assert_array_equal(
        prepare(content, size=(4, 4), channels=1, mode="crop"),
        pictures.prepare(content, size=(4, 4), channels=1, mode="crop"),
    )


def test_calls_share_a_worker_and_concurrent_calls_have_one_each() -> None:
    assert call(in_process) == call(in_process) != os.getpid()
    with ThreadPoolExecutor(4) as pool:
        contents = [encode_png(np.full((1, 4, 4), value, np.uint8)) for value in range(60)]
        assert [int(found[0, 0, 0]) for found in pool.map(lambda content: decode(content, 1), contents)] == [*range(60)]


def test_errors_of_the_worker_are_raised_here() -> None:
    with pytest.raises(PictureError) as caught:
        call_decoder(refuse)
    assert (caught.value.reason, caught.value.detail) == ("corrupt", "in words")
    with pytest.raises(KeyError, match="what") as unexpected:
        call(fail)
    assert "in fail" in str(unexpected.value.__cause__), "with where in the worker it was raised"


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS])
def test_a_crash_is_a_picture_error_and_the_next_picture_is_decoded(number: int) -> None:
    with pytest.raises(PictureError, match=f"crashed: the decoder crashed .{signal.Signals(number).name}"):
        call_decoder(end_by, number)
    np.testing.assert_array_equal(decode(encode_png(PIXELS), 3), PIXELS)


def test_a_call_whose_worker_was_killed_by_the_system_is_retried_once(tmp_path: Path) -> None:
    assert call_decoder(end_by, signal.SIGKILL, tmp_path / "mark") == "second time"
    with pytest.raises(PictureError, match="crashed: the system ended the decoder, probably for lack of memory"):
        call_decoder(end_by, signal.SIGKILL)


def test_a_picture_that_exceeds_cpu_or_wall_clock_time_ends_the_worker() -> None:
    for function, limit, item in ((spin, 1, 7), (sleep, 0.5, 3)):
        with pytest.raises(WorkerEndedError, match="too-slow") as caught:
            call(function, limit)
        assert caught.value.item == item


def test_the_memory_limit_applies_to_the_worker_only() -> None:
    assert call(take, 2**20) == 2**20
    with pytest.raises(MemoryError):
        call(take, sandbox.MEMORY)
    assert call(take, 2**20) == 2**20


def test_a_decoder_out_of_memory_raises_too_much_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(self: object) -> None:
        raise MemoryError

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    with pytest.raises(PictureError, match="too-much-memory"):
        pictures.decode(encode_png(PIXELS), 3)


def test_no_files_makes_the_kernel_refuse_to_open_files() -> None:
    assert call(open_without_files) == "Too many open files"


def test_a_worker_ends_with_its_parent() -> None:
    code = (
        "import time; from gan_core.images.sandbox import call; from tests.gan_core.images import test_sandbox as t\n"
        "print(call(t.in_process), flush=True); call(t.sleep, 50)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    worker.wait(timeout=20)


def test_a_worker_that_cannot_be_started_leaves_no_file_open(monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox.close_workers()
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    before = sorted(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(GantryError, match="does not start .No such file or directory: /nowhere/python"):
            decode(encode_png(PIXELS), 3)
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_a_worker_that_does_not_start_is_not_a_picture_error(monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox.close_workers()
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(Exception, match="process that decodes pictures does not start .exit status 1"):
        decode(encode_png(PIXELS), 3)
    monkeypatch.undo()
    assert issubclass(PictureError, DataError)
    decode(encode_png(PIXELS), 3)
