"""StarGAN v2: the paper's networks and losses, styles from noise and from pictures, two domains of 16 learnt."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from gan_core.errors import SettingsError
from gan_core.families import ImageShape, check_family, family_config
from gan_core.families.stargan2 import StarGan2
from gan_core.families.stargan2_layers import ResidualBlock, StyledNorm
from gan_core.inference.generator import load_generator, save_generator
from gan_core.nn.penalties import zero_centred_penalty
from tests.datasets import write_prepared
from tests.gan_core.families.translations import nearest, small, some_batch, some_pictures, trainer_of, two_colours
from tests.gan_core.families.updates import losses_of


def stargan2(**settings: object) -> StarGan2:
    family = small("stargan2", **settings)
    assert isinstance(family, StarGan2)
    return family


def test_a_style_scales_and_shifts_normalised_maps() -> None:
    norm, maps, styles = StyledNorm(3, 5), torch.randn(2, 3, 4, 4), torch.randn(2, 5)
    scale, shift = norm.affine(styles)[:, :, None, None].chunk(2, dim=1)
    torch.testing.assert_close(norm(maps, styles), F.instance_norm(maps) * (1 + scale) + shift)


def test_a_halving_block_pools_before_the_skip_convolution() -> None:
    """Its skip is the paper's convolution, then mean: the other way round gives the same."""
    block, maps = ResidualBlock(3, 5, 0.2, norm=True, halve=True), torch.randn(2, 3, 8, 8)
    first = F.avg_pool2d(block.first(F.leaky_relu(F.instance_norm(maps), 0.2)), 2)
    inner = block.second(F.leaky_relu(F.instance_norm(first), 0.2))
    torch.testing.assert_close(block(maps), (F.avg_pool2d(block.skip(maps), 2) + inner) / 2**0.5)


def test_each_picture_is_encoded_once_for_all_its_styles() -> None:
    network = stargan2().networks["generator"]
    images, styles = some_pictures(2, 3), torch.randn(6, 8)
    with torch.no_grad():
        together = network(images, styles)
        apart = torch.cat([network(images, part) for part in styles.split(2)])
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-5)


def test_the_losses_are_the_papers() -> None:
    family = stargan2(r1=0.7, style_reconstruction=2.0, cycle=3.0, diversity=4.0, diversity_steps=100)
    batch = some_batch(family, n=5)
    real, labels, wanted = batch.real, batch.labels, family.target_labels(batch)
    generate, see, judge = (family.networks[name] for name in ("generator", "style", "discriminator"))
    rows = torch.arange(5)
    drawn, lent, other = family._kept(batch).styles.chunk(3)
    own = see(real)[rows, labels]
    order = family.order(batch)
    assert sorted(order.tolist()) == list(range(5))
    assert torch.equal(wanted, labels[order])
    torch.testing.assert_close(lent, own[order])

    def judged(images: torch.Tensor, domains: torch.Tensor) -> torch.Tensor:
        return judge(images)[rows, domains, 0]

    fakes = [generate(real, style) for style in (drawn, lent)]
    said = torch.cat([judged(fake, wanted) for fake in fakes])
    penalty = zero_centred_penalty(lambda x: judged(x, labels), real)
    entropy = F.softplus(-judged(real, labels)).mean() + F.softplus(said).mean()
    torch.testing.assert_close(losses_of(family, "discriminator", batch).total, entropy + 0.35 * penalty)

    seen = [(see(fake)[rows, wanted] - style).abs().mean() for fake, style in zip(fakes, (drawn, lent), strict=True)]
    back = [(generate(fake, own) - real).abs().mean() for fake in fakes]
    total = F.softplus(-said).mean() + 2 * sum(seen) / 2 + 3 * sum(back) / 2
    difference = (fakes[0] - generate(real, other)).abs().mean()
    for step, left in ((0, 1.0), (25, 0.75), (400, 0.0)):
        torch.testing.assert_close(family.generator_loss(batch, step).total, total - 4 * left * difference)


def test_a_style_from_another_picture(tmp_path: Path) -> None:
    family = stargan2()
    save_generator(tmp_path, family=family)
    generator = load_generator(tmp_path)
    images = torch.randint(0, 256, (2, 3, 20, 18), dtype=torch.uint8)
    references = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    made = generator.translate_like(images, references, 1)
    assert made.shape == images.shape
    assert not torch.equal(generator.translate_like(images, references.flip(0), 1), made)
    with pytest.raises(SettingsError, match=r"references: expected 2 pictures with 3 channels and 16x16 pixels"):
        generator.translate_like(images, images, 1)
    with pytest.raises(SettingsError, match="unknown domain 3"):
        generator.translate_like(images, references, 3)


def test_a_family_without_references_names_those_with_them(tmp_path: Path) -> None:
    save_generator(tmp_path, family=small("stargan"))
    images = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    with pytest.raises(SettingsError, match="stargan cannot take the style of a reference picture; .* can: stargan2"):
        load_generator(tmp_path).translate_like(images, images, 1)


def test_attributes_are_refused_in_favour_of_stargan() -> None:
    shape = ImageShape(channels=3, height=32, width=32, attributes=3)
    with pytest.raises(SettingsError, match=r"this dataset has 0.*choose stargan for attributes"):
        check_family("stargan2", family_config("stargan2", {}), shape)


def test_only_the_generator_learns_from_styles_of_other_pictures() -> None:
    """Otherwise the encoder follows itself, and its styles grow without limit."""
    family = stargan2(cycle=0.0, diversity=0.0)
    batch = some_batch(family, n=4)
    encoder = family.networks["style"]
    made, wanted = family._kept(batch), family.target_labels(batch)
    from_noise = encoder(made.pictures[:4])[torch.arange(4), wanted] - made.styles[:4]
    wanted_gradients = torch.autograd.grad(from_noise.abs().mean() / 2, list(encoder.parameters()), retain_graph=True)
    family.generator_loss(batch, 0).total.backward()
    for parameter, gradient in zip(encoder.parameters(), wanted_gradients, strict=True):
        assert parameter.requires_grad
        torch.testing.assert_close(parameter.grad, gradient)


def test_it_learns_two_domains_of_16(tmp_path: Path) -> None:
    """To 20 grey levels from the mean colour of the domain, where grey is 48 away and the source 95.

    And to 38 from a picture of it, where pictures of the domain are 26 from each other and the source 90.
    """
    pictures, _, labels = two_colours()
    data = write_prepared(tmp_path / "data", pictures, labels, kind="domains")
    often = {"steps": 240, "batch": 4, "log_every": 240, "checkpoint_every": 240, "decay_from": 0.8}
    rates = {"generator_lr": 2e-3, "discriminator_lr": 5e-4, "beta1": 0.0, "beta2": 0.99}
    model = {"width": 16, "width_max": 32, "hidden": 32, "diversity": 0.1, "cycle": 2.0}
    trainer = trainer_of("stargan2", data, tmp_path, model=model, **often, **rates)
    trainer.run()
    for domain in (0, 1):
        source, target = pictures[labels == domain], pictures[labels != domain]
        made = trainer.generator.translate(torch.from_numpy(source), 1 - domain)
        colours = [torch.as_tensor(images).float().mean(dim=(0, 2, 3)) for images in (source, target, made)]
        assert (colours[0] - colours[1]).abs().mean() > 85
        assert (colours[2] - colours[1]).abs().mean() < 20
        assert nearest(torch.from_numpy(source), target) > 85
        assert nearest(made, target) < 38
