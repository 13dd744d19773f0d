"""The FID of infinitely many pictures is the line through FIDs by hand, and comes closer to the truth than the FID."""

import numpy as np
import pytest
from scipy.linalg import sqrtm

from gan_core.metrics.intervals import (
    GROUPS,
    Estimate,
    fid_estimate,
    fid_infinity_estimate,
    fid_infinity_too_few,
    jackknife_groups,
)
from tests.gan_core.metrics.test_intervals import features, normal, spread


def fid_by_hand(x: np.ndarray, y: np.ndarray) -> float:
    """Scipy's matrix root of the product of the covariances."""
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    return float(np.square(x.mean(0) - y.mean(0)).sum() + np.trace(a + b - 2 * sqrtm(a @ b).real))


def by_hand(x: np.ndarray, y: np.ndarray, left_out: int | None = None) -> float:
    """The intercept of numpy's straight line through (1/n, FID)."""
    of_x, of_y = jackknife_groups(len(x)), jackknife_groups(len(y))
    x, y, of_y = x[of_x != left_out], y[of_y != left_out], of_y[of_y != left_out]
    halves = y[of_y < GROUPS // 2], y[of_y >= GROUPS // 2]
    inverses = [1 / len(y), np.mean([1 / len(half) for half in halves])]
    return float(np.polyfit(inverses, [fid_by_hand(x, y), np.mean([fid_by_hand(x, half) for half in halves])], 1)[1])


@pytest.mark.parametrize(("real", "fake"), [(300, 200), (100, 123)])
def test_value_and_jackknife_equal_the_line_by_hand(real: int, fake: int) -> None:
    x, y = normal(real, 12, 0), normal(fake, 12, 1, 0.3)
    estimate = fid_infinity_estimate(features(x), features(y))
    assert estimate.value == pytest.approx(by_hand(x, y), abs=1e-6)
    assert estimate.jackknife is not None
    np.testing.assert_allclose(estimate.jackknife, [by_hand(x, y, group) for group in range(GROUPS)], atol=1e-6)
    known = fid_estimate(features(x), features(y), interval=True)
    assert fid_infinity_estimate(features(x), features(y), known).value == estimate.value


def test_it_is_closer_to_the_distance_of_the_distributions_than_the_fid() -> None:
    """Two Gaussians that differ by 0.3 in each of 16 means and in each standard deviation: 16 (0.09 + 0.09)."""
    truth, x = 16 * 0.18, features(normal(20_000, 16, 0))
    found = [fid_infinity_estimate(x, features(normal(100, 16, run, 0.3))).value for run in range(1, 41)]
    plain = [fid_estimate(x, features(normal(100, 16, run, 0.3)), interval=False).value for run in range(1, 41)]
    assert abs(np.mean(found) - truth) < 0.3 * abs(np.mean(plain) - truth)


def test_the_interval_is_as_wide_as_the_figure_varies() -> None:
    def measure(run: int) -> Estimate:
        return fid_infinity_estimate(features(normal(150, 8, 2 * run)), features(normal(120, 8, 2 * run + 1, 0.3)))

    found, said = spread(measure, 60)
    assert said == pytest.approx(found, rel=0.4)


def test_kept_rows_stand_for_all_pictures() -> None:
    x, y = normal(300, 6, 0), normal(200, 6, 1, 0.3)
    part = fid_infinity_estimate(features(x, 150), features(y, 100))
    assert part.value == pytest.approx(by_hand(x[:150], y[:100]), abs=1e-5)


def test_too_few_pictures_have_a_reason() -> None:
    assert fid_infinity_too_few(64, 138) == ""
    assert "at least 138 generated pictures for 64 features, and there are 137" in fid_infinity_too_few(64, 137)
