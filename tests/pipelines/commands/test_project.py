"""``gantry project`` shows a picture beside its projection."""

import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file

from gan_core.errors import DataError, SettingsError
from gan_core.families import ImageShape, build_family, family_config
from gan_core.inference.generator import save_generator
from pipelines.commands.project import project


@pytest.fixture(autouse=True)
def _generator(tmp_path: Path) -> None:
    shape = ImageShape(channels=3, height=16, width=16)
    config = {"latent": 8, "style": 8, "mapping_layers": 1, "channel_base": 64, "channel_max": 8}
    family = build_family("stylegan2", family_config("stylegan2", config), shape)
    save_generator(tmp_path / "generator", family=family)


def test_an_unreadable_picture_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n cut short")
    arguments = [tmp_path / "generator", tmp_path / "cut.png", "--out", tmp_path / "found.png"]
    result = CliRunner().invoke(project, [str(argument) for argument in arguments])
    assert isinstance(result.exception, DataError)
    assert re.search(r"PICTURE .*cut\.png cannot be read as a picture .*Choose another file", str(result.exception))


def test_the_picture_its_projection_and_the_styles_are_written(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (40, 30, 3), dtype=np.uint8)).save(tmp_path / "photo.jpg")
    out = tmp_path / "found.png"
    arguments = [tmp_path / "generator", tmp_path / "photo.jpg", "--steps", 5, "--out", out]
    result = CliRunner().invoke(project, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    assert "grey levels from" in result.output
    assert "5/5" in result.stderr, "a large generator takes minutes, so there is a bar"
    assert Image.open(out).size == (2 * 66 + 2, 66 + 2)
    assert load_file(tmp_path / "found.safetensors")["styles"].shape == (6, 8)
    assert (tmp_path / "found.safetensors").stat().st_mode == out.stat().st_mode


def test_a_class_conditional_generator_needs_the_class_of_the_picture(tmp_path: Path) -> None:
    """The styles of one class cannot make a picture of another."""
    shape = ImageShape(channels=3, height=16, width=16, classes=2)
    config = {"latent": 8, "style": 8, "mapping_layers": 1, "channel_base": 64, "channel_max": 8, "conditional": True}
    family = build_family("stylegan2", family_config("stylegan2", config), shape)
    save_generator(tmp_path / "generator", family=family, extra={"classes": ["boot", "bag"], "step": 1})
    Image.new("RGB", (16, 16)).save(tmp_path / "photo.png")
    arguments = [
        str(tmp_path / "generator"),
        str(tmp_path / "photo.png"),
        "--steps",
        "2",
        "--out",
        str(tmp_path / "o.png"),
    ]
    result = CliRunner().invoke(project, arguments)
    assert isinstance(result.exception, SettingsError)
    assert re.search(
        r"is class-conditional. Name the class of this picture: boot \(0\), bag \(1\)", str(result.exception)
    )
    assert CliRunner().invoke(project, [*arguments, "--label", "bag"]).exit_code == 0


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("ph.png", r"ph\.png is PICTURE itself"),
        ("link.png", r"link\.png is PICTURE itself"),
        ("x.jpg", r"its name must end in \.png"),
        ("x.safetensors", r"its name must end in \.png"),
        ("keep.png", "there is a folder of that name"),
        ("table.png", r"table\.safetensors cannot be written, there is a folder of that name"),
        ("ph.png/x.png", r"ph\.png is not a folder"),
    ],
)
def test_an_output_that_would_overwrite_something_is_rejected_before_any_work(
    tmp_path: Path, out: str, words: str
) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "ph.png")
    (tmp_path / "link.png").symlink_to("ph.png")
    for folder in ("keep.png", "table.safetensors"):
        (tmp_path / folder).mkdir()
    before = (tmp_path / "ph.png").read_bytes()
    arguments = [tmp_path / "not looked for", tmp_path / "ph.png", "--out", tmp_path / out]
    result = CliRunner().invoke(project, [str(argument) for argument in arguments])
    assert isinstance(result.exception, SettingsError)
    assert re.search(words, str(result.exception))
    assert (tmp_path / "ph.png").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 5
