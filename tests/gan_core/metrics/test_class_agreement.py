"""Class accuracies equal scikit-learn's, and cases with a known answer come out right."""

import numpy as np
import pytest
import torch
from sklearn.covariance import ledoit_wolf_shrinkage
from sklearn.datasets import load_digits
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from gan_core.errors import SettingsError
from gan_core.metrics.class_agreement import Labelled, class_accuracies, fit
from gan_core.metrics.intervals import GROUPS, jackknife_groups

CENTRES = np.random.default_rng(9).normal(size=(4, 16)) * 20


def labelled(rows: np.ndarray, labels: np.ndarray) -> Labelled:
    return Labelled(rows=rows, labels=labels, groups=jackknife_groups(len(rows)), pictures=np.arange(len(rows)))


def separate(count: int, seed: int, classes: int = 4) -> Labelled:
    """Classes far apart."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    return labelled(CENTRES[labels] + rng.normal(size=(count, 16)), labels)


def digits(first: int, last: int) -> Labelled:
    data = load_digits()
    return labelled(data.data[first:last].astype(np.float32), data.target[first:last].astype(np.int64))


def by_sklearn(train: Labelled, test: Labelled) -> np.ndarray:
    """Predictions of scikit-learn's discriminant with scikit-learn's shrinkage of the pooled covariance."""
    means = np.zeros((10, train.rows.shape[1]))
    for label in np.unique(train.labels):
        means[label] = train.rows[train.labels == label].mean(0)
    shrinkage = ledoit_wolf_shrinkage(train.rows - means[train.labels], assume_centered=True)
    return (
        LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(train.rows, train.labels).predict(test.rows)
    )


@pytest.mark.parametrize("count", [50, 1000], ids=["fewer pictures than features", "more"])
def test_the_classifier_equals_scikit_learns(count: int) -> None:
    train, rows = digits(0, count), digits(1000, 1797).rows
    mine = fit(train, 10)
    means = np.stack([train.rows[train.labels == label].mean(0) for label in range(10)])
    shrinkage = ledoit_wolf_shrinkage(train.rows - means[train.labels], assume_centered=True)
    assert mine.shrinkage == pytest.approx(shrinkage, rel=1e-6)
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(train.rows, train.labels)
    # Scores are equal up to a constant of each row.
    scores = mine.scores(torch.from_numpy(rows).double()).numpy(), theirs.decision_function(rows)
    first, second = (values - values.mean(1, keepdims=True) for values in scores)
    np.testing.assert_allclose(first, second, atol=1e-6 * np.abs(second).max())


def test_accuracies_equal_fitting_again_without_each_group() -> None:
    real, fake = digits(0, 300), digits(300, 550)
    found = class_accuracies(real, fake, classes=10)

    def without(side: Labelled, group: int) -> Labelled:
        kept = side.groups != group
        return labelled(side.rows[kept], side.labels[kept])

    of_real, of_fake = np.zeros(300, bool), np.zeros(250, bool)
    for group in range(GROUPS):
        for side, right in ((real, of_real), (fake, of_fake)):
            chosen = side.groups == group
            test = labelled(side.rows[chosen], side.labels[chosen])
            right[chosen] = by_sklearn(without(real, group), test) == test.labels
        kept = without(real, group)
        trained = (by_sklearn(without(fake, group), kept) == kept.labels).mean()
        assert found.training.jackknife[group] == pytest.approx(trained, abs=1e-6)
    assert found.of_real.value == pytest.approx(of_real.mean(), abs=1e-6)
    assert found.agreement.value == pytest.approx(of_fake.mean(), abs=1e-6)
    assert found.training.value == pytest.approx((by_sklearn(fake, real) == real.labels).mean(), abs=1e-6)
    for accuracy in (found.of_real, found.agreement, found.training):
        low, high = accuracy.interval
        assert 0.7 < low < accuracy.value < high < 1


@pytest.mark.parametrize("features", [16, 500], ids=["16 features", "fewer pictures than features"])
def test_classes_far_apart_are_recognised(features: int) -> None:
    real, fake = separate(80, 0), separate(60, 1)
    wide = [
        Labelled(
            **{
                **vars(side),
                "rows": np.hstack([side.rows, np.random.default_rng(seed).normal(size=(n, features - 16))]),
            }
        )
        for seed, (side, n) in enumerate(((real, 80), (fake, 60)))
    ]
    found = class_accuracies(*wide, classes=4)
    for accuracy in (found.agreement, found.of_real, found.training):
        assert (accuracy.value, accuracy.chance) == (1, 0.25)
        low, high = accuracy.interval
        assert 0.9 < low < 1 == high, "all of a few pictures is not certain"


def test_shuffled_labels_are_at_chance() -> None:
    real, fake = separate(400, 0), separate(400, 1)
    mixed = labelled(fake.rows, np.random.default_rng(2).permutation(fake.labels))
    found = class_accuracies(real, mixed, classes=4)
    assert found.of_real.value == 1
    assert found.agreement.interval[0] < found.agreement.chance < found.agreement.interval[1]
    assert found.training.value < 0.75


def test_the_other_class_agrees_never() -> None:
    real, fake = separate(100, 0), separate(100, 1)
    found = class_accuracies(real, labelled(fake.rows, (fake.labels + 1) % 4), classes=4)
    assert (found.agreement.value, found.training.value, found.of_real.value) == (0, 0, 1)
    assert found.agreement.interval[0] == 0 < found.agreement.interval[1] < 0.06


def test_a_generator_of_one_class_trains_a_classifier_of_that_class() -> None:
    real = separate(100, 0)
    found = class_accuracies(real, labelled(CENTRES[[2] * 40] + 0.0, np.full(40, 2)), classes=4)
    assert (found.agreement.value, found.agreement.chance) == (1, 1)
    assert (found.training.value, found.training.chance) == (0.25, 0.25)


def test_one_picture_of_each_class_repeated_is_recognised_by_the_nearest_mean() -> None:
    labels = np.arange(40) % 4
    found = class_accuracies(labelled(CENTRES[labels], labels), labelled(CENTRES[labels], labels), classes=4)
    assert (found.agreement.value, found.of_real.value, found.training.value) == (1, 1, 1)


def test_a_class_without_pictures_is_never_named() -> None:
    found = class_accuracies(separate(80, 0), separate(80, 1), classes=9)
    assert found.agreement.value == 1


def test_translations_of_one_picture_are_one_cluster() -> None:
    """Twice the same pictures tell no more than once."""
    real, fake = digits(0, 300), digits(300, 550)
    twice = Labelled(**{name: np.concatenate([value, value]) for name, value in vars(fake).items()})
    once, both = class_accuracies(real, fake, classes=10), class_accuracies(real, twice, classes=10)
    assert both.agreement.value == once.agreement.value
    assert both.agreement.interval == pytest.approx(once.agreement.interval, abs=1e-3)


def translated(count: int, seed: int) -> tuple[Labelled, Labelled]:
    """Pictures of two domains, and their translations, which keep the content and change the domain."""
    rng = np.random.default_rng(seed)
    content, domains = rng.normal(size=(count, 300)), np.arange(count) % 2
    shift = np.zeros((2, 300))
    shift[:, :5] = [[-0.5], [0.5]]

    def shown(labels: np.ndarray) -> Labelled:
        return labelled(content + shift[labels] + 0.3 * rng.normal(size=content.shape), labels)

    return shown(domains), shown(1 - domains)


def test_a_picture_is_not_classified_by_a_classifier_that_saw_its_translation() -> None:
    real, fake = translated(200, 0)
    others, _ = translated(200, 1)
    found = class_accuracies(real, fake, classes=2, translated=True).training
    expected = class_accuracies(others, fake, classes=2).training
    assert found.value == pytest.approx(expected.value, abs=0.1)
    assert found.interval[0] < expected.value < found.interval[1]
    assert class_accuracies(real, fake, classes=2).training.value < expected.value - 0.2, (
        "it is taken for its translation"
    )


def test_the_training_accuracy_of_translations_equals_fitting_again_without_each_group() -> None:
    real, fake = digits(0, 200), digits(200, 400)
    found = class_accuracies(real, fake, classes=10, translated=True).training

    def right(*removed: int) -> np.ndarray:
        """Which pictures of the last group are recognised without all these groups."""
        kept, tested = ~np.isin(fake.groups, removed), real.groups == removed[-1]
        test = labelled(real.rows[tested], real.labels[tested])
        return by_sklearn(labelled(fake.rows[kept], fake.labels[kept]), test) == test.labels

    assert found.value == pytest.approx(np.concatenate([right(group) for group in range(GROUPS)]).mean(), abs=1e-6)
    for removed in (0, 7):
        rest = [right(removed, group) for group in range(GROUPS) if group != removed]
        assert found.jackknife[removed] == pytest.approx(np.concatenate(rest).mean(), abs=1e-6)


def test_too_few_pictures_and_features_of_different_lengths_are_errors() -> None:
    with pytest.raises(
        SettingsError, match="at least 20 pictures on each side, and there are 19 real and 40 generated"
    ):
        class_accuracies(separate(19, 0), separate(40, 1), classes=4)
    other = separate(40, 1)
    with pytest.raises(SettingsError, match="16 features cannot be compared with one of 8"):
        class_accuracies(separate(40, 0), labelled(other.rows[:, :8], other.labels), classes=4)
