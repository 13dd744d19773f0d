"""DCGAN follows Radford et al. 2015."""

import re
from typing import Any

import pytest
import torch
from torch import nn

from gan_core.errors import SettingsError
from gan_core.families import FAMILIES, Batch, ImageShape, build_family, family_config
from gan_core.families.dcgan import Dcgan, DcganConfig, Discriminator
from gan_core.families.noise import latents_from_uniform
from gan_core.nn.batch_norm import BatchNorm2d
from gan_core.nn.convolution import Conv2d, ConvTranspose2d
from gan_core.nn.initialise import init_he
from gan_core.randomness import WorkerSlice

SHAPES = [
    (1, 16, 16), (2, 16, 16), (3, 32, 32), (1, 28, 28), (4, 64, 64), (1, 128, 128), (3, 16, 32), (1, 64, 32), (3, 24, 20),
]  # fmt: skip


def make(channels: int = 1, height: int = 16, width: int = 16, /, **settings: Any) -> Dcgan:
    torch.manual_seed(0)
    config = DcganConfig(**{"width": 8, "latent": 10, **settings})
    family = build_family("dcgan", config, ImageShape(channels=channels, height=height, width=width))
    assert isinstance(family, Dcgan)
    return family


def batch(family: Dcgan, n: int = 6, keep: bool = True) -> Batch:
    shape = family.shape
    real = torch.rand(n, shape.channels, shape.height, shape.width, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return Batch(real=real, labels=None, key=(0, 0, 0), part=WorkerSlice(), keep=keep)


# -- the networks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_pictures_and_logits_have_their_shapes_and_ranges(shape: tuple[int, int, int]) -> None:
    family = make(*shape)
    images = family.sample(3, seed=0)
    assert images.shape == (3, *shape)
    assert images.abs().max() <= 1
    assert family.networks["discriminator"](images).shape == (3,)


def test_the_papers_network_for_64_pixels() -> None:
    """Figure 1: 100 coordinates, 4x4x1024 projected, 512, 256 and 128 maps on the way to 64x64."""
    family = make(3, 64, 64, width=128, latent=100)
    generator, discriminator = family.networks["generator"], family.networks["discriminator"]
    assert (generator.project.in_features, generator.base) == (100, (1024, 4, 4))
    ups = [layer for layer in generator.layers if isinstance(layer, nn.ConvTranspose2d)]
    assert [layer.out_channels for layer in ups] == [512, 256, 128, 3]
    downs = [layer for layer in discriminator.layers if isinstance(layer, nn.Conv2d)]
    assert [layer.out_channels for layer in downs] == [128, 256, 512, 1024]
    assert all(layer.stride == (2, 2) for layer in [*ups, *downs])


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (3, 24, 20)], ids=str)
def test_kernels_may_be_those_of_the_papers_figure(shape: tuple[int, int, int]) -> None:
    """Figure 1 has 5x5."""
    family = make(*shape, kernel=5)
    images = family.sample(3, seed=0)
    assert images.shape == (3, *shape)
    assert family.networks["discriminator"](images).shape == (3,)
    with pytest.raises(SettingsError, match=r"kernel: must be 4 or 5, got 3"):
        make(*shape, kernel=3)


def test_the_defaults_are_the_papers() -> None:
    config = DcganConfig()
    assert (config.latent, config.prior, config.width, config.slope) == (100, "uniform", 128, 0.2)
    assert (config.loss, config.init) == ("non-saturating", "normal")


@pytest.mark.parametrize("size", [16, 32, 64, 128])
def test_batch_norm_is_everywhere_but_at_the_generators_output_and_the_discriminators_input(size: int) -> None:
    family = make(3, size, size)
    generator = [type(layer) for layer in family.networks["generator"].layers]
    assert generator[:2] == [BatchNorm2d, nn.ReLU]  # behind the projection
    assert generator[-2:] == [ConvTranspose2d, nn.Tanh]
    assert generator[2:-2] == [ConvTranspose2d, BatchNorm2d, nn.ReLU] * ((len(generator) - 4) // 3)
    discriminator = [type(layer) for layer in family.networks["discriminator"].layers]
    assert discriminator[:2] == [Conv2d, nn.LeakyReLU]
    assert discriminator[2:] == [Conv2d, BatchNorm2d, nn.LeakyReLU] * ((len(discriminator) - 2) // 3)


@pytest.mark.parametrize("slope", [0.0, 0.2, 0.37])
def test_every_leaky_relu_has_the_slope_and_there_is_no_pooling(slope: float) -> None:
    modules = [m for network in make(1, 64, 64, slope=slope).networks.values() for m in network.modules()]
    leaks = [module.negative_slope for module in modules if isinstance(module, nn.LeakyReLU)]
    assert leaks == [slope] * 4
    assert not [module for module in modules if "Pool" in type(module).__name__ or "Upsample" in type(module).__name__]


def test_weights_are_initialised_as_in_the_paper() -> None:
    family = make(3, 32, 32, width=64, latent=100)
    for network in family.networks.values():
        for module in network.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)) and module.weight.numel() > 3000:
                assert module.weight.mean().item() == pytest.approx(0, abs=1e-3)
                assert module.weight.std().item() == pytest.approx(0.02, rel=0.05)
            if isinstance(module, nn.BatchNorm2d):
                assert module.weight.mean().item() == pytest.approx(1, abs=0.01)
                assert module.weight.std().item() == pytest.approx(0.02, rel=0.4)
            if getattr(module, "bias", None) is not None:
                assert module.bias.abs().max() == 0


@pytest.mark.parametrize("slope", [0.0, 0.2, 0.5])
def test_he_initialisation_preserves_the_variance_through_the_discriminator(slope: float) -> None:
    """Without batch norm's help, inside each map (at its border, padding takes a part of the sum away), over 12 draws."""
    draws = []
    for seed in range(12):
        torch.manual_seed(seed)
        discriminator = Discriminator(DcganConfig(width=32, slope=slope), ImageShape(channels=3, height=64, width=64))
        init_he(discriminator, slope)
        moments, maps = [], torch.randn(2, 3, 64, 64)
        with torch.no_grad():
            for layer in discriminator.layers:
                if not isinstance(layer, nn.BatchNorm2d):
                    maps = layer(maps)
                if isinstance(layer, nn.LeakyReLU):
                    moments.append(maps[:, :, 1:-1, 1:-1].square().mean())
        draws.append(torch.stack(moments))
    assert torch.stack(draws).mean(dim=0).tolist() == pytest.approx([1.0] * 4, rel=0.12)


def test_init_he_of_the_discriminator_follows_its_slope() -> None:
    """Relative to the paper's default gain; without it, a search over slopes would measure bad initialisation."""
    weights = [make(init="he", slope=slope).networks["discriminator"].layers[0].weight for slope in (0.0, 0.5)]
    torch.testing.assert_close(weights[1] * 1.25**0.5, weights[0])


def test_he_initialisation_of_the_generator_ignores_the_discriminators_slope() -> None:
    """The gain of ReLU is sqrt(2) for any negative slope of the discriminator, so a search over slopes must not change it."""
    first, second = make(init="he", slope=0.0), make(init="he", slope=0.5)
    assert torch.equal(first.networks["generator"].layers[2].weight, second.networks["generator"].layers[2].weight)


@pytest.mark.parametrize(
    ("channels", "height", "width", "said"),
    [
        (1, 15, 32, "16 to 256 pixels per side, not 15x32. Change ingest.size"),
        (1, 32, 257, "16 to 256 pixels per side, not 32x257. Change ingest.size"),
        (1, 30, 30, "sides that are multiples of 4, not 30x30. Change ingest.size, for example to [32, 32]"),
        (1, 16, 30, "sides that are multiples of 4, not 16x30. Change ingest.size, for example to [16, 32]"),
        (1, 127, 127, "sides that are multiples of 16, not 127x127. Change ingest.size, for example to [128, 128]"),
        (5, 32, 32, "1 to 4 channels, not 5. Change ingest.channels"),
        (0, 32, 32, "1 to 4 channels, not 0. Change ingest.channels"),
    ],
)
def test_an_impossible_shape_is_refused_by_the_setting_to_change(
    channels: int, height: int, width: int, said: str
) -> None:
    with pytest.raises(SettingsError, match=re.escape(said)):
        make(channels, height, width)


def test_settings_out_of_range_and_unknown_families_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"model\.slope: must lie in \[0, 1\), got 1\.0"):
        family_config("dcgan", {"slope": 1})
    with pytest.raises(SettingsError, match=r"model\.family: unknown family 'dcgann'\. Did you mean 'dcgan'\?"):
        family_config("dcgann", {})
    assert FAMILIES["dcgan"] is Dcgan


# -- the game --------------------------------------------------------------------------------------------------------


def test_each_sides_update_gives_the_other_side_no_gradient() -> None:
    family = make()
    generator, discriminator = family.networks["generator"], family.networks["discriminator"]
    data = batch(family)
    family.discriminator_loss(data, 0).total.backward()
    assert all(parameter.grad is None for parameter in generator.parameters())
    assert all(parameter.grad.abs().sum() > 0 for parameter in discriminator.parameters() if parameter.dim() == 4)
    for parameter in discriminator.parameters():
        parameter.grad = None
        parameter.requires_grad_(False)  # as the trainer does for this update
    family.generator_loss(data, 0).total.backward()
    assert all(parameter.grad is None for parameter in discriminator.parameters())
    assert all(parameter.grad.abs().sum() > 0 for parameter in generator.parameters() if parameter.dim() > 1)


@pytest.mark.parametrize("loss", ["non-saturating", "minimax"])
def test_the_losses_are_cross_entropy_of_real_and_generated_images(loss: str) -> None:
    family = make(loss=loss)
    data = batch(family)
    discriminator = family.networks["discriminator"]
    got = family.discriminator_loss(data, 0)
    fakes = data.cached("fakes", lambda: pytest.fail("the fakes were to be kept"))
    with torch.no_grad():
        real, fake = discriminator(data.real), discriminator(fakes)
        cross_entropy = nn.functional.binary_cross_entropy_with_logits
        expected = cross_entropy(real, torch.ones(6)) + cross_entropy(fake, torch.zeros(6))
        torch.testing.assert_close(got.total.detach(), expected)
        game = cross_entropy(fake, torch.ones(6)) if loss == "non-saturating" else -cross_entropy(fake, torch.zeros(6))
        torch.testing.assert_close(family.generator_loss(data, 0).total, game)
    assert got.scalars["health/real_right"].item() == (real > 0).float().mean().item()
    assert got.scalars["health/fake_right"].item() == (fake < 0).float().mean().item()
    assert not any(term.requires_grad for term in got.scalars.values())


@pytest.mark.parametrize("prior", ["uniform", "normal"])
def test_both_updates_use_the_same_images_cached_or_not(prior: str) -> None:
    family = make(prior=prior)
    kept, again = batch(family, keep=True), batch(family, keep=False)
    assert torch.equal(family.fakes(kept), family.fakes(again))
    assert family.fakes(kept) is family.fakes(kept)
    assert family.fakes(again) is not family.fakes(again)


def test_without_caching_the_gradients_are_the_same() -> None:
    gradients = []
    for keep in (True, False):
        family = make()
        data = batch(family, keep=keep)
        family.discriminator_loss(data, 0).total.backward()
        found = [p.grad.clone() for p in family.networks["discriminator"].parameters()]
        family.generator_loss(data, 0).total.backward()
        gradients.append(found + [p.grad for p in family.networks["generator"].parameters()])
    for first, second in zip(*gradients, strict=True):
        torch.testing.assert_close(first, second)


# -- sampling --------------------------------------------------------------------------------------------------------


def test_picture_i_of_a_seed_is_the_same_in_any_batch() -> None:
    family = make(init="he")
    for index in range(4):  # running statistics, or the untrained network makes nothing but grey
        family.networks["generator"].train()(torch.rand(64, 10, generator=torch.Generator().manual_seed(index)) * 2 - 1)
    family.networks["generator"].eval()
    whole = family.sample(20, seed=5)
    torch.testing.assert_close(family.sample(3, seed=5, first=9), whole[9:12], rtol=0, atol=1e-5)
    assert not torch.allclose(family.sample(3, seed=6), whole[:3], atol=1e-2)


def test_a_label_and_an_impossible_truncation_are_refused() -> None:
    with pytest.raises(SettingsError, match="label: dcgan is unconditional and takes no label"):
        make().sample(1, 0, label=3)
    with pytest.raises(SettingsError, match=r"truncation: must be above 0, got -1"):
        make().sample(1, 0, truncation=-1.0)


@pytest.mark.parametrize("prior", ["uniform", "normal"])
def test_latents_follow_their_prior_and_truncation_bounds_them(prior: str) -> None:
    table = torch.rand(40_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).clip(1e-12, 1 - 1e-12)
    full = latents_from_uniform(table, prior, None)
    assert full.mean().item() == pytest.approx(0, abs=0.02)
    assert full.std().item() == pytest.approx(1 if prior == "normal" else 3**-0.5, rel=0.02)
    spreads = []
    for truncation in (0.25, 0.5, 0.9):
        bounded = latents_from_uniform(table, prior, truncation)
        assert bounded.abs().max() <= truncation + 1e-6
        assert bounded.abs().max() > 0.95 * truncation
        spreads.append(bounded.std().item())
    assert spreads == sorted(spreads)
    assert spreads[-1] < full.std()


def test_truncation_reduces_diversity() -> None:
    family = make(init="he")
    with torch.no_grad():
        family.networks["generator"].train()
        for index in range(4):
            family.sample(64, 0, first=64 * index)
        family.networks["generator"].eval()
        spread = [family.sample(64, 0, truncation=bound).std(dim=0).mean().item() for bound in (0.1, 0.5, None)]
    assert spread[0] < 0.5 * spread[1] < spread[1] < spread[2]


def test_a_discriminator_is_a_function_of_settings_and_seed() -> None:
    networks = []
    for _ in range(2):
        torch.manual_seed(3)
        networks.append(Discriminator(DcganConfig(width=4), ImageShape(channels=1, height=16, width=16)))
    assert all(torch.equal(a, b) for a, b in zip(*(n.parameters() for n in networks), strict=True))
