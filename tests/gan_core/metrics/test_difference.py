"""The difference of two figures on the same real pictures has a narrower interval than the figures themselves."""

import dataclasses

import numpy as np
import pytest

from gan_core.metrics.difference import paired_difference
from gan_core.metrics.features import Features
from gan_core.metrics.frechet import Moments
from gan_core.metrics.intervals import fid_estimate
from gan_core.metrics.protocol import Figure, Protocol

PROTOCOL = Protocol(
    metric="fid",
    extractor="e",
    features=4,
    precision="fp32",
    resize="bilinear",
    real_count=400,
    fake_count=400,
    split="train",
    dataset_digest="d",
)


def features(rows: np.ndarray) -> Features:
    moments = Moments(rows.shape[1])
    moments.update(rows)
    return Features(moments, rows.astype(np.float32))


def fid(real: Features, fake: Features, **changes) -> Figure:
    estimate = fid_estimate(real, fake, interval=True)
    low, high = estimate.interval
    values = {"name": "fid", "value": estimate.value, "protocol": PROTOCOL, "generator_digest": "g"}
    return Figure(**{**values, "low": low, "high": high, "jackknife": estimate.leave_out_values, **changes})


def gaussian(seed: int, mean: float, n: int = 400) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 4)) + mean


def test_what_the_real_pictures_do_to_both_figures_cancels() -> None:
    real, fake = features(gaussian(0, 0)), gaussian(1, 2)
    far, near = fid(real, features(fake)), fid(real, features(fake - 0.05))
    assert near.high > far.low  # the intervals overlap
    found = paired_difference(near, far)
    assert found.value == near.value - far.value
    assert found.high < 0
    assert found.beyond_noise
    assert found.high - found.low < (far.high - far.low) / 2


def test_the_interval_holds_the_true_difference_about_19_times_in_20() -> None:
    """Two generators of the same distribution: the true difference is 0."""
    held = 0
    for seed in range(100):
        real = features(gaussian(3 * seed, 0))
        a, b = (fid(real, features(gaussian(3 * seed + k, 0.5))) for k in (1, 2))
        held += not paired_difference(a, b).beyond_noise
    assert 88 <= held <= 99


@pytest.mark.parametrize(
    "change",
    [
        {"jackknife": ()},
        {"name": "kid"},
        {"protocol": dataclasses.replace(PROTOCOL, dataset_digest="other")},
    ],
    ids=lambda change: next(iter(change)),
)
def test_figures_that_are_not_paired_give_no_difference(change: dict) -> None:
    real = features(gaussian(0, 0))
    figure = fid(real, features(gaussian(1, 1)))
    other = dataclasses.replace(figure, **change)
    assert paired_difference(figure, other) is None
    assert paired_difference(other, figure) is None
    assert paired_difference(figure, figure).value == 0
