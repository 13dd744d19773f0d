"""The small classifier learns, and is deterministic."""

import numpy as np
import pytest
import torch

from gan_core.metrics.classifier import Classifier, accuracy
from tests.datasets import blobs

CPU = torch.device("cpu")


def dark_and_bright(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    pixels, labels = blobs(count, seed=seed), np.arange(count) % 2
    pixels[labels == 1] = 255 - pixels[labels == 1]
    return pixels, labels


def test_accuracy_is_high_for_separable_classes_and_at_chance_for_random_labels() -> None:
    train, test = dark_and_bright(64, 0), dark_and_bright(200, 1)
    assert accuracy(train, test, classes=2, steps=20, seed=0, device=CPU) > 0.95
    noise = (train[0], np.random.default_rng(0).permutation(train[1]))
    assert 0.2 < accuracy(noise, test, classes=2, steps=20, seed=0, device=CPU) < 0.8


def test_accuracy_is_deterministic_for_a_seed() -> None:
    rng = np.random.default_rng(0)
    hard = rng.integers(0, 256, (64, 1, 16, 16), dtype=np.uint8), rng.integers(0, 3, 64)
    figures = [accuracy(hard, hard, classes=3, steps=8, seed=seed, device=CPU) for seed in (1, 1, 2)]
    assert figures[0] == figures[1] != figures[2]


@pytest.mark.parametrize(("channels", "height", "width"), [(1, 16, 16), (3, 32, 48), (4, 128, 128)])
def test_the_classifier_accepts_any_shape(channels: int, height: int, width: int) -> None:
    assert Classifier(channels, (height, width), 5)(torch.zeros(2, channels, height, width)).shape == (2, 5)
