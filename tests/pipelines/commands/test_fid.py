"""``gantry fid`` compares folders, zips, prepared datasets and generators."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from gan_core.config import build
from gan_core.errors import DataError, GantryError, SettingsError, TrackingError
from gan_core.families import ImageShape, build_family, family_config
from gan_core.inference.generator import save_generator
from gan_core.metrics.protocol import Protocol
from pipelines.commands.fid import fid
from tests.datasets import blobs, write_prepared
from tests.gan_core.images.test_archive_names import zip_of
from tests.gan_core.metrics.test_sources import write_folder
from tests.pipelines.translators import export as export_translator

FAST = ["--features", "64", "--device", "cpu"]


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(fid, [str(argument) for argument in arguments])
    if isinstance(result.exception, GantryError):
        raise result.exception
    return result


@pytest.mark.weights
@pytest.mark.usefixtures("weights_file")
def test_a_folder_a_zip_and_a_dataset_of_the_same_pictures_are_at_distance_zero(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "folder", blobs(8))
    packed = shutil.make_archive(str(tmp_path / "packed"), "zip", folder)
    dataset = write_prepared(tmp_path / "dataset", blobs(8))
    for other in (packed, dataset):
        result = run(folder, other, *FAST, "--json")
        assert result.exit_code == 0, result.output
        figure = json.loads(result.stdout)
        assert figure["value"] == pytest.approx(0, abs=1e-5)
        assert build(Protocol, figure["protocol"]).real_count == 8


@pytest.mark.weights
@pytest.mark.usefixtures("weights_file")
def test_a_generator_is_compared_with_a_dataset_in_either_order(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = family_config("dcgan", {})
    family = build_family("dcgan", config, ImageShape(channels=1, height=16, width=16))
    save_generator(tmp_path / "generator", family=family)
    dataset = write_prepared(tmp_path / "dataset", blobs(8))
    one = run(tmp_path / "generator", dataset, *FAST, "--json", "--seed", "3")
    other = run(dataset, tmp_path / "generator", *FAST, "--json", "--seed", "3")
    figure = json.loads(one.stdout)
    assert figure["value"] > 0.1
    assert {**json.loads(other.stdout), "a": 0, "b": 0} == {**figure, "a": 0, "b": 0}
    assert figure["seed"] == 3
    assert figure["protocol"]["split"] == "train"
    assert figure["protocol"]["fake_count"] == figure["protocol"]["real_count"] == 8


def test_a_name_that_is_neither_a_path_nor_a_model_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GANTRY_TRACKING_URI", f"sqlite:///{tmp_path / 'none.db'}")
    folder = write_folder(tmp_path / "a", blobs(3))
    with pytest.raises(
        TrackingError,
        match="'birds@champion' is neither a file or folder nor a registered generator: The tracking database",
    ):
        run(folder, "birds@champion", *FAST)
    with pytest.raises(TrackingError, match="'' is neither a file or folder nor a registered generator"):
        run("", folder, *FAST)


@pytest.mark.weights
@pytest.mark.usefixtures("weights_file")
def test_the_printed_line_has_the_fid_and_its_protocol(tmp_path: Path) -> None:
    folder, other = write_folder(tmp_path / "a", blobs(8)), write_folder(tmp_path / "b", blobs(8, seed=1))
    result = run(folder, other, *FAST, "--n", "6")
    assert result.stdout.startswith("FID ")
    assert "6 against 6 real" in result.stdout
    assert "tf1-bilinear-299" in result.stdout


@pytest.mark.weights
@pytest.mark.usefixtures("weights_file")
def test_a_broken_picture_is_left_out_listed_and_counted_in_the_protocol(tmp_path: Path) -> None:
    folder, other = write_folder(tmp_path / "a", blobs(20)), write_folder(tmp_path / "b", blobs(20))
    (folder / "0" / "000.png").write_bytes(b"not a picture")
    (folder / "notes.txt").write_text("words")
    result = run(folder, other, *FAST, "--json")
    assert result.exit_code == 0, result.output
    assert "a: 0/000.png cannot be read and is left out: not-an-image" in result.stderr
    assert "not pictures, so skipped: 1 file (1 .txt)" in result.stderr
    told = json.loads(result.stdout)
    protocol = build(Protocol, told["protocol"])
    assert (protocol.real_count, protocol.fake_count, protocol.unreadable) == (19, 20, 1)
    assert set(told["unreadable"][str(folder)]) == {"0/000.png"}
    assert "1 unreadable left out" in run(folder, other, *FAST).stdout
    shutil.copy(other / "0" / "000.png", folder / "0" / "000.png")
    (folder / "0" / "002.png").write_bytes(b"")
    (folder / "0" / "004.png").write_bytes(b"")
    with pytest.raises(
        DataError, match=r"2 of 20 pictures cannot be read, more than 1% and more than one: 0/002\.png \(empty"
    ):
        run(folder, other, *FAST)


@pytest.mark.weights
@pytest.mark.usefixtures("weights_file")
def test_one_picture_is_too_few(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"a: 1 picture is too few to measure\. Use 2 or more"):
        run(write_folder(tmp_path / "a", blobs(1)), write_folder(tmp_path / "b", blobs(3)), *FAST)


@pytest.mark.parametrize("option", [("--split", "test"), ("--encoding", "cp866")])
def test_an_option_that_neither_source_has_a_use_for_is_an_error(tmp_path: Path, option: tuple[str, str]) -> None:
    folder = write_folder(tmp_path / "a", blobs(4))
    with pytest.raises(SettingsError, match=f"{' '.join(option)}: neither A nor B is a"):
        run(folder, folder, *FAST, *option)


def test_bf16_needs_the_option_unpublished(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--unpublished"):
        run(write_folder(tmp_path / "a", blobs(3)), tmp_path / "a", "--precision", "bf16")


@pytest.mark.parametrize("first", [True, False])
def test_pictures_that_a_translating_generator_cannot_take_are_rejected_before_measuring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    def measured(*_: object, **__: object) -> None:
        raise AssertionError("the extractor was loaded")

    monkeypatch.setattr("gan_core.metrics.inception.load_inception", measured)
    pair = [write_folder(tmp_path / "a", blobs(3)), export_translator(tmp_path / "generator", "cyclegan")]
    with pytest.raises(DataError, match="a cannot be translated by this generator: it has the classes 0, 1"):
        run(*(reversed(pair) if first else pair))


def test_a_label_file_of_stylegan_does_not_make_a_folder_a_prepared_dataset(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", blobs(3))
    (folder / "dataset.json").write_text('{"labels": null}')
    with pytest.raises(DataError, match="has 3 pictures, fewer than the 5"):
        run(folder, folder, "--n", "5", *FAST)


def test_an_empty_folder_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="contains no pictures"):
        run(tmp_path / "empty", tmp_path / "empty")


def test_names_in_a_zip_are_read_in_the_given_encoding(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "z.zip", {"кошка.txt".encode("cp866"): b""})
    with pytest.raises(DataError, match="Give the encoding of the names with --encoding NAME"):
        run(path, path, *FAST)
    with pytest.raises(DataError, match="contains no pictures, only 1 file"):
        run(path, path, *FAST, "--encoding", "cp866")
