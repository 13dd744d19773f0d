"""The width of an interval matches the variation of the figure; the fast jackknife equals leaving out groups one by one."""

from collections.abc import Callable

import numpy as np
import pytest

from gan_core.metrics.features import Features
from gan_core.metrics.frechet import Moments, frechet_distance
from gan_core.metrics.intervals import (
    GROUPS,
    Estimate,
    fid_estimate,
    jackknife_groups,
    mean_estimate,
    mean_interval,
    mean_of_means_interval,
    proportion_interval,
    student_t_quantile,
)


def features(rows: np.ndarray, kept: int | None = None) -> Features:
    moments = Moments(rows.shape[1])
    moments.update(rows)
    return Features(moments, rows[: kept or len(rows)].astype(np.float32))


def normal(n: int, width: int, seed: int, shift: float = 0.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(shift, 1 + shift, (n, width))).astype(np.float32).astype(np.float64)


def test_groups_are_fixed_random_and_of_equal_size() -> None:
    assert jackknife_groups(25).tolist() == jackknife_groups(25).tolist()
    assert sorted(np.bincount(jackknife_groups(25))) == [2] * 5 + [3] * 5
    assert (np.diff(jackknife_groups(1000)[:100]) == 0).sum() < 30


@pytest.mark.parametrize(
    ("real", "fake", "width"), [(30, 25, 40), (30, 200, 40), (200, 30, 40), (90, 80, 20), (43, 43, 40)]
)
def test_jackknife_equals_leaving_out_groups_one_by_one(real: int, fake: int, width: int) -> None:
    x, y = normal(real, width, 0), normal(fake, width, 1, 0.2)
    one_by_one = [
        frechet_distance(*(features(rows[jackknife_groups(len(rows)) != group]).moments for rows in (x, y)))
        for group in range(GROUPS)
    ]
    estimate = fid_estimate(features(x), features(y), interval=True)
    assert estimate.jackknife is not None
    np.testing.assert_allclose(estimate.jackknife, one_by_one, rtol=1e-6)
    assert estimate.value == frechet_distance(features(x).moments, features(y).moments)


def spread(measure: Callable[[int], Estimate], runs: int) -> tuple[float, float]:
    """Standard deviation of a value over runs, and its average estimate from the intervals."""
    estimates = [measure(run) for run in range(runs)]
    reach = np.mean([estimate.interval[1] - estimate.value for estimate in estimates])
    return float(np.std([estimate.value for estimate in estimates])), float(reach / student_t_quantile(GROUPS - 1))


@pytest.mark.parametrize(("real", "fake", "kept"), [(60, 50, None), (400, 300, 150)])
def test_intervals_are_as_wide_as_the_figure_varies(real: int, fake: int, kept: int | None) -> None:
    def measure(run: int) -> Estimate:
        x, y = normal(real, 16, 2 * run), normal(fake, 16, 2 * run + 1, 0.3)
        return fid_estimate(features(x, kept), features(y, kept), interval=True)

    found, said = spread(measure, 60)
    assert said == pytest.approx(found, rel=0.35)


def test_pictures_of_a_pair_are_in_the_same_group() -> None:
    x = normal(100, 8, 0)
    same = fid_estimate(features(x), features(x), interval=True)
    apart = fid_estimate(features(x), features(normal(100, 8, 1)), interval=True)
    assert same.interval[1] < 1e-6 < 0.1 < apart.interval[1]


def test_few_pictures_have_no_interval() -> None:
    x, y = features(normal(19, 4, 0)), features(normal(50, 4, 1))
    assert fid_estimate(x, y, interval=True).interval == (None, None)
    assert fid_estimate(y, y, interval=False).interval == (None, None)
    assert mean_interval(np.ones(19)) == (None, None) == proportion_interval(0.5, 19)


def test_an_interval_respects_the_lower_bound() -> None:
    jackknife = np.arange(10.0)
    assert Estimate(value=1.0, jackknife=jackknife, lower_bound=0.0).interval[0] == 0
    assert Estimate(value=1.0, jackknife=jackknife).interval[0] < 0


def test_the_mean_of_figures_of_the_same_pictures_keeps_their_correlation() -> None:
    one = Estimate(value=1.0, jackknife=np.arange(10.0))
    opposite = Estimate(value=3.0, jackknife=-np.arange(10.0))
    assert mean_estimate([one, one]).interval == one.interval
    assert mean_estimate([one, opposite]).interval == (2.0, 2.0)
    assert mean_estimate([one, Estimate(value=5.0)]) == Estimate(value=3.0)


def test_a_picture_in_several_directions_is_one_cluster() -> None:
    values, rows = np.random.default_rng(0).normal(size=50), np.arange(50)
    alone = mean_interval(values)
    assert mean_of_means_interval([values] * 4, [rows] * 4) == pytest.approx(alone)
    low, high = mean_of_means_interval([values] * 4, [rows + 50 * way for way in range(4)])
    assert high - low == pytest.approx((alone[1] - alone[0]) / 2, rel=0.03), "different pictures halve the interval"
    low, high = mean_of_means_interval([values, -values], [rows, rows])
    assert (low, high) == pytest.approx((0, 0))
    assert mean_of_means_interval([values, values[:19]], [rows, rows[:19]]) == (None, None)


def test_quantiles_match_students_t() -> None:
    tabulated = {9: 2.262, 19: 2.093, 29: 2.045, 99: 1.984, 10**6: 1.960}
    assert {n: round(student_t_quantile(n), 3) for n in tabulated} == tabulated


def test_intervals_of_means_and_proportions_match_textbook_values() -> None:
    values = np.arange(25.0)
    low, high = mean_interval(values)
    assert (low, high) == pytest.approx((12 - 2.0639 * 7.3598 / 5, 12 + 2.0639 * 7.3598 / 5), rel=1e-3)
    assert proportion_interval(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    low, high = proportion_interval(1.0, 20)
    assert (low, high) == pytest.approx((0.8389, 1.0), abs=1e-4)
