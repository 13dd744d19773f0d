"""All figures of 10,000 against 10,000 pictures beside the extraction of their features."""

import time

import numpy as np
import torch

from gan_core.metrics.classes import Classes, class_figures
from gan_core.metrics.copying import copying
from gan_core.metrics.evaluate import Comparison, feature_estimates
from gan_core.metrics.features import Features
from gan_core.metrics.frechet import Moments
from gan_core.metrics.inception import Extractor, load_inception
from gan_core.metrics.inception_score import ClassLayer, inception_score
from gan_core.metrics.protocol import Protocol
from gan_core.precision import choose_device
from tests.bench import Row

PICTURES = 10_000
"""On each side."""
TIMED = 256
"""Pictures whose extraction is timed: its rate does not depend on their number."""
BATCH = 32
CLASSES = 10
INCEPTION_CLASSES = 1008
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
    layer = ClassLayer(torch.randn(INCEPTION_CLASSES, extractor.features), "made up")
    started = time.perf_counter()
    estimates, omitted, near = feature_estimates(real, fake, interval=True, full=True, device=device)
    comparison = Comparison(
        estimates=estimates,
        omitted=omitted,
        neighbours=near,
        real=real,
        fake=fake,
        protocol=_protocol(extractor),
        generator_digest="made up",
        seed=0,
    )
    labels = np.arange(PICTURES) % CLASSES
    classes = Classes(names=tuple(map(str, range(CLASSES))), real=labels, fake=labels)
    of_classes = class_figures(comparison, classes, omitted, device)
    assert near is not None
    copying(
        near.to_real.distances,
        near.real_to_real,
        held_out=False,
        training_count=PICTURES,
        training_total=PICTURES,
    )
    inception_score(fake, layer)
    figures = time.perf_counter() - started
    if omitted:
        raise AssertionError(f"Not measured: {omitted}")
    names = dict.fromkeys([*estimates, *(figure.name for figure in of_classes), "memorisation", "inception_score"])
    note = f"{', '.join(names)}, with intervals: {figures:.0f} s beside {features:.0f} s, {figures / features:.1%}"
    name = f"features alone against features and figures, {PICTURES:,} against {PICTURES:,} pictures"
    return [Row(name=name, ratio=features / (features + figures), target=TARGET, note=note)]


def _protocol(extractor: Extractor) -> Protocol:
    return Protocol(
        metric="fid",
        extractor=extractor.digest,
        features=extractor.features,
        precision=extractor.precision,
        resize=extractor.resize,
        real_count=PICTURES,
        fake_count=PICTURES,
        split="",
        dataset_digest="made up",
    )


def _made_up(seed: int, mixing: np.ndarray) -> Features:
    """Features that are correlated and not negative, as those of Inception."""
    rows = np.abs(np.random.default_rng(seed).normal(size=(PICTURES, len(mixing))).astype(np.float32) @ mixing)
    moments = Moments(len(mixing))
    moments.update(rows)
    return Features(moments, rows)
