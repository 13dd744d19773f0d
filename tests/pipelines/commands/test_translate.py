"""``gantry translate`` translates pictures of any format and size, each independently."""

import hashlib
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from gan_core.errors import DataError, GantryError, SettingsError
from gan_core.images.pictures import prepare
from gan_core.inference import translate as module
from gan_core.inference.generator import Generator, load_generator
from gan_core.inference.provenance import read_provenance
from pipelines.commands.translate import translate
from tests.gan_core.images.test_archive_names import zip_of
from tests.pipelines.commands.test_sample import export as export_noise
from tests.pipelines.data.samples import picture, png, write
from tests.pipelines.translators import export


@pytest.fixture(scope="module")
def generator_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a variant's generator, made once."""
    made: dict[str, Path] = {}

    def get(variant: str) -> Path:
        if variant not in made:
            made[variant] = export(tmp_path_factory.mktemp(variant) / "generator", variant)
        return made[variant]

    return get


def run(*arguments: object, status: int = 0) -> Result:
    result = CliRunner().invoke(translate, [str(argument) for argument in arguments])
    if isinstance(result.exception, GantryError):
        raise result.exception
    assert result.exit_code == status, result.output
    return result


def shown(path: Path) -> np.ndarray:
    """The pixels of a picture file, (H, W, C) or (H, W)."""
    return np.asarray(Image.open(path))


def expected(generator: Generator, source: Image.Image, *arguments: object) -> np.ndarray:
    """The generator's own translation of an upright RGB picture."""
    pixels = torch.from_numpy(np.asarray(source.convert("RGB")).transpose(2, 0, 1)[None].copy())
    return generator.translate(pixels, *arguments)[0].permute(1, 2, 0).numpy()  # type: ignore[arg-type]


def test_a_folder_keeps_its_names_and_its_sizes(generator_of, tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    sizes = {
        "a.png": (20, 16),
        "deep/b.jpg": (16, 16),
        "deep/er/c.webp": (33, 18),
        "twin.gif": (16, 16),
        "twin.bmp": (8, 8),
    }
    for index, (name, (height, width)) in enumerate(sizes.items()):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        picture(index, height, width).save(source / name)
    write(source / "notes.txt", b"no picture")
    write(source / ".hidden.png", png(9))
    told = run(generator_of("cyclegan"), source, out).output
    assert "5 pictures translated" in told
    found = {path.relative_to(out).as_posix(): shown(path).shape for path in out.rglob("*") if path.is_file()}
    names = {"a.png": "a.png", "deep/b.jpg": "deep/b.png", "deep/er/c.webp": "deep/er/c.png"}
    assert found == {names.get(name, f"{name}.png"): (height, width, 3) for name, (height, width) in sizes.items()}, (
        "each keeps its place, and two that differ in their kind alone keep it in their names"
    )
    generator = load_generator(generator_of("cyclegan"))
    np.testing.assert_allclose(shown(out / "a.png"), expected(generator, picture(0, 20, 16)), atol=1)


def test_a_zip_and_a_single_picture_give_the_same(generator_of, tmp_path: Path) -> None:
    model = generator_of("cyclegan")
    write(tmp_path / "one.png", png(1, height=16, width=16))
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as zipped:
        zipped.writestr("folder/one.png", png(1, height=16, width=16))
        zipped.writestr("__MACOSX/one.png", b"clutter")
    run(model, tmp_path / "some.zip", tmp_path / "out")
    run(model, tmp_path / "one.png", tmp_path / "single.png")
    run(model, tmp_path / "one.png", tmp_path / "single.jpg")
    run(model, tmp_path / "one.png", tmp_path / "folder")
    whole = shown(tmp_path / "out/folder/one.png")
    np.testing.assert_array_equal(shown(tmp_path / "single.png"), whole)
    np.testing.assert_array_equal(shown(tmp_path / "folder/one.png"), whole)
    assert Image.open(tmp_path / "single.jpg").format == "JPEG"


@pytest.mark.parametrize("variant", ["pix2pix", "cyclegan"])
def test_the_batch_size_does_not_change_results(generator_of, tmp_path: Path, monkeypatch, variant: str) -> None:
    """Even with mixed sizes, a broken picture among them, and memory for only two pictures per pass."""
    for index in range(5):
        write(tmp_path / "in" / f"{index}.png", png(index, height=16, width=16 + index // 4 * 4))
    write(tmp_path / "in/2.png", png(2)[:80])
    run(generator_of(variant), tmp_path / "in", tmp_path / "alone", "--batch", 1, "--seed", 3, status=1)
    monkeypatch.setattr(module, "MAX_PIXELS", 2 * 16 * 16)
    run(generator_of(variant), tmp_path / "in", tmp_path / "together", "--seed", 3, status=1)
    for index in (0, 1, 3, 4):
        alone, together = (shown(tmp_path / place / f"{index}.png") for place in ("alone", "together"))
        np.testing.assert_allclose(alone.astype(int), together.astype(int), atol=1)


def test_results_are_upright_and_keep_transparency(generator_of, tmp_path: Path) -> None:
    upright = picture(5, height=16, width=24)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees to the right
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    clear = picture(6, height=16, width=24, mode="RGBA")
    clear.save(tmp_path / "clear.png")
    model = generator_of("cyclegan")
    run(model, tmp_path / "turned.png", tmp_path / "out")
    run(model, tmp_path / "clear.png", tmp_path / "out")
    np.testing.assert_allclose(shown(tmp_path / "out/turned.png"), expected(load_generator(model), upright), atol=1)
    assert "exif" not in Image.open(tmp_path / "out/turned.png").info
    made = Image.open(tmp_path / "out/clear.png")
    np.testing.assert_array_equal(np.asarray(made.getchannel("A")), np.asarray(clear.getchannel("A")))
    white = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear)
    np.testing.assert_allclose(np.asarray(made.convert("RGB")), expected(load_generator(model), white), atol=1)
    told = run(model, tmp_path / "clear.png", tmp_path / "clear.jpg", status=1).output
    assert "transparent, which JPEG does not support" in told


def test_colourisation_keeps_the_lightness_of_any_picture(generator_of, tmp_path: Path) -> None:
    from gan_core.images.colour import lightness

    picture(1, height=16, width=16).save(tmp_path / "colour.png")
    picture(1, height=16, width=16).convert("L").save(tmp_path / "grey.png")
    for name in ("colour.png", "grey.png"):
        run(generator_of("colourisation"), tmp_path / name, tmp_path / "out")
        made = shown(tmp_path / "out" / name)
        assert made.shape == (16, 16, 3)
        before = np.asarray(Image.open(tmp_path / name).convert("RGB"))
        light = [lightness(rgb.transpose(2, 0, 1)).astype(float) for rgb in (before, made)]
        # A colour that sRGB has not is clipped, which fresh weights ask for now and then.
        assert np.median(np.abs(light[0] - light[1])) <= 1


def test_failed_pictures_are_reported_and_the_others_translated(generator_of, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as zipped:
        zipped.writestr("good.png", png(1))
        zipped.writestr("cut.png", png(2)[:60])
        zipped.writestr("empty.jpg", b"")
        zipped.writestr("notes.txt", b"words")
    done = run(generator_of("cyclegan"), tmp_path / "some.zip", tmp_path / "out", status=1)
    assert "1 picture translated to" in done.output
    assert "2 of 3 failed" in done.output
    assert "Not pictures, so skipped: 1 file (1 .txt)" in done.output
    for name, reason in (("cut.png", "truncated"), ("empty.jpg", "empty")):
        assert any(name in line and reason in line for line in done.output.splitlines())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["good.png"], "nothing half written"
    arguments = (generator_of("cyclegan"), tmp_path / "some.zip", tmp_path / "json", "--json")
    told = json.loads(CliRunner().invoke(translate, [str(a) for a in arguments]).stdout)
    assert told["translated"] == 1
    assert set(told["failed"]) == {"cut.png", "empty.jpg"}
    assert told["skipped"] == ["notes.txt"]


def test_a_zip_is_read_as_in_ingestion(generator_of, tmp_path: Path) -> None:
    """Backslashes are path separators. An archive with a member outside its folder is rejected."""
    with zipfile.ZipFile(tmp_path / "windows.zip", "w") as zipped:
        zipped.writestr("deep\\a.png", png(1))
    run(generator_of("cyclegan"), tmp_path / "windows.zip", tmp_path / "out")
    assert (tmp_path / "out/deep/a.png").is_file()
    for name in ("../outside.png", "..\\outside.png", "/outside.png", "C:\\outside.png"):
        with zipfile.ZipFile(tmp_path / "bad.zip", "w") as zipped:
            zipped.writestr("good.png", png(1))
            zipped.writestr(name, png(3))
        with pytest.raises(DataError, match=r"bad\.zip is refused: its member .*outside\.png"):
            run(generator_of("cyclegan"), tmp_path / "bad.zip", tmp_path / "bad")
    assert not [*tmp_path.rglob("*outside.png")]


SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="32" height="16"><rect width="32" height="16" fill="red"/></svg>'


def test_svg_files_are_translated_if_there_are_no_other_pictures(generator_of, tmp_path: Path) -> None:
    write(tmp_path / "in" / "deep" / "a.svg", SVG)
    run(generator_of("cyclegan"), tmp_path / "in", tmp_path / "out")
    run(generator_of("cyclegan"), tmp_path / "in" / "deep" / "a.svg", tmp_path / "a.png")
    red = Image.new("RGB", (256, 128), "red")
    made = expected(load_generator(generator_of("cyclegan")), red)
    for path in (tmp_path / "out" / "deep" / "a.png", tmp_path / "a.png"):
        np.testing.assert_allclose(shown(path), made, atol=1)
    write(tmp_path / "in" / "b.png", png(1, height=16, width=16))
    told = run(generator_of("cyclegan"), tmp_path / "in", tmp_path / "other").output
    assert "Not pictures, so skipped: 1 file (1 .svg)" in told
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["b.png"]


def test_names_in_a_zip_are_read_in_the_given_encoding(generator_of, tmp_path: Path) -> None:
    path = zip_of(tmp_path / "z.zip", {"кошка.png".encode("cp866"): png(1, height=16, width=16)})
    with pytest.raises(DataError, match="Give the encoding of the names with --encoding NAME"):
        run(generator_of("cyclegan"), path, tmp_path / "out")
    run(generator_of("cyclegan"), path, tmp_path / "out", "--encoding", "cp866")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["кошка.png"]
    with pytest.raises(SettingsError, match="--encoding cp866: .*out is not a zip"):
        run(generator_of("cyclegan"), tmp_path / "out", tmp_path / "again", "--encoding", "cp866")


def test_every_picture_has_its_own_result_file(generator_of, tmp_path: Path) -> None:
    """Even if the obvious names collide with each other, with a folder, or on a disk that does not tell C from c."""
    names = ("s.png", "s.jpg", "s.png.gif", "x.png/y.png", "x.jpg", "z.jpg", "z.png/y.png", "z.jpg.png/y.png", "z.gif")
    names += ("c.png", "C.png", "caf\u00e9.png", "cafe\u0301.png")
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as zipped:
        for index, name in enumerate(names):
            zipped.writestr(name, png(index))
    told = run(generator_of("cyclegan"), tmp_path / "some.zip", tmp_path / "out").output
    assert f"{len(names)} pictures translated" in told
    found = {
        path.relative_to(tmp_path / "out").as_posix(): shown(path)
        for path in (tmp_path / "out").rglob("*.png")
        if path.is_file()
    }
    results = {
        "s.png": "s.png.png",
        "s.jpg": "s.jpg.png",
        "s.png.gif": "s.png.gif.png",
        "x.png/y.png": "x.png/y.png",
        "x.jpg": "x.jpg.png",
        "z.jpg": "z.jpg.png.png",
        "z.gif": "z.gif.png",
        "z.png/y.png": "z.png/y.png",
        "z.jpg.png/y.png": "z.jpg.png/y.png",
        "C.png": "C.png.png",
        "c.png": "c.png.png.png",
        "cafe\u0301.png": "cafe\u0301.png.png",
        "caf\u00e9.png": "caf\u00e9.png.png.png",
    }
    assert set(found) == set(results.values())
    generator = load_generator(generator_of("cyclegan"))
    for index, name in enumerate(names):
        np.testing.assert_allclose(found[results[name]], expected(generator, picture(index)), atol=1)


def test_an_input_picture_is_never_overwritten(generator_of, tmp_path: Path) -> None:
    """Neither with --replace nor under another name of the same file."""
    write(tmp_path / "in/a.png", png(1))
    write(tmp_path / "in/sub/sub/b.png", png(2))
    write(tmp_path / "in/sub/b.png", png(3))
    (tmp_path / "link").symlink_to("in")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.png")}
    model, styled = generator_of("cyclegan"), generator_of("stargan2")
    for source, out, *more in (
        ("in/a.png", "in"),
        ("in/a.png", "link"),
        ("link/a.png", "in/a.png"),
        ("in/sub/sub", "in/sub", "--like", tmp_path / "in/sub/b.png"),
    ):
        with pytest.raises(SettingsError, match=r"would overwrite the input .*\.png"):
            run(styled if more else model, tmp_path / source, tmp_path / out, "--replace", *more)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.png")} == before


def test_a_damaged_zip_member_fails_alone(generator_of, tmp_path: Path) -> None:
    """With each compression method of zip; one of them raises its own error classes."""
    for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        packed = tmp_path / f"{method}.zip"
        with zipfile.ZipFile(packed, "w", method) as zipped:
            zipped.writestr("bad.png", png(1, height=40, width=40))
            zipped.writestr("good.png", png(2))
            start = zipped.getinfo("bad.png").header_offset + 30 + len("bad.png")
        content = bytearray(packed.read_bytes())
        content[start + 12 : start + 1500] = b"\xff" * 1488
        packed.write_bytes(content)
        done = run(generator_of("cyclegan"), packed, tmp_path / f"out{method}", status=1)
        assert "1 of 2 failed" in done.output
        assert (tmp_path / f"out{method}/good.png").is_file()


def test_files_are_overwritten_only_with_replace(generator_of, tmp_path: Path) -> None:
    source, out, model = tmp_path / "in", tmp_path / "out", generator_of("cyclegan")
    for index in range(2):
        write(source / f"{index}.png", png(index))
    write(out / "1.png", b"mine")
    with pytest.raises(SettingsError, match=r"1\.png would be overwritten\. .* or add --replace"):
        run(model, source, out)
    assert [path.name for path in out.iterdir()] == ["1.png"]
    run(model, source, out, "--replace")
    assert shown(out / "1.png").shape == (12, 10, 3)


def test_a_target_is_a_name_or_a_number(generator_of, tmp_path: Path) -> None:
    write(tmp_path / "a.png", png(1, height=16, width=16))
    model = generator_of("stargan")
    for target in ("owl", "2", "dog"):
        run(model, tmp_path / "a.png", tmp_path / target, "--target", target)
    by_name, by_number, other = (shown(tmp_path / target / "a.png") for target in ("owl", "2", "dog"))
    np.testing.assert_array_equal(by_name, by_number)
    assert (by_name != other).any()


@pytest.mark.parametrize(
    ("variant", "arguments", "words"),
    [
        ("stargan", ("--target", "cow"), r"target cow: unknown domain\. Choose one of cat \(0\), dog \(1\), owl \(2\)"),
        ("stargan", ("--target", "3"), "target 3: unknown domain"),
        ("stargan", ("--target", "9" * 5000), "target 9+: unknown domain"),
        ("stargan", (), r"Name the domain to translate to, one of cat \(0\), dog"),
        ("attributes", ("--target", "cow"), r"unknown attribute\. Choose one of cat"),
        ("pix2pix", ("--target", "0"), "pix2pix has only one direction"),
    ],
)
def test_an_unknown_target_is_an_error(generator_of, tmp_path: Path, variant, arguments, words) -> None:
    write(tmp_path / "a.png", png(1))
    with pytest.raises(SettingsError, match=words):
        run(generator_of(variant), tmp_path / "a.png", tmp_path / "out", *arguments)
    assert not (tmp_path / "out").exists()


def test_the_style_picture_may_have_any_size(generator_of, tmp_path: Path) -> None:
    model, generator = generator_of("stargan2"), load_generator(generator_of("stargan2"))
    for index in range(3):
        write(tmp_path / "in" / f"{index}.png", png(index, height=16, width=16 + index // 2 * 4))
    for index in range(2):
        picture(10 + index, height=40, width=30).save(tmp_path / f"like{index}.jpg", quality=100, subsampling=0)
        told = run(
            *(model, tmp_path / "in", tmp_path / f"out{index}"),
            *("--target", "dog", "--like", tmp_path / f"like{index}.jpg"),
        ).output
        assert f"3 pictures translated to dog like {tmp_path / f'like{index}.jpg'}" in told
    style = prepare((tmp_path / "like0.jpg").read_bytes(), size=(16, 16), channels=3, mode="crop")
    for index in range(3):
        source = np.asarray(picture(index, 16, 16 + index // 2 * 4)).transpose(2, 0, 1)[None].copy()
        made = generator.translate_like(torch.from_numpy(source), torch.from_numpy(style[None].copy()), 1)[0]
        np.testing.assert_allclose(shown(tmp_path / f"out0/{index}.png"), made.permute(1, 2, 0).numpy(), atol=1)
        assert (shown(tmp_path / f"out1/{index}.png") != shown(tmp_path / f"out0/{index}.png")).any()
    assert read_provenance(tmp_path / "out0" / "0.png") == {
        "generator": generator.digest,
        "target": 1,
        "like": hashlib.sha256((tmp_path / "like0.jpg").read_bytes()).hexdigest(),
    }, "the picture, and not a seed, decides the style"


@pytest.mark.parametrize(
    ("variant", "arguments", "kind", "words"),
    [
        ("stargan", ("--target", "dog"), SettingsError, "stargan cannot take the style of a reference picture"),
        ("cyclegan", (), SettingsError, "cyclegan cannot take the style of a reference picture"),
        ("stargan2", (), SettingsError, "Name the domain to translate to, one of cat"),
        ("stargan2", ("--target", "dog"), DataError, r"--like .*like\.png cannot be read as a picture \(truncated"),
        (
            "stargan2",
            ("--target", "dog", "--like", os.devnull),
            DataError,
            r"--like /dev/null .* it is a pipe or a device",
        ),
    ],
)
def test_an_unusable_style_picture_is_an_error(generator_of, tmp_path: Path, variant, arguments, kind, words) -> None:
    write(tmp_path / "a.png", png(1))
    write(tmp_path / "like.png", png(2)[:60])
    with pytest.raises(kind, match=words):
        run(generator_of(variant), tmp_path / "a.png", tmp_path / "out", "--like", tmp_path / "like.png", *arguments)
    assert not (tmp_path / "out").exists()


def test_a_generator_from_noise_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "a.png", png(1))
    with pytest.raises(SettingsError, match="dcgan generates images from noise .* gantry sample"):
        run(export_noise(tmp_path / "noise", "dcgan", 0), tmp_path / "a.png", tmp_path / "out")


def test_impossible_inputs_and_outputs_are_rejected(generator_of, tmp_path: Path) -> None:
    model = generator_of("cyclegan")
    (tmp_path / "empty").mkdir()
    write(tmp_path / "in/a.png", png(1))
    write(tmp_path / "broken.zip", b"PK\x05\x06" + bytes(18))
    cases = [
        (DataError, "none does not exist", tmp_path / "none", tmp_path / "out"),
        (DataError, "empty contains no pictures", tmp_path / "empty", tmp_path / "out"),
        (DataError, r"broken\.zip contains no pictures", tmp_path / "broken.zip", tmp_path / "out"),
        (SettingsError, "OUT must be a folder", tmp_path / "in", tmp_path / "out.png"),
        (SettingsError, "is inside .* translated next time", tmp_path / "in", tmp_path / "in/out"),
        (SettingsError, r"got '\.gif'", tmp_path / "in/a.png", tmp_path / "out.gif"),
        (SettingsError, "would overwrite the input", tmp_path / "in/a.png", tmp_path / "in/a.png"),
    ]
    for kind, words, source, out in cases:
        with pytest.raises(kind, match=words):
            run(model, source, out, "--replace")
    assert (tmp_path / "in/a.png").read_bytes() == png(1)
