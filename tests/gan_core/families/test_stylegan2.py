"""StyleGAN2: its sizes, its modulated convolutions against the equations, its styles, its regularisation."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gan_core.errors import SettingsError
from gan_core.families import ImageShape, build_family, family_config
from gan_core.families.stylegan2 import StyleGan2
from gan_core.families.stylegan2_layers import (
    Conv2d,
    Linear,
    ModulatedConv2d,
    activation_gain,
    append_minibatch_deviation,
)
from gan_core.presets.choose import choose
from gan_core.presets.recipes import STYLEGAN2
from gan_core.randomness import WorkerSlice
from tests.gan_core.families.conftest import small, some_batch
from tests.gan_core.presets.test_choose import info


def plain(**settings: object) -> StyleGan2:
    family = small("stylegan2", 16, 1, 0, conditional=False, **settings)
    assert isinstance(family, StyleGan2)
    return family


def test_the_auto_configuration_for_64_pixels_has_the_size_of_the_reference() -> None:
    data = info(64, classes=0)
    chosen = choose("stylegan2", data, torch.device("cuda"), steps=1000)
    model = {choice.name.removeprefix("model."): choice.value for choice in chosen if choice.name.startswith("model.")}
    with torch.device("meta"):
        family = build_family("stylegan2", family_config("stylegan2", model), ImageShape.of(data))
    sizes = {side: sum(p.numel() for p in network.parameters()) for side, network in family.networks.items()}
    assert sizes == {"generator": 22_243_608, "discriminator": 23_407_361}


# -- layers ----------------------------------------------------------------------------------------------------------


def modulated(layer: ModulatedConv2d, maps: Tensor, styles: Tensor) -> Tensor:
    """Equations 1 to 3 word for word: one weight an image, in a grouped convolution."""
    n, inputs = maps.shape[:2]
    s = styles @ layer.affine.weight.T * layer.affine.scale + layer.affine.bias * layer.affine.bias_scale
    weight = layer.weight[None] * layer.scale * s[:, None, :, None, None]
    if layer.demodulate:
        weight = weight * (weight.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8).rsqrt()
    weight = weight * layer.gain
    outputs = weight.shape[1]
    grouped = weight.flatten(0, 1)
    if layer.filter is not None:
        upright = weight.transpose(1, 2).flatten(0, 1)
        wide = F.conv_transpose2d(maps.reshape(1, n * inputs, *maps.shape[2:]), upright, stride=2, groups=n)
        kernel = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=maps.dtype)
        blur = (kernel[:, None] * kernel / kernel.sum() ** 2 * 4)[None, None].expand(n * outputs, 1, 4, 4)
        return F.conv2d(wide, blur, padding=1, groups=n * outputs).unflatten(1, (n, outputs))[0]
    images = F.conv2d(maps.reshape(1, n * inputs, *maps.shape[2:]), grouped, padding=weight.shape[3] // 2, groups=n)
    return images.unflatten(1, (n, outputs))[0]


@pytest.mark.parametrize(("kernel", "demodulate", "double"), [(3, True, False), (3, True, True), (1, False, False)])
def test_scaling_maps_is_the_same_as_scaling_each_images_weights(kernel: int, demodulate: bool, double: bool) -> None:
    torch.manual_seed(0)
    layer = ModulatedConv2d(6, 5, kernel, 7, demodulate=demodulate, double=double, gain=1.3).double()
    maps, styles = torch.randn(3, 6, 8, 8, dtype=torch.float64), torch.randn(3, 7, dtype=torch.float64)
    torch.testing.assert_close(layer(maps, styles), modulated(layer, maps, styles), rtol=1e-6, atol=1e-7)


def test_demodulated_outputs_have_unit_variance_whatever_the_style() -> None:
    torch.manual_seed(0)
    layer = ModulatedConv2d(64, 64, 3, 16)
    with torch.no_grad():
        for scale in (0.1, 1.0, 10.0):
            got = layer(torch.randn(4, 64, 16, 16), torch.randn(4, 16) * scale)[:, :, 1:-1, 1:-1]
            assert got.var().item() == pytest.approx(1, rel=0.05)


def test_weights_are_initialised_with_unit_variance_and_scaled_in_use() -> None:
    """So Adam's steps are the same share of every weight (Karras et al. 2018, section 4.1)."""
    torch.manual_seed(0)
    for layer in (Linear(128, 128), Conv2d(32, 32, 3)):
        assert layer.weight.std().item() == pytest.approx(1, rel=0.03)
        maps = torch.randn(4, 128) if isinstance(layer, Linear) else torch.randn(2, 32, 12, 12)
        inner = layer(maps) if isinstance(layer, Linear) else layer(maps)[:, :, 1:-1, 1:-1]
        assert inner.std().item() == pytest.approx(1, rel=0.1)
    assert Linear(128, 128, rate=0.01).weight.std().item() == pytest.approx(100, rel=0.03)


def test_the_activations_gain_is_the_root_of_two_at_the_papers_slope_and_keeps_the_variance_at_others() -> None:
    assert activation_gain(0.2) == pytest.approx(math.sqrt(2))
    normal = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    powers = [(F.leaky_relu(normal, slope) * activation_gain(slope)).square().mean() for slope in (0.0, 0.2, 0.6)]
    assert [power.item() for power in powers] == pytest.approx([powers[0].item()] * 3, rel=0.02)


def test_the_deviation_map_distinguishes_equal_and_different_images() -> None:
    maps = torch.cat([torch.ones(4, 2, 4, 4), torch.randn(4, 2, 4, 4)])
    column = append_minibatch_deviation(maps)[:, 2]
    assert column[:4].abs().max() < 1e-3
    expected = (maps[4:].var(dim=0, correction=0) + 1e-8).sqrt().mean()
    torch.testing.assert_close(column[4:], expected.expand(4, 4, 4))
    assert append_minibatch_deviation(torch.randn(6, 2, 4, 4)).shape == (6, 3, 4, 4)


@pytest.mark.parametrize(("n", "group"), [(2, 2), (5, 5), (6, 3), (7, 7), (8, 4), (9, 3), (10, 2), (25, 5)])
def test_no_image_is_a_group_of_its_own(n: int, group: int) -> None:
    """It would have no deviation, and the discriminator could not see that images are alike."""
    maps = torch.randn(n, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    column = append_minibatch_deviation(maps)[:, 2, 0, 0]
    expected = [(part.var(dim=0, correction=0) + 1e-8).sqrt().mean() for part in maps.split(group)]
    torch.testing.assert_close(column, torch.stack(expected).repeat_interleave(group))


@pytest.mark.parametrize(("n", "together"), [(8, True), (6, False), (2, False)])
def test_real_and_generated_images_are_judged_in_one_pass_if_no_group_has_both(n: int, together: bool) -> None:
    family = small("stylegan2")
    batch = some_batch(family, n)
    with torch.autocast("cpu", torch.bfloat16):
        assert family.judges_together(batch.real) is together
    assert not family.judges_together(batch.real)  # fp32 on a CPU keeps its bytes


def test_one_pass_gives_the_outputs_and_the_gradients_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """With labels: groups of the minibatch deviation are those of the halves."""
    found = []
    for together in (False, True):
        family = small("stylegan2")
        monkeypatch.setattr(StyleGan2, "judges_together", lambda self, real, together=together: together)
        batch = some_batch(family)
        fake = torch.randn(batch.real.shape, generator=torch.Generator().manual_seed(2)).requires_grad_()
        real = batch.real.requires_grad_()
        outputs = family.discriminate_both(real, fake, batch.labels)
        (F.softplus(-outputs[0]).mean() + F.softplus(outputs[1]).mean()).backward()
        trained = family.networks["discriminator"].parameters()
        found.append([*outputs, real.grad, fake.grad, *(p.grad for p in trained)])
    for two, one in zip(*found, strict=True):
        assert (one - two).norm() <= 1e-5 * two.norm()


# -- styles ----------------------------------------------------------------------------------------------------------


def test_truncation_moves_w_towards_its_mean() -> None:
    family = plain()
    generator = family.networks["generator"]
    family.update_statistics({"generator": generator})
    assert generator.mean_style.abs().sum() > 0
    with torch.no_grad():
        pictures = family.sample(4, 0, truncation=1e-6)
        torch.testing.assert_close(pictures, pictures[:1].expand_as(pictures), rtol=0, atol=1e-4)
        torch.testing.assert_close(family.sample(4, 0, truncation=1.0), family.sample(4, 0), rtol=0, atol=1e-5)


def test_mixing_gives_the_later_layers_the_style_of_another_latent() -> None:
    generator = plain().networks["generator"]
    torch.manual_seed(1)
    first, second = torch.randn(2, 2, 32).unbind(0)
    layers = generator.layers
    with torch.no_grad():
        none = generator(first, None, None, second, torch.full((2,), layers))
        all_of_it = generator(first, None, None, second, torch.zeros(2, dtype=torch.int64))
        some = generator(first, None, None, second, torch.full((2,), 2))
        assert torch.equal(none, generator(first))
        assert torch.equal(all_of_it, generator(second))
    assert not torch.equal(some, none)


def test_noise_is_random_in_training_and_fixed_in_sampling() -> None:
    family = plain(mixing=0.0)
    with torch.no_grad():
        for layer in (*family.networks["generator"].synthesis.first, *family.networks["generator"].synthesis.second):
            layer.strength.fill_(1.0)
        data = some_batch(family)
        latents = family.latents(data)
        made = [family.generate(family.network("generator"), latents, None, batch) for batch in (data, data)]
        assert torch.equal(*made)  # a function of the batch's key
        data.key = (0, 0, 1)
        assert not torch.equal(made[0], family.generate(family.network("generator"), latents, None, data))
        assert torch.equal(family.sample(2, 0), family.sample(2, 0))


# -- regularisation --------------------------------------------------------------------------------------------------


def test_a_step_has_four_updates_with_lazy_penalties() -> None:
    phases = small("stylegan2").phases()
    assert [(phase.name, phase.every, phase.side) for phase in phases] == [
        ("discriminator", 1, "discriminator"), ("r1", 2, "discriminator"),
        ("generator", 1, "generator"), ("path_length", 3, "generator"),
    ]  # fmt: skip
    assert [phase.name for phase in small("stylegan2", path_length=0.0, r1=0.0).phases()] == [
        "discriminator",
        "generator",
    ]


def test_the_mean_path_length_is_kept_from_step_to_step() -> None:
    family = plain()
    before = family.buffers["path_length_mean"].clone()
    losses = family.path_loss(some_batch(family), 0)
    assert before == 0
    assert family.buffers["path_length_mean"] > 0
    assert losses.total.item() == pytest.approx(losses.scalars["penalty/path_length"].item() * 2.0, rel=1e-4)


def test_gamma_is_chosen_from_pixels_and_batch() -> None:
    shape = ImageShape(channels=3, height=128, width=128)
    ((name, value, reason),) = STYLEGAN2.derive(shape, 32, {})
    assert (name, value) == ("r1", pytest.approx(0.0002 * 128**2 / 32, rel=1e-2))
    assert "batch" in reason
    small_pictures = STYLEGAN2.derive(ImageShape(channels=3, height=32, width=32), 256, {})
    assert [choice[:2] for choice in small_pictures] == [("r1", pytest.approx(0.01 * 64 / 256))]


def test_the_noise_of_two_workers_is_that_of_one() -> None:
    family = plain()
    data = some_batch(family)
    whole = family.noise(8, data)
    halves = []
    for rank in range(2):
        data.part = WorkerSlice(rank, 2)
        halves.append(family.noise(4, data))
    for layer, pair in zip(whole, zip(*halves, strict=True), strict=True):
        torch.testing.assert_close(layer, torch.cat(pair))


def test_a_channel_base_without_feature_maps_is_refused() -> None:
    with pytest.raises(
        SettingsError, match=r"model\.channel_base: 8 gives no feature maps at 16 pixels\. Set it to at least 256"
    ):
        plain(channel_base=8)
