"""The KID is the unbiased estimate as the paper writes it, in whatever parts it is summed."""

import numpy as np
import pytest

from gan_core.errors import SettingsError
from gan_core.metrics import kid
from gan_core.metrics.features import Features
from gan_core.metrics.intervals import GROUPS, groups
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
def test_it_is_the_papers_estimate(real: int, fake: int) -> None:
    x, y = normal(real, 6, 0), normal(fake, 6, 1, 0.3)
    assert kid_estimate(features(x), features(y), interval=True).value == pytest.approx(by_hand(x, y), rel=1e-10)
    assert kid_estimate(features(x), features(y), interval=False).value == pytest.approx(by_hand(x, y), rel=1e-10)


def test_leaving_groups_out_at_once_is_leaving_them_out_one_by_one() -> None:
    x, y = normal(24, 6, 0), normal(31, 6, 1, 0.3)
    deleted = kid_estimate(features(x), features(y), interval=True).deleted
    one_by_one = [by_hand(*(rows[groups(len(rows)) != group] for rows in (x, y))) for group in range(GROUPS)]
    np.testing.assert_allclose(deleted, one_by_one, rtol=1e-9)


def test_it_is_unbiased_where_the_sets_are_alike_and_its_interval_says_how_it_varies() -> None:
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


def test_of_many_pictures_a_fair_draw_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = normal(60, 6, 0), normal(50, 6, 1, 0.3)
    whole = kid_estimate(features(x), features(y), interval=False).value
    monkeypatch.setattr(kid, "PICTURES", 40)
    part = kid_estimate(features(x), features(y), interval=False).value
    assert part != whole
    assert kid.kid_count(60) == 40 == kid.kid_count(40)


def test_moments_alone_are_not_enough() -> None:
    x = features(normal(20, 4, 0))
    with pytest.raises(SettingsError, match="only their moments"):
        kid_estimate(Features(x.moments), x, interval=False)
    with pytest.raises(SettingsError, match="5 features"):
        kid_estimate(x, features(normal(20, 5, 0)), interval=False)
