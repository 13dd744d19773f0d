"""The Inception score equals the paper's formula; without the published class layer there is a reason in its place."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from gan_core.metrics import inception_score as module
from gan_core.metrics.inception_score import CLASSES_FILE, ClassLayer, class_layer, inception_score
from gan_core.metrics.intervals import GROUPS, jackknife_groups
from tests.gan_core.metrics.test_intervals import features


def layer(weight: np.ndarray) -> ClassLayer:
    return ClassLayer(torch.from_numpy(weight.astype(np.float32)), "digest")


def test_score_equals_the_papers_formula_on_ten_parts() -> None:
    rng = np.random.default_rng(0)
    rows, weight = rng.normal(size=(203, 8)).astype(np.float32), rng.normal(size=(5, 8)).astype(np.float32)
    value, (low, high) = inception_score(features(rows), layer(weight))
    scores = []
    for group in range(GROUPS):
        part = rows[jackknife_groups(len(rows)) == group]
        odds = np.exp(part.astype(float) @ weight.T.astype(float))
        p = odds / odds.sum(1, keepdims=True)
        scores.append(np.exp(np.mean([sum(q * np.log(q / m) for q, m in zip(r, p.mean(0), strict=True)) for r in p])))
    assert value == pytest.approx(np.mean(scores), rel=1e-6)
    assert low < value < high


def test_certain_and_equally_frequent_classes_score_their_number_and_one_class_scores_one() -> None:
    certain = np.eye(4)[np.arange(4000) % 4] * 100
    assert inception_score(features(certain), layer(np.eye(4)))[0] == pytest.approx(4, rel=0.01)
    one = np.repeat(certain[:1], 400, axis=0)
    assert inception_score(features(one), layer(np.eye(4))) == (pytest.approx(1), (1, pytest.approx(1)))


def test_the_score_of_pictures_that_are_sorted_by_class_is_that_of_their_classes() -> None:
    """The pictures of a folder with subfolders of classes come class by class."""
    by_class = np.repeat(np.eye(4), 1000, axis=0) * 100
    value, (low, high) = inception_score(features(by_class), layer(np.eye(4)))
    assert value == pytest.approx(4, rel=0.01)
    assert high - low < 0.1


def test_the_class_layer_is_read_from_the_published_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANTRY_WEIGHTS_DIR", str(tmp_path))
    found = class_layer(2048)
    assert isinstance(found, str)
    assert "has no class layer" in found
    assert str(tmp_path / CLASSES_FILE) in found
    assert "features before the class layer" in str(class_layer(768))
    weight = torch.randn(1008, 2048)
    torch.save({"fc.weight": weight, "fc.bias": torch.zeros(1008)}, tmp_path / CLASSES_FILE)
    assert "is damaged or another file" in str(class_layer(2048))
    digest = hashlib.sha256((tmp_path / CLASSES_FILE).read_bytes()).hexdigest()
    monkeypatch.setattr(module, "CLASSES_SHA256", digest)
    module._read.cache_clear()
    read = class_layer(2048)
    assert isinstance(read, ClassLayer)
    assert torch.equal(read.weight, weight)
    module._read.cache_clear()
