"""``gantry import`` writes a generator, or with discriminators what training starts from, and prints every size."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from torch import nn

from gan_core.errors import GantryError, SettingsError
from gan_core.inference.generator import load_generator
from pipelines.commands.import_ import import_
from pipelines.registry.parent import find_parent
from pipelines.runtime.checkout import Checkout
from tests.gan_core.inference.test_public_layouts import Patch, Residual, UNet, saved


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(import_, [*map(str, arguments), "--size", "32"])
    if isinstance(result.exception, GantryError):
        raise result.exception
    return result


def test_with_its_discriminator_a_generator_is_a_start_of_training(tmp_path: Path) -> None:
    files = saved(UNet(), tmp_path / "g.pth"), saved(Patch(4, nn.BatchNorm2d, bias=False), tmp_path / "d.pth")
    out = tmp_path / "maps"
    result = run(files[0], "--discriminator", files[1], "--layout", "pix2pix", "--out", out)
    assert result.exit_code == 0, result.output
    assert "discriminator.layers.0.weight" in result.stdout
    assert "model.family to pix2pix, in model width: 8, depth: 5, patch_width: 8, patch_halvings: 2" in result.stdout
    parent = find_parent("maps", Checkout.at(tmp_path), "sqlite:///unused.db")
    assert Path(parent.folder) == out / "start"
    assert load_generator(out / "generator").info["imported"] == "pix2pix"
    with pytest.raises(SettingsError, match="maps exists"):
        run(files[0], "--layout", "pix2pix", "--out", out)


def test_a_single_file_of_cyclegan_is_one_direction(tmp_path: Path) -> None:
    result = run(saved(Residual(), tmp_path / "g.pth"), "--layout", "cyclegan", "--out", tmp_path / "out")
    assert "It translates from A to B only" in result.stdout
    assert load_generator(tmp_path / "out").directions == ((0, 1),)
