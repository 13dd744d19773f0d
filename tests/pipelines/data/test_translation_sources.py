"""Public datasets for translation: equal bytes from packages, and variants of an emoji in the same split."""

import base64
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from gan_core.config import build as from_values
from gan_core.download.fetch import Derived
from gan_core.files import sha256_file
from pipelines.commands.data import data
from pipelines.data import raw as module
from pipelines.data.ingest import ingest
from pipelines.data.public import PublicDataset, PublicFile
from pipelines.data.raw import fetch_public
from pipelines.data.sources import PUBLIC_DATASETS, public_dataset
from pipelines.data.translation_sources import DOGS_CATS, emoji_split, write_tar
from pipelines.runtime.checkout import Checkout
from pipelines.settings.ingest import IngestSettings
from tests.pipelines.data.samples import png

CODES = [f"1f{number:03x}" for number in range(0x300, 0x328)]


def package(path: Path, files: dict[str, bytes]) -> Path:
    """Write an npm package."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def build(dataset: PublicDataset, parts: list[Path], to: Path) -> Path:
    (address,) = dataset.files[0].addresses
    assert isinstance(address, Derived)
    address.build(parts, to)
    return to


def emoji(folder: Path, vendor: str, seed: int, extra: str) -> Path:
    pictures = {code: png(seed + index) for index, code in enumerate([*CODES, extra])}
    files = {f"img/{vendor}/64/{code}.png": content for code, content in pictures.items()}
    return package(folder / f"{vendor}.tgz", {**files, f"img/{vendor}/sheets/64.png": b"", "LICENSE": b"MIT"})


def test_skin_tones_and_genders_of_an_emoji_are_in_the_same_split() -> None:
    assert {emoji_split(code) for code in CODES} == {"train", "test"}
    for code in CODES:
        tones = {emoji_split(f"{code}-1F3F{tone}") for tone in "BCDEF"}
        genders = {emoji_split(f"{person}-1f3fb-200d-{code}-fe0f") for person in ("1f468", "1f469", "1F9D1")}
        assert tones == {emoji_split(code)}
        assert len(genders) == 1


def test_emoji_of_two_vendors_are_pairs_or_two_domains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [emoji(tmp_path, "google", 0, "e50a"), emoji(tmp_path, "twitter", 1000, "e50b")]
    dataset = public_dataset("emoji:google-twitter")
    tar = build(dataset, parts, tmp_path / "a.tar")
    assert build(dataset, parts, tmp_path / "b.tar").read_bytes() == tar.read_bytes()
    # The dataset with other content, from an address that needs no network.
    local = Derived(parts=(), build=lambda parts, to: to.write_bytes(tar.read_bytes()) and None, what="a tar")
    files = (PublicFile(name="pictures.tar", sha256=sha256_file(tar), addresses=(local,)),)
    dataset = PublicDataset(**{**vars(dataset), "files": files})
    monkeypatch.setattr(module, "public_dataset", lambda name: dataset)
    added = fetch_public("emoji:google-twitter", checkout=Checkout.at(tmp_path))
    assert added.path == tmp_path / "data/raw/emoji-google-twitter"
    assert added.pictures == 2 * len(CODES)
    before = {file: file.stat().st_mtime_ns for file in added.path.rglob("*")}
    fetch_public("emoji:google-twitter", checkout=Checkout.at(tmp_path))
    assert {file: file.stat().st_mtime_ns for file in added.path.rglob("*")} == before
    for kind, pictures in (("paired", len(CODES)), ("unpaired", 2 * len(CODES))):
        info = ingest(added.path, tmp_path / "out", IngestSettings(kind=kind, size=(8, 8)), name="x")
        assert sum(info.splits.values()) == pictures
        assert set(info.splits) == {"train", "test"}


def test_dogs_and_cats_are_two_domains_with_the_split_of_the_package(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 10, 32, 32, 3)).astype("<f4")
    arrays = {
        name: base64.b64encode(part.tobytes()).decode() for name, part in zip(("dogs", "cats"), pixels, strict=True)
    }
    (tmp_path / "arrays.json").write_text(json.dumps(arrays))
    tar = build(DOGS_CATS, [tmp_path / "arrays.json"], tmp_path / "a.tar")
    with tarfile.open(tar) as opened:
        opened.extractall(tmp_path / "raw", filter="data")
    info = ingest(tmp_path / "raw", tmp_path / "out", IngestSettings(), name="x")
    assert (info.kind, info.splits) == ("unpaired", {"test": 4, "train": 16})
    np.testing.assert_allclose(info.mean, pixels[:, :8].mean(axis=(0, 1, 2, 3)) / 255)


def test_a_tar_does_not_depend_on_the_order_of_files(tmp_path: Path) -> None:
    files = [("b/2", b"two"), ("a/1", b"one")]
    write_tar(files, tmp_path / "a")
    write_tar(files[::-1], tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_greyscale_pairs_use_the_same_raw_data() -> None:
    grey, plain = public_dataset("cifar10:greyscale"), public_dataset("cifar10")
    assert (grey.folder_name, grey.files) == (plain.folder_name, plain.files)


@pytest.mark.parametrize("name", sorted(name for name, dataset in PUBLIC_DATASETS.items() if dataset.settings))
def test_the_settings_that_fetch_recommends_are_valid(name: str) -> None:
    for line in public_dataset(name).settings:
        assert from_values(IngestSettings, yaml.safe_load(f"{{{line}}}")).kind != "auto"


def test_fetch_prints_the_settings_to_use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    added = module.RawData(path=tmp_path / "emoji-vendors", format="folder", pictures=4, classes=(), tracked=False)
    monkeypatch.setattr(module, "fetch_public", lambda *args, **more: added)
    output = CliRunner().invoke(data, ["fetch", "emoji:vendors"]).output
    assert "data.name: emoji-vendors" in output
    assert "kind: domains" in output
