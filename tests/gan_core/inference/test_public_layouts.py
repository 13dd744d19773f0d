"""Weights in the public layouts give the pictures of the networks that they come from."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gan_core.errors import CheckpointError, SettingsError
from gan_core.inference.conditions import target_index
from gan_core.inference.description import generator_digest
from gan_core.inference.generator import load_generator, save_generator
from gan_core.inference.public_layouts import Imported, import_networks
from gan_core.training.start import open_start, save_imported_start
from tests.gan_core.families.translations import trainer_of, write_data


class Level(nn.Module):
    """A level of a U-Net that contains the levels below it (Isola et al. 2017, section 6.1.1)."""

    def __init__(self, outer: int, inner: int, below: "Level | None", inputs: int | None = None) -> None:
        super().__init__()
        self.outermost = inputs is not None
        down = nn.Conv2d(outer if inputs is None else inputs, inner, 4, 2, 1, bias=False)
        up = nn.ConvTranspose2d(inner * (2 if below else 1), outer, 4, 2, 1, bias=self.outermost)
        if self.outermost:
            layers = [down, below, nn.ReLU(), up, nn.Tanh()]
        elif below is None:
            layers = [nn.LeakyReLU(0.2), down, nn.ReLU(), up, nn.BatchNorm2d(outer)]
        else:
            middle = [nn.LeakyReLU(0.2), down, nn.BatchNorm2d(inner), below]
            layers = [*middle, nn.ReLU(), up, nn.BatchNorm2d(outer)]
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x) if self.outermost else torch.cat([x, self.model(x)], 1)


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        level = Level(64, 64, None)
        for outer, inner in ((32, 64), (16, 32), (8, 16)):
            level = Level(outer, inner, level)
        self.model = Level(3, 8, level, inputs=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        half = [nn.ReflectionPad2d(1), nn.Conv2d(16, 16, 3), nn.InstanceNorm2d(16)]
        self.conv_block = nn.Sequential(
            *half, nn.ReLU(), nn.ReflectionPad2d(1), nn.Conv2d(16, 16, 3), nn.InstanceNorm2d(16)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_block(x)


class Residual(nn.Module):
    """A residual generator of two blocks (Zhu et al. 2017, section 7.2)."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.ReflectionPad2d(3), nn.Conv2d(3, 4, 7), nn.InstanceNorm2d(4), nn.ReLU()]
        for width in (4, 8):
            layers += [nn.Conv2d(width, 2 * width, 3, 2, 1), nn.InstanceNorm2d(2 * width), nn.ReLU()]
        layers += [Block(), Block()]
        for width in (16, 8):
            up = nn.ConvTranspose2d(width, width // 2, 3, 2, 1, output_padding=1)
            layers += [up, nn.InstanceNorm2d(width // 2), nn.ReLU()]
        self.model = nn.Sequential(*layers, nn.ReflectionPad2d(3), nn.Conv2d(4, 3, 7), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class Patch(nn.Module):
    """A discriminator of patches of two halvings (Isola et al. 2017, section 6.1.2); ``norm``: the layer after each level."""

    def __init__(self, inputs: int, norm: type[nn.Module], bias: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(inputs, 8, 4, 2, 1), nn.LeakyReLU(0.2)]
        for before, after, stride in ((8, 16, 2), (16, 32, 1)):
            layers += [nn.Conv2d(before, after, 4, stride, 1, bias=bias), norm(after), nn.LeakyReLU(0.2)]
        self.model = nn.Sequential(*layers, nn.Conv2d(32, 1, 4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


def exported(found: Imported, folder: Path) -> Path:
    save_generator(folder, family=found.family, extra=found.extra)
    return folder


def saved(network: nn.Module, path: Path) -> Path:
    torch.save(network.state_dict(), path)
    return path


def test_a_unet_gives_the_same_pictures(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = UNet().train()  # by default it is tested with the statistics of a batch of one
    exported(import_networks([saved(network, tmp_path / "g.pth")], layout="pix2pix", size=32), tmp_path / "out")
    family = load_generator(tmp_path / "out").family
    for seed in range(2):
        picture = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1
        with torch.no_grad():
            expected = network(picture)
            torch.testing.assert_close(family.translate(picture), expected, atol=1e-4, rtol=0)
        assert expected.std() > 0.01


def test_both_residual_generators_give_the_same_pictures(tmp_path: Path) -> None:
    torch.manual_seed(0)
    networks = [Residual(), Residual()]
    files = [saved(network, tmp_path / f"{index}.pth") for index, network in enumerate(networks)]
    found = import_networks(files, layout="cyclegan", size=32)
    exported(found, tmp_path / "out")
    assert ("a_to_b.encode.1.weight", [4, 3, 7, 7]) in found.sizes()
    family = load_generator(tmp_path / "out").family
    picture = torch.rand(1, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        for target, network in ((1, networks[0]), (0, networks[1])):
            torch.testing.assert_close(family.translate(picture, target), network(picture), atol=1e-4, rtol=0)


def test_what_would_change_a_picture_is_refused_by_name(tmp_path: Path) -> None:
    network = UNet()
    state = {**network.state_dict(), "model.model.0.bias": torch.ones(8)}
    torch.save(state, tmp_path / "bias.pth")
    with pytest.raises(CheckpointError, match=r"model\.model\.0\.bias has no place in this family"):
        import_networks([tmp_path / "bias.pth"], layout="pix2pix", size=32)
    one = saved(Residual(), tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"needs one or two files \(A to B, then B to A\), got 3"):
        import_networks([one] * 3, layout="cyclegan", size=32)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    state = UNet().state_dict()
    state["model.model.0.weight"][0, 0, 0, 0] = torch.nan
    torch.save(state, tmp_path / "nan.pth")
    with pytest.raises(CheckpointError, match=r"nan\.pth: model\.model\.0\.weight has NaN or infinity"):
        import_networks([tmp_path / "nan.pth"], layout="pix2pix", size=32)


def test_code_in_a_file_is_never_run(tmp_path: Path) -> None:
    torch.save(Residual(), tmp_path / "pickled.pth")
    with pytest.raises(
        CheckpointError, match="cannot be read as plain tensors: it is damaged, or has other"
    ) as refused:
        import_networks([tmp_path / "pickled.pth"] * 2, layout="cyclegan", size=32)
    assert "weights_only" not in str(refused.value), "torch's message recommends to run the code"
    good = saved(UNet(), tmp_path / "g.pth")
    torch.save(Patch(4, nn.BatchNorm2d, False), tmp_path / "judge.pth")
    with pytest.raises(CheckpointError, match=r"judge\.pth cannot be read as plain tensors"):
        import_networks([good], layout="pix2pix", size=32, discriminators=[tmp_path / "judge.pth"])


# -- one direction -----------------------------------------------------------------------------------------------------


def test_a_single_direction_translates_there_and_not_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Residual()
    found = import_networks([saved(network, tmp_path / "g.pth")], layout="cyclegan", size=32)
    assert {name.split(".")[0] for name, _ in found.sizes()} == {"a_to_b"}
    folder = exported(found, tmp_path / "out")
    generator = load_generator(folder)
    assert generator.directions == ((0, 1),)
    assert generator.digest == generator_digest(folder)
    picture = torch.rand(1, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(generator.family.translate(picture), network(picture), atol=1e-4, rtol=0)
    assert target_index(generator, "B") == 1
    with pytest.raises(SettingsError, match=r"target A: unknown domain\. Choose one of B \(1\)"):
        target_index(generator, "A")
    with pytest.raises(SettingsError, match=r"target: unknown domain 0\. Choose one of B \(1\)"):
        generator.translate(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), 0)


def test_only_a_family_with_a_generator_for_each_direction_can_lack_one(tmp_path: Path) -> None:
    found = import_networks([saved(UNet(), tmp_path / "g.pth")], layout="pix2pix", size=32)
    with pytest.raises(SettingsError, match="pix2pix has generator and needs all of them, got none"):
        found.family.keep_generators(())


# -- to go on training -------------------------------------------------------------------------------------------------


def judged_alike(theirs: nn.Module, ours: nn.Module, channels: int) -> None:
    pictures = torch.rand(1, channels, 32, 32, generator=torch.Generator().manual_seed(3)) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(ours(pictures), theirs(pictures), atol=1e-4, rtol=0)


def test_training_goes_on_from_imported_networks_of_pix2pix(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, judge = UNet(), Patch(4, nn.BatchNorm2d, bias=False).train()
    files = [saved(network, tmp_path / "g.pth")], [saved(judge, tmp_path / "d.pth")]
    found = import_networks(files[0], layout="pix2pix", size=32, discriminators=files[1])
    assert ("discriminator.layers.2.weight", [16, 8, 4, 4]) in found.sizes()
    judged_alike(judge, found.family.networks["discriminator"], 4)
    save_imported_start(tmp_path / "start", found.family, found.extra)
    start = open_start(tmp_path / "start")
    assert start.images_seen == 0
    model = {"width": 8, "depth": 5, "patch_width": 8, "patch_halvings": 2}
    data = write_data("pix2pix", tmp_path / "data", 8, 32)
    trainer = trainer_of("pix2pix", data, tmp_path / "run", model=model, start=start)
    for name in ("generator", "discriminator"):
        for key, tensor in found.family.networks[name].state_dict().items():
            assert torch.equal(trainer.family.networks[name].state_dict()[key], tensor), (name, key)
    trainer.run()
    wrong = {**model, "patch_halvings": 1}
    with pytest.raises(SettingsError, match=r"model\.patch_halvings \(2 there, 1 here\)"):
        trainer_of("pix2pix", data, tmp_path / "other", model=wrong, start=start)


def test_each_discriminator_of_cyclegan_judges_the_domain_that_it_judged_before(tmp_path: Path) -> None:
    """Those programs call the judge of the translations of A, which are pictures of B, D_A."""
    torch.manual_seed(0)
    generators = [saved(Residual(), tmp_path / f"g{index}.pth") for index in range(2)]
    judges = [Patch(3, nn.InstanceNorm2d, bias=True) for _ in range(2)]
    files = [saved(judge, tmp_path / f"d{index}.pth") for index, judge in enumerate(judges)]
    found = import_networks(generators, layout="cyclegan", size=32, discriminators=files)
    judged_alike(judges[0], found.family.networks["b"], 3)
    judged_alike(judges[1], found.family.networks["a"], 3)


def test_networks_that_training_cannot_go_on_from_are_refused_by_name(tmp_path: Path) -> None:
    residual, patch = (
        saved(Residual(), tmp_path / "g.pth"),
        saved(Patch(3, nn.InstanceNorm2d, True), tmp_path / "d.pth"),
    )
    with pytest.raises(
        CheckpointError, match=r"both generators and both discriminators \(D_A, then D_B\), got 1 and 1"
    ):
        import_networks([residual], layout="cyclegan", size=32, discriminators=[patch])
    with pytest.raises(CheckpointError, match=r"d\.pth: it judges 3 channels, but the .* and their sources have 4"):
        import_networks([saved(UNet(), tmp_path / "u.pth")], layout="pix2pix", size=32, discriminators=[patch])
    with pytest.raises(CheckpointError, match=r"g\.pth is not a discriminator of patches"):
        import_networks([residual] * 2, layout="cyclegan", size=32, discriminators=[residual] * 2)
    state = torch.load(patch, weights_only=True)
    torch.save({**state, "model.4.weight": torch.ones(1)}, tmp_path / "extra.pth")
    with pytest.raises(CheckpointError, match=r"model\.4\.weight has no place in this family"):
        import_networks([residual] * 2, layout="cyclegan", size=32, discriminators=[tmp_path / "extra.pth"] * 2)
