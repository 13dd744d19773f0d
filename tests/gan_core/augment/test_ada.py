"""ADA: each transformation by itself, and none on an image that did not draw it."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor

from gan_core.augment import ada
from gan_core.augment.ada import Transformations

WARPS = ("scale", "before", "stretch", "after", "drift_x", "drift_y")
SHAPES = [(3, 16, 16), (1, 12, 20), (2, 9, 7), (4, 8, 8), (3, 4, 4), (1, 2, 3)]


def pictures(n: int = 2, channels: int = 3, height: int = 16, width: int = 16, **like) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(n, channels, height, width, generator=generator).mul(2).sub(1).to(**like)


def smooth(size: int, x0: float = 0.0, y0: float = 0.0) -> Tensor:
    """A soft blob at (x0, y0) pixels from the centre, (1, 1, size, size), float64; y points down."""
    place = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    blob = torch.exp(-((place[None] - x0) ** 2 + (place[:, None] - y0) ** 2) / (2 * 3.0**2))
    return blob.view(1, 1, size, size)


def numbers(n: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(n, len(ada.UNIFORMS), generator=generator)
    return uniform, torch.randn(n, len(ada.NORMALS), generator=generator)


def chosen(strength: float, n: int, seed: int = 1, height: int = 16, width: int = 16) -> Transformations:
    return ada.sample_transformations(torch.tensor(strength), *numbers(n, seed), height, width)


def only(n: int, **values: float) -> Transformations:
    """Transformations that change nothing but what ``values`` say."""
    neutral = chosen(0.0, n)
    return dataclasses.replace(
        neutral, **{name: torch.full_like(getattr(neutral, name), value) for name, value in values.items()}
    )


def centroid(images: Tensor) -> tuple[float, float]:
    """Where the first image's light is, in pixels from the centre."""
    image, place = images[0, 0], torch.arange(images.shape[-1], dtype=images.dtype) - (images.shape[-1] - 1) / 2
    return (image.sum(0) @ place / image.sum()).item(), (image.sum(1) @ place / image.sum()).item()


# -- strength ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_strength_0_changes_nothing_at_all(shape: tuple[int, int, int]) -> None:
    images = pictures(4, *shape)
    torch.testing.assert_close(ada.ada(images, torch.tensor(0.0), *numbers(4)), images, rtol=0, atol=1e-6)
    neutral = chosen(0.0, 4, height=shape[1], width=shape[2])
    assert not neutral.warp.any()
    # Blitting and the choice of what was resampled are exact; only the product with a colour matrix rounds.
    blitted = ada.shift(
        ada.turn(ada.mirror(images, neutral.mirror), neutral.quarters), neutral.right, neutral.down, mirror=True
    )
    assert torch.equal(blitted, images)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_resampling_of_an_image_that_does_not_move_gives_it_back(shape: tuple[int, int, int]) -> None:
    """The filters are exact inverses up to the edge, not only because unwarped images are kept."""
    images = pictures(2, *shape)
    torch.testing.assert_close(ada.warp(images, only(2)), images, rtol=0, atol=1e-5)
    images = images.double()
    torch.testing.assert_close(ada.warp(images, only(2)), images, rtol=0, atol=1e-10)


NEUTRAL = {
    **{"mirror": 0, "quarters": 0, "right": 0, "down": 0, "scale": 1, "before": 0, "stretch": 1, "after": 0},
    **{"drift_x": 0, "drift_y": 0, "brightness": 0, "contrast": 1, "luma": 1, "hue": 0, "saturation": 1},
}
# How often a draw changes something: mirror and luma in half of the cases, turns in three quarters.
CHANGES = {"mirror": 0.5, "luma": 0.5, "quarters": 0.75}


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
def test_each_transformation_is_applied_with_the_strength_as_probability(strength: float) -> None:
    n = 20_000
    does = chosen(strength, n, height=4096, width=4096)  # so large that no whole shift is 0
    for name, neutral in NEUTRAL.items():
        share = (getattr(does, name) != neutral).float().mean().item()
        expected = strength * CHANGES.get(name, 1.0)
        if name in ("before", "after"):
            expected = 1 - math.sqrt(1 - strength)
        assert share == pytest.approx(expected, abs=0.015), name
    rotated = ((does.before != 0) | (does.after != 0)).float().mean().item()
    assert rotated == pytest.approx(strength, abs=0.015)


def test_images_and_transformations_are_drawn_independently() -> None:
    does = chosen(0.5, 20_000, height=4096, width=4096)
    drawn = torch.stack([(getattr(does, name) != NEUTRAL[name]).double() for name in NEUTRAL])
    together = torch.corrcoef(drawn) - torch.eye(len(NEUTRAL))
    pairs = {("right", "down"), ("drift_x", "drift_y")}  # one draw for both directions; rotations make two of one
    for i, a in enumerate(NEUTRAL):
        for j, b in enumerate(NEUTRAL):
            if (a, b) in pairs or (b, a) in pairs:
                assert together[i, j] > 0.99
            else:
                assert abs(together[i, j]) < 0.04, (a, b)


def test_parameters_have_the_papers_standard_deviations() -> None:
    does = chosen(1.0, 50_000, height=4096, width=2048)
    assert does.scale.log2().std().item() == pytest.approx(0.2, rel=0.03)
    assert does.stretch.log2().std().item() == pytest.approx(0.2, rel=0.03)
    assert does.contrast.log2().std().item() == pytest.approx(0.5, rel=0.03)
    assert does.saturation.log2().std().item() == pytest.approx(1.0, rel=0.03)
    assert does.brightness.std().item() == pytest.approx(0.2, rel=0.03)
    assert (does.drift_x / 2048).std().item() == pytest.approx(0.125, rel=0.03)
    assert (does.drift_y / 4096).std().item() == pytest.approx(0.125, rel=0.03)
    assert (does.right.abs().max().item(), does.down.abs().max().item()) == (256, 512)
    for angle in (does.before, does.after, does.hue):
        assert angle.std().item() == pytest.approx(math.pi / math.sqrt(3), rel=0.03)
    does = chosen(1.0, 50_000, height=16, width=16)
    assert does.quarters.bincount().tolist() == pytest.approx([12_500] * 4, rel=0.05)


def test_images_that_are_not_square_are_not_turned_by_quarters() -> None:
    assert chosen(1.0, 100, height=16, width=8).quarters.tolist() == [0] * 100
    images = pictures(2, 3, 4, 6)
    assert torch.equal(ada.turn(images, torch.tensor([1, 2])), images)


def test_only_warped_images_are_resampled() -> None:
    images = pictures(64)
    uniform, normal = numbers(64)
    colours_off = uniform.clone()
    for name in ada.UNIFORMS:
        if name.startswith("if_") and name not in ("if_scale", "if_before", "if_stretch", "if_after", "if_drift"):
            colours_off[:, ada.UNIFORMS.index(name)] = 0.999
    strength = torch.tensor(0.2)
    found = ada.ada(images, strength, colours_off, normal)
    warp = ada.sample_transformations(strength, colours_off, normal, 16, 16).warp
    assert 10 < warp.sum() < 54
    changed = (found - images).abs().amax(dim=(1, 2, 3)) > 1e-6
    assert torch.equal(changed, warp)


@pytest.mark.parametrize("warped", [0, 3, 8])
def test_images_that_drew_no_warp_are_left_out_of_it_with_the_same_result(warped: int) -> None:
    images = pictures(8).requires_grad_(True)
    params = dataclasses.replace(chosen(1.0, 8), warp=torch.arange(8) < warped)
    found = ada._warp_drawn(images, params, exact=True)
    expected = torch.where(params.warp[:, None, None, None], ada.warp(images, params), images)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    upstream = pictures(8).flip(3)
    changes = [torch.autograd.grad(made, images, upstream)[0] for made in (found, expected)]
    torch.testing.assert_close(*changes, rtol=0, atol=1e-5)


# -- pixel blitting ----------------------------------------------------------------------------------------------------


def test_mirror_exchanges_left_and_right_where_it_is_drawn() -> None:
    images = pictures()
    found = ada.mirror(images, torch.tensor([True, False]))
    assert torch.equal(found[0], images[0].flip(2))
    assert torch.equal(found[1], images[1])


def test_turn_rotates_by_quarters_anticlockwise() -> None:
    images = pictures(4)
    found = ada.turn(images, torch.arange(4))
    for quarters in range(4):
        expected = np.rot90(images[quarters].numpy(), quarters, axes=(1, 2))
        np.testing.assert_array_equal(found[quarters].numpy(), expected)


def test_ada_shifts_with_reflection_at_the_edges() -> None:
    images = pictures(1, 1, 16, 16)
    uniform = torch.full((1, len(ada.UNIFORMS)), 0.99)
    for name, value in {"if_shift": 0.0, "right": 1 - 1e-6, "down": 0.5}.items():
        uniform[0, ada.UNIFORMS.index(name)] = value
    found = ada.ada(images, torch.tensor(0.5), uniform, torch.zeros(1, len(ada.NORMALS)))
    torch.testing.assert_close(found[..., 2:], images[..., :-2])
    torch.testing.assert_close(found[..., :2], images[..., :2].flip(3))


# -- general geometric -------------------------------------------------------------------------------------------------


def test_a_warp_by_a_quarter_turn_is_a_quarter_turn() -> None:
    images = smooth(24, x0=5, y0=-3)
    for name in ("before", "after"):
        found = ada.warp(images, only(1, **{name: math.pi / 2}))
        torch.testing.assert_close(found, images.rot90(1, (2, 3)), rtol=0, atol=5e-3)


def test_a_rotation_turns_anticlockwise_around_the_centre() -> None:
    found = ada.warp(smooth(64, x0=6), only(1, before=math.pi / 6))
    assert centroid(found) == pytest.approx((6 * math.cos(math.pi / 6), -6 * math.sin(math.pi / 6)), abs=0.05)


@pytest.mark.parametrize(("x", "y"), [(2.0, -1.0), (0.5, 0.25)])
def test_a_drift_moves_right_and_down_by_parts_of_pixels(x: float, y: float) -> None:
    found = ada.warp(smooth(32), only(1, drift_x=x, drift_y=y))
    torch.testing.assert_close(found, smooth(32, x, y), rtol=0, atol=5e-3)


def test_a_drift_by_whole_pixels_brings_in_the_mirror_image() -> None:
    images = pictures(2, 3, 24, 24)
    found = ada.warp(images, only(2, drift_x=2.0, drift_y=-1.0))
    expected = ada.shift(images, torch.tensor([2, 2]), torch.tensor([-1, -1]), mirror=True)
    torch.testing.assert_close(found[..., :-4, 6:], expected[..., :-4, 6:], rtol=0, atol=1e-5)
    # What comes in is noise from pixel to pixel here, the worst case: the filter is not quite symmetric.
    torch.testing.assert_close(found, expected, rtol=0, atol=0.1)


def test_a_drift_by_more_than_the_image_still_brings_in_the_mirror_image() -> None:
    images = smooth(16, x0=3)
    found = ada.warp(images, only(1, drift_x=32.0))  # a mirror image of the mirror image: itself
    torch.testing.assert_close(found, images, rtol=0, atol=5e-3)
    found = ada.warp(images, only(1, drift_x=16.0))
    torch.testing.assert_close(found, images.flip(3), rtol=0, atol=5e-2)


def test_scale_and_stretch_make_wider_and_higher() -> None:
    place = torch.arange(48, dtype=torch.float64) - 23.5

    def blob(wide: float, high: float) -> Tensor:
        return torch.exp(-((place / wide) ** 2)[None] / 2 - ((place / high) ** 2)[:, None] / 2).view(1, 1, 48, 48)

    torch.testing.assert_close(ada.warp(blob(4, 4), only(1, scale=1.25)), blob(5, 5), rtol=0, atol=5e-3)
    torch.testing.assert_close(ada.warp(blob(4, 4), only(1, stretch=1.25)), blob(5, 3.2), rtol=0, atol=5e-3)
    turned = ada.warp(blob(4, 4), only(1, stretch=1.25, after=math.pi / 2))  # the stretch comes first
    torch.testing.assert_close(turned, blob(3.2, 5), rtol=0, atol=5e-3)
    turned = ada.warp(blob(4, 4), only(1, stretch=1.25, before=math.pi / 2))
    torch.testing.assert_close(turned, blob(5, 3.2), rtol=0, atol=5e-3)


def test_images_that_are_not_square_keep_their_shape_when_turned() -> None:
    """Distances are pixels in both directions."""
    square, does = smooth(64, x0=6), only(1, before=math.pi / 6)
    found, expected = ada.warp(F.pad(square, (8, 8)), does), F.pad(ada.warp(square, does), (8, 8))
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-3)


def test_resampling_keeps_detail_that_bilinear_sampling_alone_would_blur() -> None:
    """A fine wave moved by half a pixel keeps its height; a mean of two neighbours has 0.54 of it."""
    place = torch.arange(64, dtype=torch.float64)
    wave = torch.cos(0.64 * math.pi * place).expand(1, 1, 64, 64).contiguous()
    found = ada.warp(wave, only(1, drift_x=0.5))[..., 16:48]
    assert found.square().mean().sqrt() / wave.square().mean().sqrt() > 0.75
    plain = (wave[..., 1:] + wave[..., :-1]) / 2
    assert plain.square().mean().sqrt() / wave.square().mean().sqrt() < 0.6


# -- colour ------------------------------------------------------------------------------------------------------------

RED, GREEN, BLUE = (1.0, 0, 0), (0, 1.0, 0), (0, 0, 1.0)


@pytest.mark.parametrize(
    ("does", "before", "after"),
    [
        ({"brightness": 0.25}, (0.5, -0.5, 0), (0.75, -0.25, 0.25)),
        ({"contrast": 2.0}, (0.5, -0.5, 0), (1.0, -1.0, 0)),
        ({"brightness": 0.25, "contrast": 2.0}, (0.5, -0.5, 0), (1.5, -0.5, 0.5)),
        ({"luma": -1.0}, (0.5, 0.5, 0.5), (-0.5, -0.5, -0.5)),
        ({"luma": -1.0}, RED, (1 / 3, -2 / 3, -2 / 3)),  # white turns black, the hue stays
        ({"hue": 2 * math.pi / 3}, RED, GREEN),
        ({"hue": 2 * math.pi / 3}, GREEN, BLUE),
        ({"hue": 1.0}, (0.3, 0.3, 0.3), (0.3, 0.3, 0.3)),
        ({"saturation": 0.0}, (0.9, 0.0, 0.3), (0.4, 0.4, 0.4)),
        ({"saturation": 2.0}, (0.9, 0.0, 0.3), (1.4, -0.4, 0.2)),
    ],
)
def test_known_colours(does: dict[str, float], before: tuple, after: tuple) -> None:
    images = torch.tensor(before, dtype=torch.float64).view(1, 3, 1, 1).expand(1, 3, 2, 3)
    found = ada.recolour(images, only(1, **does))
    expected = torch.tensor(after, dtype=torch.float64).view(1, 3, 1, 1).expand(1, 3, 2, 3)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_colours_are_those_of_the_papers_product_of_matrices() -> None:
    """All five at once, multiplied out in homogeneous coordinates in the order of appendix B."""
    does = only(1, brightness=0.1, contrast=1.3, luma=-1.0, hue=0.7, saturation=0.6)
    v = np.array([1, 1, 1, 0]) / math.sqrt(3)
    across = np.array([[0, -v[2], v[1], 0], [v[2], 0, -v[0], 0], [-v[1], v[0], 0, 0], [0, 0, 0, 0]])
    along = np.outer(v, v)
    move = np.eye(4)
    move[:3, 3] = 0.1
    one = np.diag([0, 0, 0, 1.0])
    rotate = math.cos(0.7) * (np.eye(4) - along - one) + math.sin(0.7) * across + along + one
    saturate = along + (np.eye(4) - along - one) * 0.6 + one
    matrix = saturate @ rotate @ (np.eye(4) - 2 * along) @ np.diag([1.3, 1.3, 1.3, 1]) @ move
    images = pictures(1, dtype=torch.float64)
    pixels = np.concatenate([images[0].flatten(1).numpy(), np.ones((1, 256))])
    found = ada.recolour(images, does)[0].flatten(1).numpy()
    np.testing.assert_allclose(found, (matrix @ pixels)[:3], atol=1e-6)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_images_without_three_colours_get_what_acts_on_grey(channels: int) -> None:
    """As grey pixels of a colour image do; alpha, the last of 2, keeps its values."""
    images, does = pictures(8, channels), chosen(1.0, 8)
    found = ada.recolour(images, does)
    grey = ada.recolour(images[:, :1].expand(-1, 3, -1, -1), does)
    torch.testing.assert_close(found[:, 0], grey[:, 0], rtol=1e-4, atol=1e-5)
    if channels == 2:
        assert torch.equal(found[:, 1], images[:, 1])


def test_alpha_of_a_colour_image_keeps_its_values_and_moves_along() -> None:
    images = pictures(8, 4)
    uniform, normal = numbers(8)
    found = ada.ada(images, torch.tensor(1.0), uniform, normal)
    does = ada.sample_transformations(torch.tensor(1.0), uniform, normal, 16, 16)
    assert torch.equal(ada.recolour(images, does)[:, 3], images[:, 3])
    colour_only = ada.recolour(images, does)
    assert (found[:, 3] - colour_only[:, 3]).abs().amax(dim=(1, 2)).min() > 0.01


# -- all of it ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4, 5, 6), (3, 6, 6)])
def test_gradients_are_those_of_finite_differences(shape: tuple[int, int, int]) -> None:
    images = pictures(2, *shape, dtype=torch.float64).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x: ada.ada(x, torch.tensor(1.0), *numbers(2)), images, fast_mode=True)


@pytest.mark.parametrize("shape", SHAPES)
def test_full_strength_takes_any_shape_and_stays_finite(shape: tuple[int, int, int]) -> None:
    images = pictures(16, *shape)
    found = ada.ada(images, torch.tensor(1.0), *numbers(16))
    assert found.shape == images.shape
    assert torch.isfinite(found).all()


def test_exact_sampling_has_torchs_values_and_gradient() -> None:
    """The implementation for GPUs, here on a CPU."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(3, 2, 7, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    places = torch.rand(3, 9, 8, 2, generator=generator, dtype=torch.float64) * 3 - 1.5
    weights = torch.randn(3, 2, 9, 8, generator=generator, dtype=torch.float64)
    torchs = F.grid_sample(images, places, mode="bilinear", padding_mode="border", align_corners=False)
    mine = ada._ExactGridSample.apply(images, places)
    assert torch.equal(mine, torchs)
    gradients = [torch.autograd.grad((sampled * weights).sum(), images)[0] for sampled in (mine, torchs)]
    torch.testing.assert_close(*gradients)


def test_reads_nothing_back_from_the_device() -> None:
    """The meta device has no values, so reading one would fail."""
    uniform, normal = (table.to("meta") for table in numbers(2))
    found = ada.ada(torch.empty(2, 3, 8, 8, device="meta"), torch.tensor(0.5, device="meta"), uniform, normal)
    assert found.shape == (2, 3, 8, 8)


def test_matrices_made_while_sampling_can_be_trained_through() -> None:
    size = 11  # of no other test: the matrices are made here
    with torch.inference_mode():
        ada.warp(pictures(1, 3, size, size), only(1))
    images = pictures(1, 3, size, size).requires_grad_(True)
    ada.warp(images, only(1)).sum().backward()
    assert images.grad is not None


def test_photographs_stay_recognisable(tmp_path: Path) -> None:
    """A grid to look at (rows: as they are, strength 0.3, 1), and what can be said of it in numbers."""
    scenes = [Image.fromarray(scene[:, 100:527]).resize((64, 64)) for scene in load_sample_images().images]
    images = torch.stack([torch.from_numpy(np.array(scene)).permute(2, 0, 1) / 127.5 - 1 for scene in scenes])
    images = images.repeat(8, 1, 1, 1)
    rows = [ada.ada(images, torch.tensor(strength), *numbers(16)) for strength in (0.0, 0.3, 1.0)]
    grid = torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1).clamp(-1, 1)
    Image.fromarray(grid.add(1).mul(127.5).byte().permute(1, 2, 0).numpy()).save(tmp_path / "ada.png")
    changed = [(row - images).abs().mean().item() for row in rows]
    assert changed[0] < 1e-6 < 0.05 < changed[1] < changed[2]
    # Neither blank nor noise: as varied as photographs are, and as smooth.
    for row in rows[1:]:
        assert 0.3 < row.std() / images.std() < 3
        assert row.diff(dim=3).abs().mean() < 3 * images.diff(dim=3).abs().mean()
