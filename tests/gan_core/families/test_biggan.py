"""BigGAN's networks against the paper's tables, and spectral norm against the singular values."""

import re

import pytest
import torch
from torch import nn

from gan_core.errors import SettingsError
from gan_core.families import ImageShape, build_family, family_config
from gan_core.families.biggan import PRESETS
from gan_core.families.biggan_layers import (
    Attention,
    SpectralConv2d,
    SpectralEmbedding,
    SpectralLinear,
    SpectralNorm,
    converge,
)
from gan_core.penalties import orthogonal
from tests.gan_core.families.conftest import small, some_batch
from tests.gan_core.families.updates import losses_of


def sizes(resolution: int, classes: int) -> tuple[int, int]:
    """Parameters of the generator and of the discriminator with the preset."""
    shape = ImageShape(channels=3, height=resolution, width=resolution, classes=classes)
    with torch.device("meta"):
        networks = build_family("biggan", family_config("biggan", PRESETS[resolution]), shape).networks
    return tuple(sum(p.numel() for p in networks[side].parameters()) for side in ("generator", "discriminator"))


def test_the_cifar_10_networks_have_the_size_of_the_paper() -> None:
    assert sizes(32, 10) == (4_304_387, 4_207_361)


@pytest.mark.parametrize(("resolution", "generator", "discriminator"), [(128, 70.4, 88.0), (256, 82.1, 98.7)])
def test_the_imagenet_networks_have_the_size_of_their_tables(
    resolution: int, generator: float, discriminator: float
) -> None:
    """Million parameters, counted through tables 4 and 5; the paper's abstract gives 70.43 for 128 pixels."""
    got = [count / 1e6 for count in sizes(resolution, 1000)]
    assert got == pytest.approx([generator, discriminator], rel=0.01)


def test_every_spectral_layer_divides_by_its_largest_singular_value() -> None:
    family = small("biggan", 32)
    for side, network in family.networks.items():
        converge(network, 400)
        network.eval()
        for name, module in network.named_modules():
            if isinstance(module, SpectralConv2d | SpectralLinear | SpectralEmbedding):
                largest = torch.linalg.matrix_norm(module.spectral(module.weight).detach().flatten(1), 2)
                assert largest.item() == pytest.approx(1, abs=0.01), (side, name)


def test_power_iteration_persists_goes_on_in_training_only_and_is_saved() -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(8, 5))
    norm = SpectralNorm(weight)
    before = norm.left.clone()
    norm.eval()(weight)
    assert torch.equal(norm.left, before)
    for _ in range(300):
        norm.train()(weight)
    vectors = torch.linalg.svd(weight.detach())[0][:, 0]
    assert norm.left.dot(vectors).abs().item() == pytest.approx(1, abs=1e-4)
    assert set(norm.state_dict()) == {"left", "right"}


def test_the_gradient_goes_through_the_norm() -> None:
    """Miyato et al. 2018, equation 8: against a float64 finite difference."""
    torch.manual_seed(0)
    weight = torch.randn(4, 3)
    norm = SpectralNorm(weight).double().eval()
    assert torch.autograd.gradcheck(norm, (weight.double().requires_grad_(),))


def test_attention_starts_as_the_identity_and_keeps_the_shape() -> None:
    torch.manual_seed(0)
    attention = Attention(16).eval()
    maps = torch.randn(2, 16, 8, 8)
    assert torch.equal(attention(maps), maps)
    with torch.no_grad():
        attention.gate.fill_(1.0)
    assert attention(maps).shape == maps.shape
    assert not torch.allclose(attention(maps), maps)


def test_each_block_gets_a_chunk_of_z_of_its_own() -> None:
    """The last chunk changes nothing before the last block: the picture's coarse half stays."""
    family = small("biggan", 32, latent=16, attention=0)
    generator = family.networks["generator"].eval()
    assert generator.chunk == 4
    seen: list[torch.Tensor] = []
    generator.blocks[-2].register_forward_hook(lambda module, given, maps: seen.append(maps))
    latents = torch.randn(1, 16).repeat(2, 1)
    latents[1, -4:] += 1
    with torch.no_grad():
        images = generator(latents, torch.zeros(2, dtype=torch.int64))
    assert torch.equal(seen[0][0], seen[0][1])
    assert not torch.equal(images[0], images[1])


def test_orthogonal_regularisation_joins_the_generators_loss() -> None:
    plain, regular = small("biggan"), small("biggan", orthogonal=0.1)
    totals = [losses_of(family, "generator", some_batch(family)).total.item() for family in (plain, regular)]
    assert totals[1] - totals[0] == pytest.approx(0.1 * orthogonal(plain.networks["generator"]).item(), rel=1e-3)


def test_consistency_compares_images_with_the_same_ones_moved_and_cut() -> None:
    family = small("biggan", consistency=10.0)
    data = some_batch(family)
    losses = losses_of(family, "discriminator", data)
    penalty = losses.terms["penalty/consistency"]
    assert penalty > 0
    torch.testing.assert_close(losses.total.detach(), losses.terms["loss/discriminator"] + 10 * penalty)
    losses.total.backward()
    assert all(parameter.grad is None for parameter in family.networks["generator"].parameters())


def test_the_wasserstein_game_has_its_gradient_penalty() -> None:
    """Gulrajani et al. 2017, equation 3, at points between real and generated images."""
    family = small("biggan", loss="wasserstein", gradient_penalty=10.0)
    losses = losses_of(family, "discriminator", some_batch(family))
    torch.testing.assert_close(
        losses.total.detach(), losses.terms["loss/discriminator"] + 10 * losses.terms["penalty/gp"]
    )
    assert losses.terms["penalty/gp"] > 0


@pytest.mark.parametrize(
    ("size", "settings", "said"),
    [
        (48, {}, "biggan makes square pictures of 16, 32, 64, 128 or 256 pixels a side, not 48x48. Change ingest.size"),
        (32, {"attention": 12}, "model.attention: must be 0 or one of 16, 8 for pictures of 32 pixels, not 12"),
        (32, {"latent": 50}, "model.latent: 50 coordinates cannot be cut into 4 equal chunks"),
        (32, {"shared_embedding": 0}, "set shared_embedding, to 128 for instance"),
    ],
)
def test_what_cannot_be_built_is_refused_by_the_setting(size: int, settings: dict[str, int], said: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(said)):
        small("biggan", size, 1, 2, **settings)
