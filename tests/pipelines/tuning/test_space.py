"""Search ranges and the search space of Ray Tune."""

import pytest

from gan_core.config import build
from gan_core.errors import SettingsError
from pipelines.settings.ranges import Range
from pipelines.tuning.space import search_space


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"type": "log", "low": 0.0, "high": 1.0}, "above 0 on a log scale"),
        ({"type": "uniform", "low": 1.0, "high": 1.0}, "low: must be below high"),
        ({"type": "uniform", "low": 1.0}, "needs both"),
        ({"type": "choice"}, "needs a list of values"),
        ({"type": "choice", "values": [1], "low": 0.0}, "has values instead"),
        ({"type": "integer", "values": [1]}, "has low and high instead"),
        ({"type": "unifrom", "low": 1, "high": 2}, "Did you mean 'uniform'"),
    ],
)
def test_an_impossible_range_is_refused(values: dict, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        build(Range, values, where="tune.space.x")


def test_a_range_contains_only_its_values() -> None:
    assert Range(type="log", low=1e-5, high=1e-3).contains(2e-4)
    assert not Range(type="uniform", low=0.0, high=0.3).contains(0.5)
    assert Range(type="choice", values=("a", "b")).contains("b")


def test_samples_lie_within_their_ranges() -> None:
    ranges = {
        "log": Range(type="log", low=1e-5, high=1e-3),
        "whole": Range(type="integer", low=1, high=3),
        "choice": Range(type="choice", values=(8, 16)),
    }
    space = search_space(ranges)
    for _ in range(50):
        for name, limits in ranges.items():
            assert limits.contains(space[name].sample())
    assert {space["whole"].sample() for _ in range(100)} == {1, 2, 3}
