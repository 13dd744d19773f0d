"""BigGAN's layers against the paper's tables, and spectral norm against the singular values."""

import re

import pytest
import torch
from torch import nn

from gan_core.errors import SettingsError
from gan_core.families import ImageShape, build_family, family_config
from gan_core.families.biggan_layers import (
    Attention,
    SpectralConv2d,
    SpectralEmbedding,
    SpectralLinear,
    SpectralNorm,
    solve_spectral_norms,
)
from gan_core.nn.penalties import orthogonal_penalty
from gan_core.presets.recipes import BIGGAN
from tests.gan_core.families.conftest import small, some_batch
from tests.gan_core.families.updates import losses_of


def test_every_spectral_layer_divides_by_its_largest_singular_value() -> None:
    family = small("biggan", 32)
    for side, network in family.networks.items():
        solve_spectral_norms(network)
        network.eval()
        for name, module in network.named_modules():
            if isinstance(module, SpectralConv2d | SpectralLinear | SpectralEmbedding):
                largest = torch.linalg.matrix_norm(module.spectral(module.weight).detach().flatten(1), 2)
                assert largest.item() == pytest.approx(1, abs=1e-5), (side, name)


def test_power_iteration_runs_in_training_only_and_is_saved() -> None:
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


def test_spectral_norm_has_the_papers_gradient() -> None:
    """Miyato et al. 2018, equation 8: against a float64 finite difference."""
    torch.manual_seed(0)
    weight = torch.randn(4, 3)
    norm = SpectralNorm(weight).double().eval()
    assert torch.autograd.gradcheck(norm, (weight.double().requires_grad_(),))


def test_attention_starts_as_the_identity_and_keeps_the_shape() -> None:
    torch.manual_seed(0)
    attention = Attention(16, 2).eval()
    maps = torch.randn(2, 16, 8, 8)
    assert torch.equal(attention(maps), maps)
    with torch.no_grad():
        attention.gate.fill_(1.0)
    assert attention(maps).shape == maps.shape
    assert not torch.allclose(attention(maps), maps)


def test_attention_has_the_authors_channels() -> None:
    """Each position gathers the values of all others, at half the resolution, by the products of its query with their keys."""
    torch.manual_seed(0)
    attention = Attention(16, 2).double().eval()
    with torch.no_grad():
        attention.gate.fill_(0.7)
    maps = torch.randn(1, 16, 6, 4, dtype=torch.float64)

    def layer(name: str, given: torch.Tensor) -> torch.Tensor:
        weight = getattr(attention, name).weight.flatten(1)
        return torch.einsum("oi,bi...->bo...", weight / torch.linalg.matrix_norm(weight, 2), given)

    def half(given: torch.Tensor) -> torch.Tensor:
        return given.unflatten(3, (2, 2)).unflatten(2, (3, 2)).amax(dim=(3, 5)).flatten(2)[0]

    for name in ("queries", "keys", "values", "output"):
        getattr(attention, name).spectral.iterate(getattr(attention, name).weight.flatten(1), 500)
    queries, keys, values = layer("queries", maps)[0].flatten(1), half(layer("keys", maps)), half(layer("values", maps))
    assert (len(queries), len(keys), len(values)) == (2, 2, 8)
    gathered = torch.stack([values @ torch.softmax(keys.T @ query, dim=0) for query in queries.T], dim=1)
    expected = maps + 0.7 * layer("output", gathered.view(1, 8, 6, 4))
    torch.testing.assert_close(attention(maps), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("side", "maps", "blocks"), [(128, (192, 96), (3, 0)), (256, (384, 192), (3, 1))])
def test_attention_is_at_64_pixels_of_both_networks_as_in_the_papers_tables(
    side: int, maps: tuple[int, int], blocks: tuple[int, int]
) -> None:
    """Tables 4 and 5: behind the generator's block to 64x64, and behind the discriminator's to 64x64."""
    shape = ImageShape(channels=3, height=side, width=side, classes=1000)
    with torch.device("meta"):
        networks = build_family("biggan", family_config("biggan", BIGGAN.model[side]), shape).networks
    generator, discriminator = networks["generator"], networks["discriminator"]
    assert (generator.attention.queries.in_channels, discriminator.attention.queries.in_channels) == maps
    assert (generator.blocks[blocks[0]].conv2.out_channels, discriminator.blocks[blocks[1]].conv2.out_channels) == maps
    assert (4 * 2 ** (blocks[0] + 1), side // 2 ** (blocks[1] + 1)) == (64, 64)
    assert (generator.resolution, discriminator.attends) == (64, blocks[1])


def test_layers_of_the_discriminator_are_counted_from_the_picture() -> None:
    family = small("biggan", 32, attention=16)
    network = family.networks["discriminator"]
    layers = family.discriminator_layers("discriminator")
    assert layers[0][0] is network.blocks[0].conv1.weight
    assert any(parameter is network.attention.gate for parameter in layers[1])
    assert layers[2][0] is network.blocks[1].conv1.weight
    assert sum(map(len, layers)) == len(list(network.parameters()))


def test_each_block_gets_its_own_chunk_of_z() -> None:
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
    assert totals[1] - totals[0] == pytest.approx(
        0.1 * orthogonal_penalty(plain.networks["generator"]).item(), rel=1e-3
    )


def test_consistency_compares_images_with_the_same_images_augmented() -> None:
    family = small("biggan", consistency=10.0)
    data = some_batch(family)
    losses = losses_of(family, "discriminator", data)
    penalty = losses.scalars["penalty/consistency"]
    assert penalty > 0
    torch.testing.assert_close(losses.total.detach(), losses.scalars["loss/discriminator"] + 10 * penalty)
    losses.total.backward()
    assert all(parameter.grad is None for parameter in family.networks["generator"].parameters())


def test_the_consistencies_of_real_and_of_generated_images_are_added(monkeypatch) -> None:
    """Zhao et al. 2021, algorithm 1, with the weight for each."""
    family = small("biggan", consistency=10.0)
    data = some_batch(family)
    real, fake = torch.full((len(data.real),), 2.0), torch.full((len(data.real),), 3.0)
    outputs = torch.cat([real, fake]), torch.zeros(2 * len(data.real))
    monkeypatch.setattr(family, "discriminate_both", lambda *_: outputs)
    assert family.consistency_loss(data, 0).total == 10 * (2.0**2 + 3.0**2)


def test_the_wasserstein_loss_has_its_gradient_penalty() -> None:
    """Gulrajani et al. 2017, equation 3, at points between real and generated images."""
    family = small("biggan", loss="wasserstein", gradient_penalty=10.0)
    losses = losses_of(family, "discriminator", some_batch(family))
    torch.testing.assert_close(
        losses.total.detach(), losses.scalars["loss/discriminator"] + 10 * losses.scalars["penalty/gp"]
    )
    assert losses.scalars["penalty/gp"] > 0


@pytest.mark.parametrize(
    ("size", "settings", "said"),
    [
        (
            48,
            {},
            "biggan generates square pictures of 16, 32, 64, 128 or 256 pixels per side, not 48x48. Change ingest.size",
        ),
        (32, {"attention": 12}, "model.attention: must be 0 or one of 16, 8 for pictures of 32 pixels, not 12"),
        (32, {"latent": 50}, "model.latent: must be a multiple of 4"),
        (32, {"shared_embedding": 0}, "Set shared_embedding, for example to 128"),
    ],
)
def test_an_impossible_network_is_refused_by_the_setting(size: int, settings: dict[str, int], said: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(said)):
        small("biggan", size, 1, 2, **settings)
