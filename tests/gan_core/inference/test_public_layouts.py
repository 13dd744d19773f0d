"""Weights in the public layouts give the pictures of the networks that they come from."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gan_core.errors import CheckpointError
from gan_core.inference.generator import load_generator
from gan_core.inference.public_layouts import import_generators


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


def saved(network: nn.Module, path: Path) -> Path:
    torch.save(network.state_dict(), path)
    return path


def test_a_unet_gives_the_same_pictures(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = UNet().train()  # by default it is tested with the statistics of a batch of one
    import_generators([saved(network, tmp_path / "g.pth")], tmp_path / "out", layout="pix2pix", size=32)
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
    table = import_generators(files, tmp_path / "out", layout="cyclegan", size=32)
    assert ("a_to_b.encode.1.weight", [4, 3, 7, 7]) in table
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
        import_generators([tmp_path / "bias.pth"], tmp_path / "out", layout="pix2pix", size=32)
    with pytest.raises(CheckpointError, match="needs 2 files"):
        import_generators([saved(Residual(), tmp_path / "a.pth")], tmp_path / "out", layout="cyclegan", size=32)
    assert not (tmp_path / "out").exists()


def test_code_in_a_file_is_never_run(tmp_path: Path) -> None:
    torch.save(Residual(), tmp_path / "pickled.pth")
    with pytest.raises(CheckpointError, match="cannot be read as plain tensors"):
        import_generators([tmp_path / "pickled.pth"] * 2, tmp_path / "out", layout="cyclegan", size=32)
