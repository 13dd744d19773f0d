"""Schedules of settings over the burn-in."""

import pytest

from gan_core.schedule import cosine


@pytest.mark.parametrize(("start", "end"), [(0.0, 1.0), (2.0, 0.1)])
def test_goes_from_start_to_end_along_half_a_cosine(start: float, end: float) -> None:
    assert cosine(start, end, 0.0) == pytest.approx(start)
    assert cosine(start, end, 1 / 3) == pytest.approx(start + 0.25 * (end - start))  # cos(60 degrees) = 1/2
    assert cosine(start, end, 0.5) == pytest.approx((start + end) / 2)
    assert cosine(start, end, 1.0) == pytest.approx(end)


def test_stays_at_its_ends_outside_the_burn_in() -> None:
    assert cosine(3.0, 1.0, -0.5) == 3.0
    assert cosine(3.0, 1.0, 7.0) == 1.0


def test_never_turns_back() -> None:
    values = [cosine(5.0, 1.0, step / 50) for step in range(51)]
    assert values == sorted(values, reverse=True)
