"""Directions are the right singular vectors of the weights that take a latent, or the styles."""

import pytest
import torch

from gan_core.errors import SettingsError
from gan_core.families import require
from gan_core.families.noise import NoiseFamily, StyleBasedFamily
from gan_core.inference.directions import factorise, find_directions, layers_of_part
from tests.gan_core.families.conftest import SMALL, small


def test_the_directions_of_a_known_matrix_are_its_right_singular_vectors_in_descending_order() -> None:
    turn, _ = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(1)))
    sizes = torch.tensor([0.5, 7.0, 3.0, 2.0, 0.1])
    tall, _ = torch.linalg.qr(torch.randn(9, 5, generator=torch.Generator().manual_seed(2)))
    vectors, strengths = factorise(tall @ torch.diag(sizes) @ turn, 3)
    assert strengths.tolist() == pytest.approx([7.0, 3.0, 2.0], rel=1e-5)
    assert vectors.norm(dim=1).tolist() == pytest.approx([1.0] * 3)
    alike = (vectors @ turn.T).abs()  # the rows of ``turn`` are the right singular vectors
    assert torch.allclose(alike, torch.eye(5)[[1, 2, 3]], atol=1e-4)


def test_the_sign_of_a_direction_is_fixed_and_there_are_no_more_than_dimensions() -> None:
    vectors, strengths = factorise(torch.diag(torch.tensor([-1.0, -2.0])), 10)
    assert vectors.tolist() == [[0.0, 1.0], [1.0, 0.0]]
    assert strengths.tolist() == [2.0, 1.0]


FIRST = {"dcgan": "project", "cgan": "network.project", "r3gan": "weigh", "stylegan2": "mapping.layers.0"}
"""The layer that takes z; biggan has several, below."""


@pytest.mark.parametrize("name", sorted({*SMALL} - {"biggan"}))
@torch.no_grad()
def test_a_step_of_z_moves_the_first_layer_as_far_as_the_strength_says(name: str) -> None:
    family = small(name)
    generator = family.networks["generator"].eval()
    first, given = generator.get_submodule(FIRST[name]), []
    first.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    latents, labels = family.draw(1, 0)
    family.generate_sample(generator, latents, labels, None)
    before = given[0]
    taken = before[:, : family.config.latent]
    assert torch.cosine_similarity(taken, latents).item() == pytest.approx(1), "z comes first, perhaps normalised"
    found = factorise(family.latent_weights(), 3)
    for vector, strength in zip(*found, strict=True):
        after = before.clone()
        after[:, : family.config.latent] += vector
        moved = first(after) - first(before)
        if name == "r3gan":  # each output multiplies a map
            moved = moved[0, :, None] * generator.basis.flatten(1)
        assert moved.norm().item() == pytest.approx(strength.item(), rel=1e-4)


def test_biggans_weights_act_on_each_chunk_of_z_as_its_layers_do() -> None:
    family = small("biggan")
    generator = family.networks["generator"].eval()
    weights, chunk = family.latent_weights().detach(), generator.chunk
    latents, _ = family.draw(1, 0)
    first = generator.project(latents[:, :chunk]) - generator.project.bias
    rows = first.shape[1]
    assert torch.allclose(weights[:rows] @ latents[0], first[0], atol=1e-5)
    zeros = torch.zeros(1, family.config.shared_embedding)
    gain = generator.blocks[0].norm1.gain(torch.cat([zeros, latents[:, chunk : 2 * chunk]], dim=1))[0]
    assert torch.allclose(weights[rows : rows + len(gain)] @ latents[0], gain, atol=1e-5)


def test_directions_of_styles_are_those_of_the_affine_layers_of_a_part() -> None:
    family = require(small("stylegan2"), StyleBasedFamily)
    weights = family.style_weights()
    layers = len(family.mean_styles(0))
    assert len(weights) == layers
    coarse = find_directions(family, 4, "coarse")
    expected, _ = factorise(torch.cat(weights[layers_of_part(layers, "coarse")]), 4)
    assert torch.equal(coarse.vectors, expected)
    assert not torch.allclose(coarse.vectors, find_directions(family, 4, "fine").vectors)
    assert coarse.unit > 0
    # The affine layer of a 3x3 layer, by the layer itself.
    second = family.networks["generator"].synthesis.second[0].convolve.affine
    style = torch.randn(1, family.config.style)
    assert torch.allclose(weights[0] @ style[0], (second(style) - second.bias * second.bias_scale)[0], atol=1e-5)


@pytest.mark.parametrize("layers", [4, 8, 10, 18])
def test_the_parts_cover_each_layer_once(layers: int) -> None:
    every = [*range(layers)]
    parts = [every[layers_of_part(layers, part)] for part in ("coarse", "middle", "fine")]
    assert [layer for part in parts for layer in part] == every == every[layers_of_part(layers, "all")]
    assert all(parts)


def test_a_family_without_styles_has_one_part() -> None:
    family: NoiseFamily = small("dcgan")
    assert find_directions(family, 3).unit == pytest.approx(3**-0.5)  # its prior is uniform in [-1, 1]
    assert find_directions(small("r3gan"), 3).unit == 1
    with pytest.raises(SettingsError, match="dcgan has no styles"):
        find_directions(family, 3, "coarse")
    with pytest.raises(SettingsError, match="Unknown part 'top'"):
        find_directions(small("stylegan2"), 3, "top")
