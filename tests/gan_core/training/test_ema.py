"""The averaged generator: the half-life in images, its limit, and the update of weights."""

import pytest
import torch
from torch import nn

from gan_core.training.ema import AveragedNetworks, ema_decay


def test_after_a_half_life_of_images_half_of_the_old_average_is_left() -> None:
    left = 1.0
    for _ in range(100):
        left *= ema_decay(batch=64, half_life_images=6400, images_seen=10**9)
    assert left == pytest.approx(0.5)


def test_the_half_life_is_limited_to_5_percent_of_the_images_seen() -> None:
    assert ema_decay(64, 10_000, images_seen=64) == pytest.approx(0.5**20)
    assert ema_decay(64, 10_000, images_seen=64_000) == pytest.approx(0.5 ** (64 / 3200))
    assert ema_decay(64, 10_000, images_seen=10**7) == pytest.approx(0.5 ** (64 / 10_000))


def test_decay_grows_with_the_images_seen_and_stays_below_one() -> None:
    decays = [ema_decay(64, 10_000, 64 * step) for step in range(0, 5000, 50)]
    assert decays == sorted(decays)
    assert decays[0] == 0
    assert decays[-1] < 1


def test_the_average_moves_towards_the_live_weights_without_changing_them() -> None:
    live = nn.Linear(3, 2)
    averaged = AveragedNetworks({"generator": live})
    before = [p.clone() for p in averaged.networks["generator"].parameters()]
    with torch.no_grad():
        for parameter in live.parameters():
            parameter.add_(1)
    kept = [p.clone() for p in live.parameters()]
    averaged.update(0.75)
    for old, new in zip(before, averaged.networks["generator"].parameters(), strict=True):
        torch.testing.assert_close(new, old + 0.25)
    assert all(torch.equal(a, b) for a, b in zip(kept, live.parameters(), strict=True))


def test_a_decay_of_zero_copies_the_weights() -> None:
    live = nn.Conv2d(2, 3, 3).to(memory_format=torch.channels_last)
    averaged = AveragedNetworks({"g": live})
    with torch.no_grad():
        live.weight.normal_()
    averaged.update(0.0)
    assert torch.equal(averaged.networks["g"].weight, live.weight)


def test_the_average_requires_no_gradient_and_is_in_evaluation_mode() -> None:
    network = AveragedNetworks({"g": nn.BatchNorm2d(3)}).networks["g"]
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
