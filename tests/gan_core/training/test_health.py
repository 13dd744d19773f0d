"""Health: spread and diversity of images, NaN reported at once, a collapse after some patience."""

import math

import pytest
import torch

from gan_core.families import DiversityPair
from gan_core.training.health import HealthMonitor, diversity, spread


def test_spread_is_the_root_mean_square_distance_to_the_mean_image() -> None:
    images = torch.tensor([0.0, 2.0]).view(2, 1, 1, 1).expand(2, 3, 4, 4)
    assert spread(images).item() == pytest.approx(1)
    assert spread(images[:1]).item() == 0
    assert spread(torch.full((8, 1, 4, 4), 0.7)).item() == pytest.approx(0, abs=1e-6)


def test_spread_of_white_noise_is_its_standard_deviation() -> None:
    assert spread(0.3 * torch.randn(500, 1, 8, 8, generator=torch.Generator().manual_seed(0))).item() == pytest.approx(
        0.3, rel=0.02
    )


def test_spread_with_classes_is_relative_to_the_mean_image_of_each_class() -> None:
    images = torch.tensor([0.0, 2.0, 10.0, 16.0]).view(4, 1, 1, 1).expand(4, 3, 4, 4)
    assert spread(images, torch.tensor([0, 0, 3, 3])).item() == pytest.approx(math.sqrt((1 + 1 + 9 + 9) / 4))
    assert spread(images, torch.tensor([0, 1, 2, 3])).item() == 0


def test_one_picture_per_class_is_a_collapse_if_the_batch_is_large_enough() -> None:
    real = torch.randn(8, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    classes = torch.arange(8) % 2
    same = real[classes]
    assert diversity([DiversityPair(fakes=same, reals=real)]) > 0.3
    assert diversity([DiversityPair(fakes=same, reals=real, fake_labels=classes, real_labels=classes)]) < 1e-4
    apart = torch.arange(8)
    assert diversity([DiversityPair(fakes=same, reals=real, fake_labels=apart, real_labels=apart)]) > 0.3


def test_the_least_diverse_pair_counts() -> None:
    real = torch.randn(8, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    dead = DiversityPair(fakes=real[:1].expand(8, -1, -1, -1), reals=real)
    assert diversity([DiversityPair(fakes=real, reals=real)]) == 1
    assert diversity([DiversityPair(fakes=real, reals=real), dead]) == 0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_reported_at_once(value: float) -> None:
    said = HealthMonitor(0.05, patience=5).diagnose({"loss/generator": 1.0, "loss/discriminator": value})
    assert said == f"loss/discriminator is {value}"


def test_low_diversity_is_a_collapse_only_after_patience() -> None:
    watch = HealthMonitor(0.05, patience=3)
    poor, good = {"health/diversity": 0.01}, {"health/diversity": 0.5}
    assert [watch.diagnose(row) for row in (poor, poor, good, poor, poor)] == [None] * 5
    assert watch.low_diversity_steps == 2
    said = watch.diagnose(poor)
    assert said is not None
    assert "collapsed" in said
    assert "0.010" in said
    assert "3 logged steps" in said


def test_ordinary_metrics_are_healthy() -> None:
    assert HealthMonitor(0.05, 1).diagnose({"loss/generator": 5.0, "health/diversity": 0.05}) is None
    assert HealthMonitor(0.05, 1).diagnose({"loss/generator": 5.0}) is None
