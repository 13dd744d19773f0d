"""``gantry sample`` writes a contact sheet, single pictures or an animation."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from gan_core.errors import GantryError, SettingsError
from gan_core.families import ImageShape, build_family, family_config
from gan_core.inference.generator import load_generator, save_generator
from gan_core.inference.provenance import read_provenance
from gan_core.inference.sample import label_index
from pipelines.commands.sample import sample
from tests.pipelines.translators import export as export_translator


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unconditional generator of 16x16 grey pictures."""
    return export(tmp_path_factory.mktemp("plain") / "generator", "dcgan", 0)


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A class-conditional generator of three classes."""
    return export(tmp_path_factory.mktemp("classes") / "generator", "cgan", 3)


def export(directory: Path, name: str, classes: int) -> Path:
    shape = ImageShape(channels=1, height=16, width=16, classes=classes)
    family = build_family(name, family_config(name, {"width": 4, "latent": 8}), shape)
    save_generator(directory, family=family, extra={"classes": ["cat", "dog", "owl"][:classes]})
    return directory


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(sample, [str(argument) for argument in arguments], catch_exceptions=True)
    if isinstance(result.exception, GantryError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def test_a_sheet_of_all_pictures(plain: Path, tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    assert "9 pictures of seed 3" in run(plain, "--n", 9, "--seed", 3, "--out", out).output
    assert Image.open(out).size == (3 * 66 + 2, 3 * 66 + 2)


def test_single_pictures_are_the_generators_own(plain: Path, tmp_path: Path) -> None:
    run(plain, "--n", 3, "--seed", 5, "--out", tmp_path / "many")
    files = sorted((tmp_path / "many").iterdir())
    assert [file.name for file in files] == [f"seed0005-{index:06d}.png" for index in range(3)]
    expected = load_generator(plain).sample(3, 5)[:, 0].numpy()
    np.testing.assert_array_equal(np.stack([np.asarray(Image.open(file)) for file in files]), expected)


def test_a_walk_is_closed_and_passes_through_every_picture(plain: Path, tmp_path: Path) -> None:
    out = tmp_path / "walk.gif"
    run(plain, "--n", 3, "--frames", 4, "--out", out)
    assert Image.open(out).n_frames == 12
    generator = load_generator(plain)
    walk, pictures = generator.walk(3, 0, frames=4), generator.sample(3, 0)
    np.testing.assert_allclose(walk[::4].numpy().astype(int), pictures.numpy().astype(int), atol=1)


def test_a_walk_through_transparent_pictures_is_composited_on_white(tmp_path: Path) -> None:
    """Without compositing, the colours below transparent pixels would show."""
    shape = ImageShape(channels=4, height=16, width=16)
    save_generator(tmp_path / "g", family=build_family("dcgan", family_config("dcgan", {"width": 4}), shape))
    run(tmp_path / "g", "--n", 2, "--frames", 2, "--out", tmp_path / "walk.gif")
    (colour, alpha) = load_generator(tmp_path / "g").walk(2, 0, frames=2)[0].float().split([3, 1])
    expected = (colour * alpha + 255 * (255 - alpha)) / 255
    shown = np.asarray(Image.open(tmp_path / "walk.gif").convert("RGB"), float)[::4, ::4].transpose(2, 0, 1)
    assert np.abs(shown - expected.numpy()).mean() < 8, "up to the 256 colours of a GIF"


def test_a_label_is_a_name_or_a_number(classes: Path, tmp_path: Path) -> None:
    generator = load_generator(classes)
    assert [label_index(generator, text) for text in (None, "dog", "2")] == [None, 1, 2]
    for label in ("dog", "1"):
        run(classes, "--n", 2, "--label", label, "--out", tmp_path / label)
    same = [sorted((tmp_path / label).iterdir())[0].read_bytes() for label in ("dog", "1")]
    assert same[0] == same[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--label", "cow"), r"--label cow: unknown class\. Choose one of cat \(0\), dog \(1\), owl"),
        (("--label", "3"), r"--label 3: unknown class\. Choose one of cat \(0\), dog"),
        (("--label", "²"), "--label ²: unknown class"),
        (("--label", "9" * 5000), "--label 9+: unknown class"),
        (("--frames", 4), "--out must end in .gif"),
        (("--truncation", 0), "truncation: must be above 0"),
    ],
)
def test_impossible_arguments_are_rejected(classes: Path, tmp_path: Path, arguments: tuple, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        run(classes, *arguments, "--out", tmp_path / "x.png")
    assert not (tmp_path / "x.png").exists()


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("keep.png", "there is a folder of that name"),
        ("file", "there is a file of that name"),
        ("in/a.png/x.png", r"a\.png is not a folder"),
        ("in/a.png/many", r"a\.png is not a folder"),
        ("x.jpg", r"must end in \.png or \.gif, or be a folder"),
        ("x.WEBP", r"must end in \.png or \.gif, or be a folder"),
    ],
)
def test_an_unwritable_output_is_rejected_before_any_work(tmp_path: Path, out: str, words: str) -> None:
    for name in ("keep.png", "in"):
        (tmp_path / name).mkdir()
    for name in ("keep.png/mine", "file", "in/a.png"):
        (tmp_path / name).write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SettingsError, match=words):
        run(tmp_path / "not looked for", "--out", tmp_path / out)
    assert sorted(tmp_path.rglob("*")) == before


def test_the_kind_of_file_goes_by_its_ending_in_any_case(plain: Path, tmp_path: Path) -> None:
    for name, kind in (("SHEET.PNG", "PNG"), ("walk.GIF", "GIF")):
        run(plain, "--n", 2, "--out", tmp_path / name)
        assert Image.open(tmp_path / name).format == kind


def test_a_folder_may_have_any_name_and_take_more_pictures(plain: Path, tmp_path: Path) -> None:
    (tmp_path / "old.jpg").mkdir()
    for folder, seed, count in (("v1.0", 0, 2), ("old.jpg", 0, 2), ("old.jpg", 1, 4)):
        run(plain, "--n", 2, "--seed", seed, "--out", tmp_path / folder)
        assert len(list((tmp_path / folder).iterdir())) == count


def test_single_pictures_that_are_there_are_not_mixed_with_others_of_their_names(plain: Path, tmp_path: Path) -> None:
    run(plain, "--n", 3, "--out", tmp_path / "folder")
    with pytest.raises(SettingsError, match="already has pictures of seed 0"):
        run(plain, "--n", 2, "--truncation", 0.5, "--out", tmp_path / "folder")


def test_what_is_refused_leaves_no_empty_folder(plain: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="truncation"):
        run(plain, "--truncation", 0, "--out", tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_a_label_for_an_unconditional_generator_is_refused(plain: Path) -> None:
    with pytest.raises(SettingsError, match="not class-conditional"):
        run(plain, "--label", "0")


@pytest.fixture(scope="module")
def styled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generator with styles."""
    shape = ImageShape(channels=1, height=16, width=16)
    config = {"latent": 8, "style": 8, "mapping_layers": 1, "channel_base": 64, "channel_max": 8}
    family = build_family("stylegan2", family_config("stylegan2", config), shape)
    folder = tmp_path_factory.mktemp("styled") / "generator"
    save_generator(folder, family=family)
    return folder


def test_a_table_of_mixed_styles_has_the_pictures_at_its_sides(styled: Path, tmp_path: Path) -> None:
    out = tmp_path / "mix.png"
    assert "Styles of 3 by 3 pictures" in run(styled, "--mix", "--n", 3, "--out", out).output
    assert Image.open(out).size == (4 * 66 + 2, 4 * 66 + 2)
    generator = load_generator(styled)
    assert read_provenance(out) == {"generator": generator.digest, "seed": 0, "count": 3, "mix": True}
    table = generator.mix(3, 0)
    pictures = generator.sample(6, 0)
    assert (table[0] == 0).all()
    np.testing.assert_allclose(table[1:4].float(), pictures[:3].float(), atol=1)
    np.testing.assert_allclose(table[4::4].float(), pictures[3:].float(), atol=1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--out", "mix.gif"), r"--out must end in \.png"),
        (("--n", "17", "--out", "mix.png"), "must be at most 16 with --mix"),
        (("--n", "2", "--truncation", "0.5", "--out", "mix.png"), "--truncation 0.5: cannot be combined with --mix"),
    ],
)
def test_a_table_that_cannot_be_is_refused(styled: Path, arguments: tuple[str, ...], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        run(styled, "--mix", *arguments)


def test_mixing_what_has_no_styles_is_refused(plain: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="dcgan cannot mix styles .* Families that can: stylegan2"):
        run(plain, "--mix", "--n", 2, "--out", tmp_path / "mix.png")


def test_what_translates_is_sent_to_gantry_translate(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cyclegan cannot generate images from noise; it can translate images"):
        run(export_translator(tmp_path / "generator", "cyclegan"), "--out", tmp_path / "x.png")
