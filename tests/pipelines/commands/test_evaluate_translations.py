"""``gantry evaluate`` measures generators that translate, on prepared data and on pictures in the layouts of ingestion."""

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gan_core.errors import DataError, SettingsError
from gan_core.inference.generator import save_generator
from gan_core.inference.public_layouts import import_networks
from gan_core.metrics import domain_classifier
from pipelines.commands.fid import fid
from tests.gan_core.families.translations import write_data
from tests.gan_core.inference.test_public_layouts import Residual
from tests.gan_core.inference.test_public_layouts import saved as saved_state
from tests.pipelines.commands.test_evaluate import Counting, extractor, generator, run
from tests.pipelines.translators import NAMES, export

__all__ = ["extractor"]  # a fixture

SAME = {
    "paired": {"fid", "kid", "l1", "psnr", "ssim"},
    "unpaired": {"fid", "kid", "cycle", "class_agreement"},
    "domains": {"fid", "kid", "cycle", "accuracy", "accuracy_of_real", "class_agreement"},
    "attributes": {"fid", "kid", "cycle", "accuracy", "accuracy_of_real"},
}
MISSING = {
    "paired": {"memorisation", "ppl_z", "ppl_w", "fid_class", "cycle", "accuracy", "class_agreement"},
    "unpaired": {"memorisation", "ppl_z", "ppl_w", "fid_class", "l1", "psnr", "ssim", "accuracy"},
    "domains": {"memorisation", "ppl_z", "ppl_w", "fid_class", "l1", "psnr", "ssim"},
    "attributes": {"memorisation", "ppl_z", "ppl_w", "fid_class", "l1", "psnr", "ssim", "class_agreement"},
}
"""Figures that each kind of data has, and those that are named with the reason."""
KIND = {"pix2pix": "paired", "cyclegan": "unpaired", "stargan": "domains", "attributes": "attributes"}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(domain_classifier, "STEPS", (3, 3))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def saved(pixels: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def coloured(count: int, channel: int, seed: int = 0) -> list[np.ndarray]:
    """Noise in one colour, uint8 (20, 20, 3): larger than the generators' pictures."""
    made = np.zeros((count, 20, 20, 3), np.uint8)
    made[..., channel] = np.random.default_rng(seed + channel).integers(0, 255, (count, 20, 20))
    return [*made]


@pytest.mark.parametrize("variant", KIND)
def test_a_translating_generator_has_the_figures_of_its_kind_of_data(
    tmp_path: Path, extractor: Counting, variant: str
) -> None:
    model, data = export(tmp_path / "g", variant), write_data(variant, tmp_path / "data")
    names = json.loads((data / "dataset.json").read_text())
    names["classes"] = list(NAMES[: len(names["classes"])])
    names["attributes"] = list(NAMES[: len(names["attributes"])])
    (data / "dataset.json").write_text(json.dumps(names))
    result = run(model, data, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    kind = KIND[variant]
    measured = {figure["name"] for figure in found["figures"]}
    assert SAME[kind] <= measured
    assert MISSING[kind] <= set(found["not_measured"])
    assert not measured & MISSING[kind]
    directions = {figure["protocol"]["direction"] for figure in found["figures"]}
    if kind == "domains":
        assert {"mean of 6 directions", "cat -> dog", "owl -> cat"} <= directions
    if kind != "unpaired":
        return
    short = json.loads(run(data, model, "--json", command=fid).stdout)
    assert (short["value"], short["protocol_digest"]) == (found["fid"]["value"], found["fid"]["protocol_digest"])


def test_the_table_and_the_csv_name_each_direction(tmp_path: Path, extractor: Counting) -> None:
    model, data = export(tmp_path / "g", "cyclegan"), tmp_path / "pictures"
    for number, (cat, dog) in enumerate(zip(coloured(8, 0), coloured(8, 2), strict=True)):
        saved(cat, data / "cat" / f"{number}.png")
        saved(dog, data / "dog" / f"{number}.png")
    table = run(model, data).stdout
    assert "fid mean of 2 directions " in table
    assert "fid cat -> dog " in table
    assert "(untranslated source)" in table
    assert "memorisation is not measured: translations follow their input" in table
    lines = run(model, data, "--csv").stdout.splitlines()
    assert any(line.startswith("cycle,dog -> cat,") for line in lines)


def test_folders_and_archives_are_prepared_like_the_data_of_a_run(tmp_path: Path, extractor: Counting) -> None:
    model, data = export(tmp_path / "g", "cyclegan"), tmp_path / "pictures"
    for split, count in (("train", 8), ("test", 4)):
        for channel, domain in ((0, "A"), (2, "B")):
            for number, picture in enumerate(coloured(count, channel, seed=count)):
                saved(picture, data / f"{split}{domain}" / f"{number}.png")
    (data / "testA" / "broken.png").write_bytes(b"not a picture")
    shutil.copy(data / "testB" / "0.png", data / "testB" / "again.png")
    packed = Path(shutil.make_archive(str(tmp_path / "packed"), "gztar", data))
    of_folder, of_tar = run(model, data, "--json"), run(model, packed, "--json")
    found, same = json.loads(of_folder.stdout), json.loads(of_tar.stdout)
    assert found["figures"] == same["figures"]
    assert found["fid"]["protocol"]["split"] == "test", "the held-out pictures, as in the evaluate stage"
    assert found["fid"]["protocol"]["fake_count"] == 8, "4 of each of the two domains"
    assert [*found["unreadable"][str(data)]] == ["testA/broken.png"]
    assert "testA/broken.png cannot be used and is left out: not-an-image" in of_folder.stderr
    assert "1 pictures equal another one" in of_folder.stderr
    trained = json.loads(run(model, data, "--json", "--split", "train").stdout)["fid"]["protocol"]
    assert (trained["split"], trained["fake_count"]) == ("train", 16)


def test_pairs_are_found_in_two_folders_or_side_by_side(tmp_path: Path, extractor: Counting) -> None:
    model = export(tmp_path / "g", "pix2pix")
    for number, (red, blue) in enumerate(zip(coloured(6, 0), coloured(6, 2), strict=True)):
        saved(red, tmp_path / "two" / "a-sources" / f"{number}.png")
        saved(blue, tmp_path / "two" / "b-targets" / f"{number}.png")
        saved(np.concatenate([red, blue], axis=1), tmp_path / "one" / f"{number}.png")
        saved(np.concatenate([blue, red], axis=1), tmp_path / "turned" / f"{number}.png")

    def l1(*arguments: object) -> float:
        found = json.loads(run(model, *arguments, "--json").stdout)
        return next(figure["value"] for figure in found["figures"] if figure["name"] == "l1")

    # The order of the pictures decides their dropout, and the order of the file names theirs.
    expected = pytest.approx(l1(tmp_path / "two"), rel=1e-3)
    assert l1(tmp_path / "one", "--pairs", "side-by-side") == expected
    assert l1(tmp_path / "turned", "--pairs", "side-by-side", "--condition-side", "second") == expected


def test_the_sources_of_a_colouriser_are_derived_from_any_pictures(tmp_path: Path, extractor: Counting) -> None:
    model, packed = export(tmp_path / "g", "colourisation"), tmp_path / "pictures.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for number, picture in enumerate(coloured(6, 1)):
            saved(picture, tmp_path / f"{number}.png")
            archive.write(tmp_path / f"{number}.png", f"{number}.png")
    found = json.loads(run(model, packed, "--json").stdout)
    assert {"l1", "colourfulness_gap"} <= {figure["name"] for figure in found["figures"]}
    with pytest.raises(SettingsError, match=r"--pairs side-by-side is for a folder or archive of pairs"):
        run(model, packed, "--pairs", "side-by-side")


def test_data_that_does_not_fit_the_generator_is_refused_by_name(tmp_path: Path, extractor: Counting) -> None:
    stargan, paired = export(tmp_path / "stargan", "stargan"), write_data("pix2pix", tmp_path / "paired")
    with pytest.raises(
        DataError, match=r"it is paired data, and stargan translates domains or labelled data; .*classes none"
    ):
        run(stargan, paired)
    other = write_data("stargan", tmp_path / "domains")
    with pytest.raises(DataError, match="it has the classes 0, 1, 2, and the generator cat, dog, owl"):
        run(stargan, other)
    saved(coloured(1, 0)[0], tmp_path / "flat" / "1.png")
    with pytest.raises(DataError, match=r"flat cannot be measured with stargan, which needs domains data") as refused:
        run(stargan, tmp_path / "flat")
    assert "gantry-evaluate-" not in str(refused.value)
    (tmp_path / "note.txt").write_text("text")
    with pytest.raises(DataError, match=r"note\.txt is neither a folder nor a zip or tar"):
        run(stargan, tmp_path / "note.txt")
    assert extractor.seen == 0


def test_what_makes_no_sense_for_translations_is_refused_by_name(tmp_path: Path, extractor: Counting) -> None:
    model, data = export(tmp_path / "g", "pix2pix"), write_data("pix2pix", tmp_path / "data")
    with pytest.raises(SettingsError, match="truncation: only a generator that makes pictures from noise"):
        run(model, data, "--truncation", "0.5")
    with pytest.raises(SettingsError, match="a generator that translates has no latents"):
        run(model, data, "--path-samples", "10")
    with pytest.raises(SettingsError, match="are generators, and one of them translates"):
        run(generator(tmp_path / "noise"), model)
    with pytest.raises(SettingsError, match="--pairs folders is for a folder or archive of pairs"):
        run(model, data, "--pairs", "folders")
    with pytest.raises(DataError, match="has no split 'test'; it has train"):
        run(model, data, "--split", "test")
    assert extractor.seen == 0


def test_unusable_pictures_beyond_one_in_a_hundred_are_an_error(tmp_path: Path, extractor: Counting) -> None:
    model, data = export(tmp_path / "g", "cyclegan"), tmp_path / "pictures"
    for channel, domain in ((0, "cat"), (2, "dog")):
        for number, picture in enumerate(coloured(5, channel)):
            saved(picture, data / domain / f"{number}.png")
        (data / domain / "broken.png").write_bytes(b"not a picture")
    with pytest.raises(
        DataError, match=r"2 of 12 pictures cannot be used, more than 1% and more than one: cat/broken.png"
    ):
        run(model, data)


def test_an_imported_generator_with_one_direction_has_no_cycle_error(tmp_path: Path, extractor: Counting) -> None:
    found = import_networks([saved_state(Residual(), tmp_path / "g.pth")], layout="cyclegan", size=16)
    save_generator(tmp_path / "g", family=found.family, extra=found.extra)
    data = write_data("cyclegan", tmp_path / "data")
    result = json.loads(run(tmp_path / "g", data, "--json").stdout)
    assert {figure["protocol"]["direction"] for figure in result["figures"]} == {"0 -> 1"}
    assert result["not_measured"]["cycle"] == "the generator has no translation back"
    assert result["not_measured"]["class_agreement"] == "all real pictures have the same class"
