"""The perceptual path length has the value of the formula where it is known, and the paths are those of the paper."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gan_core.errors import SettingsError
from gan_core.families import ImageShape, build_family, family_config
from gan_core.inference.generator import load_generator, save_generator
from gan_core.inference.path import _spherical, path_step
from gan_core.metrics.inception import Extractor
from gan_core.metrics.path_length import path_length_estimate, path_lengths

SHAPE = ImageShape(channels=1, height=16, width=16)


class Ramp:
    """A path on which every step changes each pixel by its share of the path times ``slope``."""

    takes_mixed_styles = False

    def __init__(self, slope: float) -> None:
        self.slope = slope

    def path_step(
        self, n: int, seed: int, *, space: str, epsilon: float, first: int = 0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        near = torch.linspace(-0.9, 0.3, 64).reshape(1, 1, 8, 8).repeat(n, 1, 1, 1)
        return near, near + self.slope * epsilon


class Pixels(Extractor):
    """Features are pixels from 0 to 1."""

    def __init__(self) -> None:
        self.features, self.precision, self.resize = 64, "fp32", "none"
        self.device, self.batch_size, self.digest = torch.device("cpu"), 16, "pixels"

    def prepare_float(self, images: torch.Tensor) -> torch.Tensor:
        return (images.double() + 1) / 2

    def extract(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs.flatten(1)


def test_length_of_a_known_path() -> None:
    """64 pixels that change by slope / 2 of their range along the path: 64 (slope / 2)²."""
    lengths = path_lengths(Ramp(0.5), 40, Pixels(), space="z", seed=0)
    np.testing.assert_allclose(lengths, 64 * 0.25**2, rtol=2e-3)
    assert path_length_estimate(lengths).interval[1] < 4.01


def test_the_generator_runs_without_tf32_whose_rounding_is_coarser_than_a_step() -> None:
    """With activations rounded to the 10 bits of TF32, the lengths of a small StyleGAN2 become about 20 times as large."""
    seen = []

    class Watched(Ramp):
        def path_step(self, n: int, seed: int, **how: Any) -> tuple[torch.Tensor, torch.Tensor]:
            seen.append(torch.backends.cudnn.conv.fp32_precision)
            return super().path_step(n, seed, **how)

    before = torch.backends.cudnn.conv.fp32_precision
    path_lengths(Watched(0.5), 20, Pixels(), space="z", seed=0)
    assert set(seen) == {"ieee"}
    assert torch.backends.cudnn.conv.fp32_precision == before != "ieee"


def test_the_longest_and_shortest_steps_are_left_out_and_the_interval_covers_the_mean() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.exponential(1, 400)
    estimate = path_length_estimate(np.r_[lengths, 1e9])
    kept = np.sort(np.r_[lengths, 1e9])[4:-4]
    assert estimate.value == pytest.approx(kept.mean())
    spread = np.std([path_length_estimate(rng.exponential(1, 400)).value for _ in range(60)])
    assert estimate.interval[1] - estimate.value == pytest.approx(2.26 * spread, rel=0.6)
    assert path_length_estimate(lengths[:19]).interval == (None, None)


def test_a_spherical_path_turns_by_the_share_of_the_angle() -> None:
    a, b = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    half = _spherical(a, b, torch.tensor([[0.5]], dtype=torch.float64))
    np.testing.assert_allclose(half.numpy(), [[3 / 2**0.5, 3 / 2**0.5]], rtol=1e-6)
    for share, end in ((0.0, a), (1.0, b)):
        found = _spherical(a, b, torch.tensor([[share]], dtype=torch.float64))
        np.testing.assert_allclose(found.numpy(), end.numpy(), atol=1e-6)


@pytest.mark.parametrize(("family", "space"), [("dcgan", "z"), ("stylegan2", "z"), ("stylegan2", "w")])
def test_steps_are_small_and_do_not_depend_on_the_batch(family: str, space: str, small_extractor: Extractor) -> None:
    torch.manual_seed(0)
    made = build_family(family, family_config(family, {"latent": 8}), SHAPE)
    for network in made.networks.values():
        network.eval()
    with torch.inference_mode():
        near, far = path_step(made, 6, 3, space=space, epsilon=1e-4)
        last = path_step(made, 2, 3, space=space, epsilon=1e-4, first=4)[0]
    assert 0 < (near - far).abs().max() < 0.01
    assert (near[0] - near[1]).abs().max() > (near - far).abs().max()
    torch.testing.assert_close(last, near[4:], rtol=1e-3, atol=1e-4)
    small_extractor.extract(small_extractor.prepare_float(near))


def test_a_family_without_styles_has_no_w(tmp_path: Path) -> None:
    save_generator(tmp_path / "g", family=build_family("dcgan", family_config("dcgan", {"width": 4}), SHAPE))
    generator = load_generator(tmp_path / "g")
    assert not generator.takes_mixed_styles
    with pytest.raises(SettingsError, match="mix styles"):
        generator.path_step(2, 0, space="w", epsilon=1e-4)


def test_float_pictures_are_prepared_like_8_bit_ones(small_extractor: Extractor) -> None:
    pictures = torch.randint(0, 256, (2, 3, 20, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        small_extractor.prepare_float(pictures.float() / 127.5 - 1),
        small_extractor.prepare(pictures),
        rtol=0,
        atol=1e-5,
    )
    with pytest.raises(SettingsError, match="1 or 3 channels"):
        small_extractor.prepare_float(torch.zeros(1, 4, 8, 8))
