"""A leak grows all the time; what is loaded once is none."""

import pytest

from tests.chaos.case_leaks import Sample, check_flat


def samples(*megabytes: float, handles: int = 9) -> list[Sample]:
    """Samples of a process with these amounts of memory."""
    return [Sample(memory=int(size * 1e6), threads=4, handles=handles) for size in megabytes]


def test_memory_that_grows_all_the_time_is_a_leak() -> None:
    with pytest.raises(AssertionError, match=r"memory grows: memory 28\d MB \+2\d"):
        check_flat(samples(*(250 + step for step in range(60))))


def test_memory_that_grows_once_is_none() -> None:
    late = [261] * 40 + [271] * 20
    assert "+10.0" in check_flat(samples(*late))


def test_a_handle_that_stays_open_is_a_leak() -> None:
    with pytest.raises(AssertionError, match="handles grow"):
        check_flat(samples(*[261] * 30) + samples(*[261] * 30, handles=10))
