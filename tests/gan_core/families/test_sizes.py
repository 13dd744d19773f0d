"""With the paper's settings, the networks of every family have the number of parameters of the authors' networks.

A different layer somewhere shows here first. Where ours differ on purpose, the difference is spelled out, layer by layer.
"""

from typing import Any

import pytest
import torch

from gan_core.families import ImageShape, _Unfilled, build_family, family_config
from gan_core.presets.recipes import BIGGAN, R3GAN, STARGAN2


def sizes(family: str, side: int, settings: dict[str, Any] | None = None, /, **data: Any) -> dict[str, int]:
    """Parameters of each network of ``family``, for pictures of ``side`` pixels and 3 channels."""
    with torch.device("meta"), _Unfilled():
        shape = ImageShape(channels=3, height=side, width=side, **data)
        networks = build_family(family, family_config(family, settings or {}), shape).networks
    return {name: sum(p.numel() for p in network.parameters()) for name, network in networks.items()}


# -- from noise ------------------------------------------------------------------------------------------------------


def test_dcgan_at_64_pixels_has_the_sizes_of_the_authors_torch_networks() -> None:
    """3,576,704 and 2,765,568 with 64 maps nearest the picture, and a bias in the three layers without batch norm."""
    assert sizes("dcgan", 64, {"width": 64}) == {
        "generator": 3_576_704 + 3,
        "discriminator": 2_765_568 + 64 + 1,
    }


def test_dcgan_at_64_pixels_can_have_the_kernels_of_the_papers_figure() -> None:
    """Figure 1: 100 to 4x4x1024, then 5x5 kernels to 512, 256, 128 and 3 maps; batch norm everywhere but at the ends."""
    kernels = 25 * (1024 * 512 + 512 * 256 + 256 * 128 + 128 * 3)
    norms = 2 * (1024 + 512 + 256 + 128)
    assert sizes("dcgan", 64, {"kernel": 5}) == {
        "generator": 100 * 16 * 1024 + kernels + norms + 3,
        "discriminator": kernels + norms - 2 * 128 + 128 + 16 * 1024 + 1,
    }


@pytest.mark.parametrize("classes", [10, 100])
def test_cgan_adds_embeddings_of_the_class_to_dcgans_networks(classes: int) -> None:
    """64 coordinates beside z, which are projected; one for each of the pooled maps (Miyato & Koyama 2018, equation 3)."""
    plain, told = sizes("dcgan", 64), sizes("cgan", 64, classes=classes)
    assert told["generator"] - plain["generator"] == 64 * classes + 64 * 16 * 1024
    assert told["discriminator"] - plain["discriminator"] == 1024 * classes


def test_biggan_at_128_pixels_has_the_sizes_of_the_authors_networks() -> None:
    assert sizes("biggan", 128, BIGGAN.model[128], classes=1000) == {
        "generator": 70_433_988,
        "discriminator": 87_982_370,
    }


def test_biggan_at_256_pixels_has_one_block_more_than_at_128() -> None:
    """Tables 4 and 5 of the paper: 8 ch -> 8 ch in both networks, chunks of 20 coordinates, and attention at 64 pixels.

    The discriminator's attention is over 2 ch maps in place of ch.
    """
    at128, at256 = (sizes("biggan", side, BIGGAN.model[side], classes=1000) for side in (128, 256))
    maps = 8 * 96
    block = 2 * (9 * maps**2 + maps) + maps**2 + maps
    # What scales and shifts each of a block's two norms: the embedding of 128 and a chunk of 20.
    assert at256["generator"] - at128["generator"] == block + 2 * 2 * 148 * maps + attention(4 * 96) - attention(2 * 96)
    assert at256["discriminator"] - at128["discriminator"] == block + attention(2 * 96) - attention(96)


def attention(maps: int) -> int:
    """Queries and keys of maps / 8, values of maps / 2 and what becomes of these."""
    return 2 * maps * maps // 8 + 2 * maps * maps // 2


def test_biggan_at_32_pixels_has_the_sizes_of_the_cifar_10_networks() -> None:
    """Three residual blocks of 256 maps, each norm with a scale and a shift of every class; four in the discriminator."""
    assert sizes("biggan", 32, BIGGAN.model[32], classes=10) == {"generator": 4_304_387, "discriminator": 4_207_361}


@pytest.mark.parametrize(
    ("side", "base", "generator", "discriminator"),
    [(1024, 32768, 30_370_060, 29_012_513), (256, 16384, 24_767_458, 24_001_089)],
    ids=["configuration F for FFHQ, 30.37 and 29.01 million", "half as wide at 256 pixels, 24.767 and 24.001 million"],
)
def test_stylegan2_has_the_sizes_that_were_published(side: int, base: int, generator: int, discriminator: int) -> None:
    """The second pair is configuration A of R3GAN's table 2."""
    found = sizes("stylegan2", side, {"channel_base": base})
    assert found == {"generator": generator, "discriminator": discriminator}


def test_r3gan_at_256_pixels_has_the_sizes_of_the_papers_table() -> None:
    """Configuration E of table 2: 23.058 and 23.010 million."""
    found = sizes("r3gan", 256, R3GAN.model[256])
    assert {name: round(count / 1e6, 3) for name, count in found.items()} == {
        "generator": 23.058,
        "discriminator": 23.010,
    }


# -- from pictures ---------------------------------------------------------------------------------------------------


def test_pix2pix_at_256_pixels_has_the_sizes_of_the_authors_networks() -> None:
    """54.414 and 2.769 million."""
    assert sizes("pix2pix", 256, condition_channels=3) == {"generator": 54_413_955, "discriminator": 2_768_705}


def cyclegan_norms(maps: int, layers: int) -> int:
    """What our norms have more than the authors': a scale and a shift a map, where theirs have a bias that is lost in them.

    A norm takes the mean of its input away, and a bias with it.
    """
    return maps * layers


def test_cyclegan_at_256_pixels_differs_from_the_authors_networks_in_its_norms_alone() -> None:
    """11,378,179 and 2,764,737, in the authors' own count 11.378 and 2.765 million."""
    residual = cyclegan_norms(256, 2 * 9)
    outer = cyclegan_norms(64, 2) + cyclegan_norms(128, 2) + cyclegan_norms(256, 1)
    patches = cyclegan_norms(128, 1) + cyclegan_norms(256, 1) + cyclegan_norms(512, 1)
    generator, discriminator = 11_378_179 + residual + outer, 2_764_737 + patches
    assert sizes("cyclegan", 256, classes=2) == {
        **{"a_to_b": generator, "b_to_a": generator},
        **{"a": discriminator, "b": discriminator},
    }


def test_the_contrastive_objective_adds_its_heads_to_each_generator() -> None:
    """0.560 million in the authors' own count: two layers of 256 for each of the five places that are looked at."""
    plain, contrastive = (sizes("cyclegan", 256, {"objective": kind}, classes=2) for kind in ("cycle", "contrastive"))
    assert contrastive["a_to_b"] - plain["a_to_b"] == 560_384


@pytest.mark.parametrize("data", [{"classes": 5}, {"attributes": 5}], ids=["domains", "attributes"])
def test_stargan_at_128_pixels_and_5_domains_has_the_papers_sizes(data: dict[str, int]) -> None:
    """Tables 4 and 5; 8.43 and 44.76 million."""
    found = sizes("stargan", 128, **data)
    assert (found["generator"], found["discriminator"]) == (8_430_528, 44_762_048)


@pytest.mark.parametrize(
    ("domains", "downs", "generator", "mapping", "style", "discriminator"),
    [
        (2, 5, 43_467_395, 2_438_272, 20_916_928, 20_852_290),
        (3, 4, 33_892_995, 3_259_072, 20_949_760, 20_852_803),
    ],
    ids=["CelebA-HQ", "AFHQ"],
)
def test_stargan_v2_at_256_pixels_has_the_sizes_of_the_authors_networks(
    domains: int, downs: int, generator: int, mapping: int, style: int, discriminator: int
) -> None:
    """Tables 5 to 8; for CelebA-HQ the generator has one block more on each side (appendix E)."""
    assert sizes("stargan2", 256, {**STARGAN2.model[256], "downs": downs}, classes=domains) == {
        **{"generator": generator, "mapping": mapping, "style": style, "discriminator": discriminator}
    }
