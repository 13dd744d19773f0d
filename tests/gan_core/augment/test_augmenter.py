"""The augmenter: draws that depend on the step only, not on the workers, and an adaptive strength."""

from typing import Any

import pytest
import torch
from torch import Tensor

from gan_core.augment import AugmentConfig
from gan_core.augment.augmenter import Augmenter, initial_strength
from gan_core.batch import Batch
from gan_core.errors import SettingsError
from gan_core.nn import collectives
from gan_core.randomness import WorkerSlice

BOTH = [AugmentConfig(kind="diffaugment"), AugmentConfig(kind="ada", strength=0.9)]
KINDS = pytest.mark.parametrize("config", BOTH, ids=["diffaugment", "ada"])


def pictures(n: int = 8, channels: int = 3) -> Tensor:
    return torch.rand(n, channels, 12, 12, generator=torch.Generator().manual_seed(0)) * 2 - 1


def batch_of(
    images: Tensor, key: tuple[int | str, ...] = (1, 0, 7), part: WorkerSlice | None = None, **more: Any
) -> Batch:
    return Batch(real=images, labels=None, key=key, part=part or WorkerSlice(), **more)


def augment(config: AugmentConfig, images: Tensor, draw: str = "real", **batch: Any) -> Tensor:
    return Augmenter(config, 1000)(images, batch_of(images, **batch), draw)


def adaptive(**settings: float) -> Augmenter:
    return Augmenter(AugmentConfig(kind="ada", **settings), 100_000)


def drive(augmenter: Augmenter, real_accuracy: float, steps: range, images: int = 100) -> float:
    for step in steps:
        augmenter.adapt(torch.tensor(real_accuracy), images, step)
    return augmenter.strength.item()


# -- what images go through --------------------------------------------------------------------------------------------


def test_none_gives_back_the_same_object() -> None:
    images = pictures()
    assert augment(AugmentConfig(), images) is images


@KINDS
def test_equal_steps_and_draws_give_equal_images_and_others_differ(config: AugmentConfig) -> None:
    images = pictures()
    first = augment(config, images)
    assert torch.equal(first, augment(config, images))
    assert not torch.equal(first, images)
    assert not torch.allclose(first, augment(config, images, draw="fake"))
    assert not torch.allclose(first, augment(config, images, key=(1, 0, 8)))


@KINDS
def test_two_workers_augment_their_halves_as_one_worker_augments_the_whole(config: AugmentConfig) -> None:
    images = pictures()
    halves = [augment(config, half, part=WorkerSlice(rank, 2)) for rank, half in enumerate(images.chunk(2))]
    torch.testing.assert_close(torch.cat(halves), augment(config, images), rtol=0, atol=1e-6)


@KINDS
def test_computes_in_float32_inside_autocast_and_keeps_float64(config: AugmentConfig) -> None:
    images = pictures()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(augment(config, images), augment(config, images.clone()))
        inside = augment(config, images)
    assert torch.equal(inside, augment(config, images))
    assert augment(config, images.bfloat16()).dtype is torch.float32
    double = augment(config, images.double())
    assert double.dtype is torch.float64
    torch.testing.assert_close(double.float(), inside, rtol=0, atol=1e-4)


@KINDS
def test_gradients_reach_the_generator(config: AugmentConfig) -> None:
    images = pictures().requires_grad_(True)
    augment(config, images).square().sum().backward()
    assert (images.grad.abs().amax(dim=(1, 2, 3)) > 0).all()


@KINDS
def test_channels_last_images_become_the_same(config: AugmentConfig) -> None:
    images = pictures()
    last = augment(config, images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(last, augment(config, images), rtol=0, atol=1e-6)


def test_ada_at_strength_0_changes_nothing() -> None:
    images = pictures()
    torch.testing.assert_close(augment(AugmentConfig(kind="ada", strength=0), images), images, rtol=0, atol=1e-6)


def test_a_fixed_strength_rises_over_the_burn_in() -> None:
    images, config = pictures(), AugmentConfig(kind="ada", strength=0.6)
    torch.testing.assert_close(augment(config, images, progress=0.0), images, rtol=0, atol=1e-6)
    half = AugmentConfig(kind="ada", strength=0.3)
    assert torch.equal(augment(config, images, progress=0.5), augment(half, images))
    assert not torch.equal(augment(config, images), augment(half, images))


def test_an_adaptive_strength_ignores_burn_in() -> None:
    images, augmenter = pictures(), Augmenter(AugmentConfig(kind="ada"), 1000)
    early, late = (augmenter(images, batch_of(images, progress=p), "real") for p in (0.0, 1.0))
    assert torch.equal(early, late)
    assert not torch.equal(early, images)


# -- strength ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "strength"), [(10, 0.8), (1000, 0.6), (10_000, 0.3), (100_000, 0.0), (1_000_000, 0.0)]
)
def test_the_initial_strength_is_larger_for_fewer_pictures(count: int, strength: float) -> None:
    assert initial_strength(count) == pytest.approx(strength)
    assert Augmenter(AugmentConfig(kind="ada"), count).strength.item() == pytest.approx(strength)


def test_the_strength_is_a_float32_buffer_and_a_fixed_one_overrides_the_number_of_pictures() -> None:
    augmenter = Augmenter(AugmentConfig(kind="ada", strength=0.25), 1000)
    assert augmenter.state_dict()["strength"].item() == 0.25
    assert (augmenter.strength.dtype, augmenter.strength.shape) == (torch.float32, ())


def test_a_strength_outside_0_to_1_is_refused_by_name() -> None:
    with pytest.raises(SettingsError, match="strength"):
        AugmentConfig(kind="ada", strength=1.5)


def test_the_strength_changes_every_4th_update_at_the_given_speed() -> None:
    augmenter = adaptive(speed_kimg=4)  # 4,000 images from 0 to 1
    assert drive(augmenter, 1.0, range(0, 3)) == 0
    assert drive(augmenter, 1.0, range(3, 4)) == pytest.approx(0.1)
    assert drive(augmenter, 1.0, range(4, 7)) == pytest.approx(0.1)
    assert drive(augmenter, 1.0, range(7, 8)) == pytest.approx(0.2)


@pytest.mark.parametrize(("real_accuracy", "moves"), [(0.81, 1), (0.79, -1), (1.0, 1), (0.0, -1)])
def test_rises_if_the_mean_sign_is_above_the_target_and_falls_below(real_accuracy: float, moves: int) -> None:
    """Target 0.6: a share of 0.8 judged right."""
    augmenter = adaptive(speed_kimg=4)
    augmenter.strength.fill_(0.5)
    assert drive(augmenter, real_accuracy, range(4)) == pytest.approx(0.5 + 0.1 * moves)


def test_the_mean_of_the_last_four_updates_counts() -> None:
    augmenter = adaptive(speed_kimg=4)
    augmenter.strength.fill_(0.5)
    for step, share in enumerate((0.0, 1.0, 1.0, 1.0)):  # mean sign 0.5
        augmenter.adapt(torch.tensor(share), 100, step)
    assert augmenter.strength.item() == pytest.approx(0.4)
    assert drive(augmenter, 0.81, range(4, 8)) == pytest.approx(0.5)


def test_stays_between_0_and_1() -> None:
    augmenter = adaptive(speed_kimg=1)
    assert drive(augmenter, 1.0, range(0, 40)) == 1.0
    assert drive(augmenter, 0.0, range(40, 80)) == 0.0


@pytest.mark.parametrize("config", [AugmentConfig(), *BOTH], ids=["none", "diffaugment", "fixed ada"])
def test_only_an_adaptive_strength_moves(config: AugmentConfig) -> None:
    augmenter = Augmenter(config, 1000)
    before = augmenter.strength.item()
    assert drive(augmenter, 1.0, range(16)) == before


def test_all_workers_have_the_same_strength(monkeypatch: pytest.MonkeyPatch) -> None:
    """The signs are averaged over workers before an adjustment."""
    augmenter = adaptive(speed_kimg=4)
    augmenter.strength.fill_(0.5)
    seen = []

    def mean_with_a_worker_that_was_never_right(tensor: Tensor) -> Tensor:
        seen.append(tensor.item())
        return (tensor - 1) / 2

    monkeypatch.setattr(collectives, "mean_over_workers", mean_with_a_worker_that_was_never_right)
    assert drive(augmenter, 1.0, range(4)) == pytest.approx(0.4)
    assert seen == [1.0]


def test_a_checkpoint_between_two_adjustments_keeps_the_sum_of_signs() -> None:
    whole, first, second = adaptive(speed_kimg=4), adaptive(speed_kimg=4), adaptive(speed_kimg=4)
    shares = [0.9, 0.95, 1.0, 0.7, 0.9, 0.7, 0.6, 0.9, 1.0, 0.9, 0.8, 0.9]
    for step, share in enumerate(shares):
        whole.adapt(torch.tensor(share), 100, step)
        (first if step < 6 else second).adapt(torch.tensor(share), 100, step)
        if step == 5:
            second.load_state_dict(first.state_dict())
    assert first.state_dict()["sign"] != 0
    for name, tensor in whole.state_dict().items():
        assert torch.equal(second.state_dict()[name], tensor), name


def test_adapting_reads_nothing_back_from_the_device() -> None:
    """The meta device has no values, so reading one would fail."""
    augmenter = adaptive().to("meta")
    for step in range(8):
        augmenter.adapt(torch.empty((), device="meta"), 100, step)
    assert augmenter.strength.device.type == "meta"
