"""The KID is the paper's unbiased estimate; its jackknife equals leaving out groups one by one."""

import numpy as np
import pytest

from gan_core.errors import SettingsError
from gan_core.metrics import kid
from gan_core.metrics.features import Features
from gan_core.metrics.intervals import GROUPS, jackknife_groups
from gan_core.metrics.kid import kid_estimate
from tests.gan_core.metrics.test_intervals import features, normal, spread


def by_hand(x: np.ndarray, y: np.ndarray) -> float:
    """Bińkowski et al. 2018, equation 4: sums over different pictures."""

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return float((a @ b / len(a) + 1) ** 3)

    n, m = len(x), len(y)
    xx = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    yy = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return xx + yy - 2 * sum(k(a, b) for a in x for b in y) / (n * m)


@pytest.mark.parametrize(("real", "fake"), [(7, 5), (24, 31)])
def test_kid_equals_the_papers_estimate(real: int, fake: int) -> None:
    x, y = normal(real, 6, 0), normal(fake, 6, 1, 0.3)
    assert kid_estimate(features(x), features(y), interval=True).value == pytest.approx(by_hand(x, y), rel=1e-10)
    assert kid_estimate(features(x), features(y), interval=False).value == pytest.approx(by_hand(x, y), rel=1e-10)


def test_jackknife_equals_leaving_out_groups_one_by_one() -> None:
    x, y = normal(24, 6, 0), normal(31, 6, 1, 0.3)
    jackknife = kid_estimate(features(x), features(y), interval=True).jackknife
    one_by_one = [by_hand(*(rows[jackknife_groups(len(rows)) != group] for rows in (x, y))) for group in range(GROUPS)]
    np.testing.assert_allclose(jackknife, one_by_one, rtol=1e-9)


def test_kid_is_unbiased_and_its_interval_matches_its_variance() -> None:
    def alike(run: int) -> kid.Estimate:
        return kid_estimate(features(normal(40, 8, 2 * run)), features(normal(40, 8, 2 * run + 1)), interval=True)

    values = [alike(run).value for run in range(60)]
    assert min(values) < 0 < max(values)
    assert abs(np.mean(values)) < 3 * np.std(values) / 60**0.5

    def different(run: int) -> kid.Estimate:
        x, y = normal(40, 8, 2 * run), normal(50, 8, 2 * run + 1, 0.5)
        return kid_estimate(features(x), features(y), interval=True)

    found, said = spread(different, 60)
    assert said == pytest.approx(found, rel=0.35)


def test_kid_uses_a_random_subset_of_many_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = normal(60, 6, 0), normal(50, 6, 1, 0.3)
    whole = kid_estimate(features(x), features(y), interval=False).value
    monkeypatch.setattr(kid, "MAX_PICTURES", 40)
    part = kid_estimate(features(x), features(y), interval=False).value
    assert part != whole
    assert kid.kid_count(60) == 40 == kid.kid_count(40)


def test_kid_without_rows_is_an_error() -> None:
    x = features(normal(20, 4, 0))
    with pytest.raises(SettingsError, match="only moments were kept"):
        kid_estimate(Features(x.moments), x, interval=False)
    with pytest.raises(SettingsError, match="4 features cannot be compared with one of 5"):
        kid_estimate(x, features(normal(20, 5, 0)), interval=False)
