"""cGAN: DCGAN's networks, class-conditional."""

import pytest
import torch

from gan_core.errors import SettingsError
from gan_core.families.cgan import ConcatenationDiscriminator, ProjectionDiscriminator
from tests.gan_core.families.conftest import small, some_batch


def test_projection_is_the_default_and_adds_the_embeddings_product_with_pooled_features() -> None:
    """Miyato & Koyama 2018, equation 3."""
    family = small("cgan")
    discriminator = family.networks["discriminator"].eval()
    assert isinstance(discriminator, ProjectionDiscriminator)
    data = some_batch(family)
    with torch.no_grad():
        maps = discriminator.network.layers(data.real)
        expected = discriminator.network.judge(maps).flatten() + (
            discriminator.classes.weight[data.labels] * maps.sum(dim=(2, 3))
        ).sum(dim=1)
        torch.testing.assert_close(discriminator(data.real, data.labels), expected)


def test_concatenation_adds_a_channel_to_the_discriminators_input() -> None:
    family = small("cgan", condition="concatenation")
    discriminator = family.networks["discriminator"].eval()
    assert isinstance(discriminator, ConcatenationDiscriminator)
    first = discriminator.network.layers[0]
    assert isinstance(first, torch.nn.Conv2d)
    assert first.in_channels == family.shape.channels + 1
    images = some_batch(family).real
    with torch.no_grad():
        zeros, ones = (discriminator(images, torch.full((len(images),), label)) for label in (0, 1))
    assert not torch.allclose(zeros, ones)


@pytest.mark.parametrize("init", ["normal", "he"])
def test_both_initialisations_reach_the_networks_inside(init: str) -> None:
    weight = small("cgan", init=init, width=64).networks["generator"].network.project.weight
    assert weight.std().item() == pytest.approx(0.02 if init == "normal" else (2 / 24) ** 0.5, rel=0.05)


def test_a_size_that_dcgan_cannot_generate_is_refused_naming_both() -> None:
    with pytest.raises(
        SettingsError, match=r"cgan has the networks of dcgan, and dcgan generates pictures of 16 to 256 pixels"
    ):
        small("cgan", 512)


def test_the_class_does_not_dominate_z_at_initialisation() -> None:
    """A dominant class embedding leads to one picture per class."""
    family = small("cgan", 16, 1, 10, embedding=64, latent=100)
    generator = family.networks["generator"]
    latents = torch.rand(200, 100, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        of_class = generator.network.project.weight[:, 100:] @ generator.classes.weight.T
        of_latents = generator.network.project(torch.cat([latents, torch.zeros(200, 64)], dim=1))
    assert of_class.var(dim=1).mean() < 0.05 * of_latents.var(dim=0).mean()
