"""Pix2Pix: the paper's networks and losses, dropout as noise, colours in Lab, 16 pairs learnt by heart."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gan_core.augment import AugmentConfig
from gan_core.errors import SettingsError
from gan_core.families import ImageShape, _Unfilled, check_family, family_config
from gan_core.families.pix2pix import UNet, dropout_masks
from gan_core.families.translation_layers import PatchDiscriminator
from gan_core.images.colour import lightness, rgb_to_lab
from tests.datasets import blobs, write_prepared
from tests.gan_core.families.translations import small, some_batch, some_pictures, trainer_of


def shape_of(size: int = 256, **data: object) -> ImageShape:
    return ImageShape(channels=3, height=size, width=size, **{"condition_channels": 3, **data})


@pytest.mark.parametrize(("halvings", "field"), [(3, 70), (2, 34), (1, 16)])
def test_each_judgement_is_of_a_patch(halvings: int, field: int) -> None:
    """A change of one pixel moves only values whose patch holds it; without norms, which look at all of a picture."""
    torch.manual_seed(0)
    network = PatchDiscriminator(3, 4, halvings, 0.2, shape_of(160)).double()
    network.layers = torch.nn.Sequential(*(m for m in network.layers if not hasattr(m, "track_running_stats")))
    image = torch.rand(1, 3, 160, 160, dtype=torch.float64, requires_grad=True)
    judged = network(image)
    judged[0, 0, judged.shape[2] // 2, judged.shape[3] // 2].backward()
    rows = image.grad.abs().sum(dim=(0, 1, 3)).nonzero()
    assert rows.max() - rows.min() + 1 == field


def test_pictures_too_small_for_the_patches_or_the_depth_are_refused_by_the_setting() -> None:
    with pytest.raises(
        SettingsError, match=r"model\.patch_halvings: 3 is too large for pictures of 16x16 pixels\. Set it to at most 2"
    ):
        check_family("pix2pix", family_config("pix2pix", {}), shape_of(16))
    with pytest.raises(SettingsError, match=r"model\.depth: must be 3 to 4 for pictures of 16x16 pixels, got 5"):
        check_family("pix2pix", family_config("pix2pix", {"depth": 5, "patch_halvings": 1}), shape_of(16))
    with pytest.raises(
        SettingsError, match=r"ingest\.channels: colourisation needs 3 channels, from a condition of 1, not 3 from 3"
    ):
        check_family("pix2pix", family_config("pix2pix", {}), shape_of(64, derived="greyscale"))


def test_the_losses_are_the_papers() -> None:
    family = small("pix2pix", l1=7.0)
    batch = some_batch(family, n=4)
    made, judge = family.fakes(batch), family.networks["discriminator"]
    real, fake = (judge(torch.cat([batch.condition, pictures], dim=1)) for pictures in (batch.real, made))
    ones, zeros = torch.ones_like(real), torch.zeros_like(real)
    entropy = F.binary_cross_entropy_with_logits
    wanted = (entropy(real, ones) + entropy(fake, zeros)) / 2
    torch.testing.assert_close(family.discriminator_loss(batch, 0).total, wanted)
    wanted = entropy(fake, ones) + 7 * (made - batch.real).abs().mean()
    torch.testing.assert_close(family.generator_loss(batch, 0).total, wanted)


def test_augmentation_is_refused_for_what_changes_both_of_a_pair(tmp_path: Path) -> None:
    data = write_prepared(tmp_path / "data", blobs(8, 16, 3), conditions=blobs(8))
    with pytest.raises(
        SettingsError, match=r"train\.augment\.kind: pix2pix cannot use ada.*train\.jitter and train\.mirror"
    ):
        trainer_of("pix2pix", data, tmp_path, augment=AugmentConfig(kind="ada"))


# -- noise -----------------------------------------------------------------------------------------------------------


def test_dropout_is_named_by_seed_and_picture_and_keeps_the_mean() -> None:
    shapes = [(64, 4, 4), (32, 8, 8)]
    noise = torch.rand(5, 64 * 16 + 32 * 64, generator=torch.Generator().manual_seed(0))
    whole = dropout_masks(shapes, 0.25, noise)
    assert [tuple(layer.shape) for layer in whole] == [(5, 64, 4, 4), (5, 32, 8, 8)]
    for layer in whole:
        assert layer.unique().tolist() == pytest.approx([0, 4 / 3])
        assert layer.mean() == pytest.approx(1, abs=0.05)
        assert not torch.equal(layer[0], layer[1])
    family = small("pix2pix")
    drawn = family.translation_noise(5, 16, 16, seed=1, first=0)
    assert drawn is not None
    assert torch.equal(family.translation_noise(1, 16, 16, seed=1, first=3), drawn[3:4])
    assert not torch.equal(family.translation_noise(5, 16, 16, seed=2, first=0), drawn)


def test_without_dropout_nothing_is_random() -> None:
    family = small("pix2pix", dropout=0.0)
    images = some_pictures(2, 1)
    with torch.no_grad():
        assert torch.equal(family.translate(images, seed=1), family.translate(images, seed=2))


def test_the_first_three_layers_on_the_way_up_have_noise() -> None:
    with torch.device("meta"), _Unfilled():
        network = UNet(3, 3, family_config("pix2pix", {}), depth=8)
    assert network.noise_shapes(256, 512) == [(512, 2, 4), (512, 4, 8), (512, 8, 16)]


# -- colours ---------------------------------------------------------------------------------------------------------


def test_colourisation_keeps_the_lightness_of_its_picture() -> None:
    family = small("colourisation")
    grey = some_pictures(2, 1) * 0.5  # no colour at either end of the scale: there is none to choose there
    with torch.no_grad():
        family.networks["generator"].picture.weight.mul_(0.1)
        family.networks["generator"].picture.bias.copy_(torch.tensor([0.05, -0.05]))  # a colour that sRGB has, not grey
        made = family.translate(grey)
    lab = rgb_to_lab((made + 1) / 2)
    assert made.shape == (2, 3, 16, 16)
    assert lab[:, 1:].abs().max() > 1
    torch.testing.assert_close(lab[:, :1], (grey + 1) * 50, rtol=0, atol=1.0)


def test_its_targets_are_the_colours_of_the_real_pictures() -> None:
    family = small("colourisation")
    batch = some_batch(family, n=2)
    pixels = ((batch.real + 1) * 127.5).round().to(torch.uint8)
    batch.real = pixels / 127.5 - 1
    batch.condition = torch.from_numpy(lightness(pixels.numpy())) / 127.5 - 1
    wanted = family.targets(batch)
    assert wanted.shape == (2, 2, 16, 16)
    assert wanted.abs().max() <= 1
    # From what is wanted and the condition comes the real picture back, but for L's rounding to 1 of 255.
    torch.testing.assert_close(family.pictures(wanted, batch.condition), batch.real, rtol=0, atol=0.03)


# -- learning --------------------------------------------------------------------------------------------------------


def test_it_learns_16_pairs_by_heart(tmp_path: Path) -> None:
    """To 12 grey levels of error, where the best single answer to all of them is 62 away."""
    rng = np.random.default_rng(0)
    conditions, pixels = (
        rng.integers(0, 256, (16, channels, 4, 4), np.uint8).repeat(4, 2).repeat(4, 3) for channels in (1, 3)
    )
    trainer = trainer_of(
        "pix2pix",
        write_prepared(tmp_path / "data", pixels, conditions=conditions),
        tmp_path,
        model={"width": 16},
        **{"steps": 200, "batch": 16, "log_every": 50, "checkpoint_every": 200, "decay_from": 0.5},
        **{"generator_lr": 4e-3, "discriminator_lr": 2e-4},
    )
    trainer.run()
    wanted = torch.from_numpy(pixels).float()
    assert (wanted - wanted.median(dim=0).values).abs().mean() > 60
    assert (trainer.generator.translate(torch.from_numpy(conditions)).float() - wanted).abs().mean() < 12
