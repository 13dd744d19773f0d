"""One holder at a time, whichever host it is on; a holder that is gone is replaced, one that comes back finds out."""

import threading
import time

import pytest

from gan_core.errors import StageError
from pipelines.storage.lease import current_holder, lease

FAST = {"ttl": 1.0, "beat_seconds": 0.1}


def test_a_lease_that_is_renewed_is_refused_and_its_holder_named(storage):
    with lease(storage, "train/key", **FAST) as held:
        refused = r"train/key is in use by process \d+ on host .*Wait for it, or end"
        with pytest.raises(StageError, match=refused), lease(storage, "train/key", **FAST):
            pass
        assert current_holder(storage, "train/key").epoch == held.epoch == 1
    assert current_holder(storage, "train/key") is None
    with lease(storage, "train/key", **FAST) as held:
        assert held.epoch == 2


def test_a_lease_whose_holder_is_gone_is_taken_over_and_the_holder_finds_out(storage):
    with lease(storage, "key", ttl=1.0, beat_seconds=0.1) as first:
        first._every = 3.0  # it is paused
        time.sleep(0.2)
        began, seen = time.monotonic(), []
        with lease(storage, "key", **FAST, waiting=seen.append) as second:
            assert time.monotonic() - began >= 1.0
            assert second.epoch == first.epoch + 1
            assert [holder.epoch for holder in seen] == [1]
            deadline = time.monotonic() + 10
            while not first.lost and time.monotonic() < deadline:
                time.sleep(0.05)
            with pytest.raises(StageError, match="Another process has taken over key: process .* cut off"):
                first.check()
            assert second.lost is None


def test_a_storage_that_does_not_answer_is_not_taken_for_a_holder_that_is_gone(storage, monkeypatch):
    answers, waiting, entries = threading.Event(), threading.Event(), storage.entries
    answers.set()

    def entries_when_it_answers(prefix):
        answers.wait()
        return entries(prefix)

    monkeypatch.setattr(storage, "entries", entries_when_it_answers)

    def take() -> None:
        with lease(storage, "key", wait=None, waiting=lambda holder: waiting.set(), **FAST):
            pass

    other = threading.Thread(target=take)
    with lease(storage, "key", **FAST) as first:
        other.start()
        assert waiting.wait(30)
        answers.clear()
        time.sleep(2 * FAST["ttl"])  # neither can the holder renew its lease
        answers.set()
        time.sleep(FAST["ttl"] / 2)
        assert other.is_alive()
        first.check()
    other.join(30)
    assert not other.is_alive()


def test_a_holder_known_to_be_dead_is_replaced_at_once(storage):
    with lease(storage, "key", ttl=60, beat_seconds=0.1) as first:
        first._over.set()  # killed
        began = time.monotonic()
        with lease(storage, "key", ttl=60, beat_seconds=0.1, is_gone=lambda holder: holder.epoch == 1):
            assert time.monotonic() - began < 5


def test_of_many_that_wait_one_at_a_time_holds_it(storage):
    inside, most, mutex = [0], [0], threading.Lock()

    def work():
        with lease(storage, "key", wait=None, **FAST):
            with mutex:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
            time.sleep(0.1)
            with mutex:
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert most == [1]
