"""Precision, recall, density and coverage equal the authors' code, and cases with a known answer come out right."""

import numpy as np
import pytest
from prdc import compute_prdc
from scipy.spatial.distance import cdist

from gan_core.errors import SettingsError
from gan_core.metrics import neighbours as module
from gan_core.metrics.features import Features
from gan_core.metrics.intervals import GROUPS, Estimate, jackknife_groups
from gan_core.metrics.neighbours import NAMES, nearest, neighbours
from tests.gan_core.metrics.test_intervals import features, normal, spread


def values(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    found = neighbours(features(x), features(y), interval=False)
    assert list(found.estimates) == list(NAMES)
    return {name: estimate.value for name, estimate in found.estimates.items()}


def by_hand(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """The papers' equations, on scipy's distances."""
    real, fake, across = cdist(x, x), cdist(y, y), cdist(x, y)
    ball = {(name, k): np.sort(d, axis=1)[:, k] for name, d in (("x", real), ("y", fake)) for k in (3, 5)}
    return {
        "precision": float((across <= ball["x", 3][:, None]).any(0).mean()),
        "recall": float((across <= ball["y", 3][None]).any(1).mean()),
        "density": float((across <= ball["x", 5][:, None]).sum(0).mean() / 5),
        "coverage": float((across.min(1) <= ball["x", 5]).mean()),
    }


@pytest.mark.parametrize(("real", "fake", "width"), [(7, 8, 3), (40, 25, 64), (300, 200, 8), (700, 900, 16)])
def test_figures_equal_the_authors_code_on_the_same_features(
    real: int, fake: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BLOCK", 128)
    x, y = normal(real, width, 0), normal(fake, width, 1, 0.2)
    found = values(x, y)
    of_k = {k: compute_prdc(real_features=x, fake_features=y, nearest_k=k) for k in (3, 5)}
    for name in NAMES:
        k = 3 if name in ("precision", "recall") else 5
        assert found[name] == pytest.approx(float(of_k[k][name]), abs=1e-6), name
        assert found[name] == pytest.approx(by_hand(x, y)[name], abs=1e-12), name


def test_the_jackknife_equals_leaving_out_groups_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK", 7)
    x, y = normal(130, 6, 0), normal(111, 6, 1, 0.3)
    found = neighbours(features(x), features(y), interval=True).estimates
    for group in range(GROUPS):
        one = by_hand(*(rows[jackknife_groups(len(rows)) != group] for rows in (x, y)))
        for name in NAMES:
            jackknife = found[name].jackknife
            assert jackknife is not None
            assert jackknife[group] == pytest.approx(one[name], abs=1e-12), (name, group)


def test_distances_to_the_nearest_picture_are_exact_and_in_the_order_of_the_pictures() -> None:
    x, y = normal(90, 5, 0), normal(70, 5, 1, 0.3)
    found = neighbours(features(x), features(y), interval=True)
    across, within = cdist(y, x), cdist(x, x) + np.diag(np.full(len(x), np.inf))
    alone = nearest(features(x), features(y), interval=True)
    np.testing.assert_allclose(found.to_real.distances[0], across.min(1), rtol=1e-9)
    np.testing.assert_allclose(found.real_to_real[0], within.min(1), rtol=1e-9)
    np.testing.assert_array_equal(found.to_real.nearest, across.argmin(1))
    np.testing.assert_array_equal(alone.nearest, across.argmin(1))
    for group in range(GROUPS):
        kept = jackknife_groups(len(x)) != group
        for of_fake in (found.to_real, alone):
            np.testing.assert_allclose(of_fake.distances[1 + group], across[:, kept].min(1), rtol=1e-9)
        np.testing.assert_allclose(found.real_to_real[1 + group], within[:, kept].min(1), rtol=1e-9)


def test_intervals_are_as_wide_as_the_figures_vary() -> None:
    def measure(run: int) -> dict[str, Estimate]:
        x, y = normal(120, 8, 2 * run), normal(100, 8, 2 * run + 1, 0.3)
        return neighbours(features(x), features(y), interval=True).estimates

    runs = [measure(run) for run in range(50)]
    for name in NAMES:
        estimates = [Estimate(value=run[name].value, jackknife=run[name].jackknife) for run in runs]
        found, said = spread(estimates.__getitem__, len(runs))
        assert found * 0.7 < said < found * 1.6, name


def test_identical_sets_have_the_best_figures() -> None:
    x = normal(200, 8, 0)
    found = values(x, x)
    assert (found["precision"], found["recall"], found["coverage"]) == (1, 1, 1)
    # Each ball holds its own picture and k others, and the paper divides by k.
    assert found["density"] == pytest.approx(6 / 5)
    low, high = neighbours(features(x), features(x), interval=True).estimates["precision"].interval
    assert low is not None
    assert 0.97 < low < 1 == high, "a share of all of 200 pictures is not certain"


def test_two_samples_of_one_gaussian_score_well_and_distant_ones_score_zero() -> None:
    x = normal(1000, 8, 0)
    near, far = values(x, normal(1000, 8, 1)), values(x, normal(1000, 8, 1) + 100)
    assert min(near["precision"], near["recall"], near["coverage"]) > 0.85
    assert near["density"] == pytest.approx(1, abs=0.1)
    assert far == {"precision": 0, "recall": 0, "density": 0, "coverage": 0}


@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_a_narrow_generator_has_precision_and_a_wide_one_has_recall(offset: float) -> None:
    """Features far from the origin lose digits, which must not decide."""
    x = normal(500, 8, 0) + offset
    narrow, wide = normal(500, 8, 1) * 0.3 + offset, normal(500, 8, 1) * 3 + offset
    assert values(x, narrow)["precision"] > 0.95 > 0.5 > values(x, narrow)["recall"]
    assert values(x, wide)["recall"] > 0.95 > 0.5 > values(x, wide)["precision"]


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_one_repeated_point_does_not_flip_precision_and_recall(offset: float) -> None:
    """Its balls have radius 0 and hold the point itself. Rounding must neither empty them nor let them reach others."""
    x = normal(50, 8, 0) + offset
    noise = np.random.default_rng(0).normal(0, 1e-7 * (1 + offset), (50, 8))
    one_picture = np.repeat(x[:1], 50, axis=0) + noise
    collapsed = values(x, one_picture)
    assert collapsed["precision"] == 1
    assert collapsed["recall"] == 1 / 50, "only the real picture that it repeats"
    assert collapsed["coverage"] == 10 / 50, "the real pictures that have it among their five nearest"
    of_one = values(one_picture, x)
    assert (of_one["precision"], of_one["recall"]) == (1 / 50, 1)
    assert values(one_picture, one_picture) == {"precision": 1, "recall": 1, "density": 10, "coverage": 1}


def test_more_features_than_pictures() -> None:
    x, y = normal(20, 500, 0), normal(30, 500, 1)
    assert values(x, y) == pytest.approx(by_hand(x, y), abs=1e-12)


def test_a_random_subset_of_many_pictures_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = normal(60, 6, 0), normal(50, 6, 1, 0.3)
    monkeypatch.setattr(module, "MAX_PICTURES", 40)
    found = neighbours(features(x), features(y), interval=False)
    used = found.to_real
    assert (len(used.real_rows), len(used.fake_rows)) == (40, 40)
    expected = by_hand(x[used.real_rows], y[used.fake_rows])
    assert {name: e.value for name, e in found.estimates.items()} == pytest.approx(expected, abs=1e-12)
    np.testing.assert_array_equal(used.nearest, used.real_rows[cdist(y[used.fake_rows], x[used.real_rows]).argmin(1)])


def test_few_pictures_and_features_of_different_lengths_are_errors() -> None:
    with pytest.raises(SettingsError, match="at least 6 pictures on each side, and there are 40 real and 1 generated"):
        neighbours(features(normal(40, 4, 0)), features(normal(1, 4, 0)), interval=True)
    with pytest.raises(SettingsError, match="4 features cannot be compared with one of 5"):
        neighbours(features(normal(20, 4, 0)), features(normal(20, 5, 0)), interval=True)
    with pytest.raises(SettingsError, match="only moments were kept"):
        neighbours(Features(features(normal(20, 4, 0)).moments), features(normal(20, 4, 0)), interval=True)
