"""All figures of 10,000 against 10,000 pictures beside the extraction of their features."""

import time

import numpy as np
import torch

from gan_core.metrics.class_agreement import Labelled, class_accuracies
from gan_core.metrics.evaluate import feature_estimates
from gan_core.metrics.features import Features
from gan_core.metrics.frechet import Moments
from gan_core.metrics.inception import load_inception
from gan_core.metrics.intervals import jackknife_groups
from gan_core.precision import choose_device
from tests.bench import Row

PICTURES = 10_000
"""On each side."""
TIMED = 256
"""Pictures whose extraction is timed: its rate does not depend on their number."""
BATCH = 32
CLASSES = 10
TARGET = 1 / 1.15
"""The figures take at most 15 % of the time of the features."""


def rows() -> list[Row]:
    """Time the features of a few pictures, and every figure of made-up features with the real numbers and width."""
    device = choose_device("auto")
    extractor = load_inception(device=device)
    pictures = torch.randint(0, 256, (BATCH, 3, 32, 32), dtype=torch.uint8)
    extractor(pictures)
    started = time.perf_counter()
    for _ in range(TIMED // BATCH):
        extractor(pictures).cpu()
    features = (time.perf_counter() - started) / TIMED * 2 * PICTURES
    mixing = np.random.default_rng(0).normal(size=(extractor.features, extractor.features)).astype(np.float32)
    real, fake = (_made_up(seed, mixing) for seed in (1, 2))
    started = time.perf_counter()
    estimates, omitted, _ = feature_estimates(real, fake, interval=True, full=True, device=device)
    sides = (_in_classes(side) for side in (real, fake))
    class_accuracies(*sides, classes=CLASSES, device=device)
    figures = time.perf_counter() - started
    if omitted:
        raise AssertionError(f"Not measured: {omitted}")
    note = (
        f"{', '.join(estimates)} and class agreement with intervals: {figures:.0f} s beside {features:.0f} s, "
        f"{figures / features:.1%}"
    )
    name = f"features alone against features and figures, {PICTURES:,} against {PICTURES:,} pictures"
    return [Row(name=name, ratio=features / (features + figures), target=TARGET, note=note)]


def _in_classes(side: Features) -> Labelled:
    order = np.arange(PICTURES)
    return Labelled(rows=side.kept, labels=order % CLASSES, groups=jackknife_groups(PICTURES), pictures=order)


def _made_up(seed: int, mixing: np.ndarray) -> Features:
    """Features that are correlated and not negative, as those of Inception."""
    rows = np.abs(np.random.default_rng(seed).normal(size=(PICTURES, len(mixing))).astype(np.float32) @ mixing)
    moments = Moments(len(mixing))
    moments.update(rows)
    return Features(moments, rows)
