"""R3GAN: plain residual networks without normalisation, and a relativistic loss with R1 and R2."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gan_core.errors import SettingsError
from gan_core.families import ImageShape, build_family, family_config
from gan_core.families.r3gan import Block, R3gan
from gan_core.presets.recipes import R3GAN
from tests.gan_core.families.conftest import small, some_batch
from tests.gan_core.families.updates import losses_of


def test_a_block_starts_as_the_identity_and_its_first_layers_are_scaled_down() -> None:
    """Zhang et al. 2019: by depth^(-1/4) for three layers a branch."""
    torch.manual_seed(0)
    block = Block(64, 0.2, depth=16)
    maps = torch.randn(2, 64, 8, 8)
    assert torch.equal(block(maps), maps)
    expected = (2 / 1.04) ** 0.5 * 0.5 / 64**0.5
    assert block.widen.weight.std().item() == pytest.approx(expected, rel=0.05)
    assert block.mix.groups == 8
    assert block.narrow.bias is None


def test_there_is_no_normalisation_and_the_networks_mirror_each_other() -> None:
    shape = ImageShape(channels=3, height=64, width=64)
    with torch.device("meta"):
        networks = build_family("r3gan", family_config("r3gan", R3GAN.model[64]), shape).networks
    modules = [module for network in networks.values() for module in network.modules()]
    assert not [module for module in modules if "Norm" in type(module).__name__]
    widths = {side: [stage[0].narrow.out_channels for stage in network.stages] for side, network in networks.items()}
    assert widths["generator"] == [768, 768, 768, 768, 384] == widths["discriminator"][::-1]
    assert all(len(stage) == 2 for network in networks.values() for stage in network.stages)


def test_a_change_of_resolution_has_a_convolution_only_where_the_number_of_maps_changes() -> None:
    networks = small("r3gan", 32, 1, 0, width=16, width_max=32).networks
    for side, changes in (("generator", [False, False, True]), ("discriminator", [True, False, False])):
        found = [any(isinstance(m, nn.Conv2d) for m in transition) for transition in networks[side].transitions]
        assert found == changes


def test_activations_keep_their_variance_in_both_networks() -> None:
    torch.manual_seed(0)
    family = build_family(
        "r3gan", family_config("r3gan", {"width": 32, "width_max": 128}), ImageShape(channels=3, height=32, width=32)
    )
    with torch.no_grad():
        images = family.networks["generator"](torch.randn(256, 64))
        # Bilinear resampling takes some variance away at each of three doublings, no more.
        assert 0.15 < images.var().item() < 3
        smooth = torch.randn(256, 3, 4, 4).repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)
        assert 0.05 < family.networks["discriminator"](smooth).var().item() < 3


def test_the_loss_is_relativistic_with_both_penalties_times_half_gamma() -> None:
    family = small("r3gan", gamma=3.0, final_gamma=3.0)
    data = some_batch(family)
    discriminator = family.networks["discriminator"]
    fakes = family.fakes(data).detach()
    real, fake = (images.clone().requires_grad_() for images in (data.real, fakes))
    penalties = []
    for images in (real, fake):
        (gradient,) = torch.autograd.grad(discriminator(images).sum(), images)
        penalties.append(gradient.square().sum(dim=(1, 2, 3)).mean())
    game = F.softplus(discriminator(fake) - discriminator(real)).mean()
    losses = losses_of(family, "discriminator", data)
    torch.testing.assert_close(losses.total, game + 1.5 * (penalties[0] + penalties[1]))
    assert losses.scalars["penalty/r1"].item() == pytest.approx(penalties[0].item(), rel=1e-4)
    torch.testing.assert_close(
        family.generator_loss(data, 0).total, F.softplus(discriminator(real) - discriminator(fake)).mean()
    )


def test_gamma_follows_a_cosine_over_the_burn_in() -> None:
    family = small("r3gan", gamma=2.0, final_gamma=0.2)
    assert isinstance(family, R3gan)
    data = some_batch(family)
    got = [family.gamma(dataclasses.replace(data, progress=progress)) for progress in (0.0, 0.5, 1.0)]
    assert got == pytest.approx([2.0, 1.1, 0.2])


@pytest.mark.parametrize(("size", "batch", "gamma"), [(32, 64, (0.4, 0.04)), (32, 512, None), (64, 128, (4.0, 0.4))])
def test_gamma_scales_with_the_inverse_of_the_batch(size: int, batch: int, gamma: tuple[float, float] | None) -> None:
    """From the paper's tables: 0.05 to 0.005 at a batch of 512 for CIFAR-10, 2 to 0.2 at 256 for FFHQ at 64 pixels."""
    chosen = {
        name: value for name, value, _ in R3GAN.derive(ImageShape(channels=3, height=size, width=size), batch, {})
    }
    assert chosen == ({} if gamma is None else pytest.approx({"gamma": gamma[0], "final_gamma": gamma[1]}))


@pytest.mark.parametrize(("every", "joins"), [(1, True), (4, False)])
def test_penalties_are_part_of_each_update_or_lazy(every: int, joins: bool) -> None:
    phases = small("r3gan", penalty_every=every).phases()
    assert [(phase.name, phase.every, phase.accumulates) for phase in phases] == [
        ("discriminator", 1, False), ("r1", every, joins), ("r2", every, True), ("generator", 1, False),
    ]  # fmt: skip


def test_widths_that_are_not_multiples_of_the_groups_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"width: must be a multiple of 8, got 20"):
        family_config("r3gan", {"width": 20})
    with pytest.raises(SettingsError, match=r"width_max: must be at least width"):
        family_config("r3gan", {"width": 64, "width_max": 32})


def test_the_basis_is_learnt_and_weighed_by_z() -> None:
    generator = small("r3gan").networks["generator"]
    assert isinstance(generator.basis, nn.Parameter)
    assert generator.basis.shape == (32, 4, 4)
