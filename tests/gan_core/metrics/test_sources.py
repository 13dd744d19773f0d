"""Folders, zip files, datasets and generators return a fixed selection of pictures; unreadable files are named."""

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gan_core.data import PreparedDataset
from gan_core.errors import DataError, SettingsError
from gan_core.metrics.sources import (
    SAMPLE_CHUNK,
    TRANSLATE_CHUNK,
    DatasetSplit,
    IdentityTranslations,
    PictureFolder,
    Samples,
    Translations,
    identity_translation,
    random_subset,
)
from tests.datasets import blobs, write_prepared


def write_folder(folder: Path, pixels: np.ndarray) -> Path:
    for index, picture in enumerate(pixels):
        path = folder / f"{index % 2}" / f"{index:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture[0]).save(path)
    return folder


def test_random_subset_is_fixed_fair_and_ascending() -> None:
    chosen = random_subset(1000, 100)
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert len(chosen) == 100
    assert chosen.tolist() == random_subset(1000, 100).tolist()
    # A random subset of a set that is sorted by class, or that cycles through its classes, has all classes.
    assert np.bincount(chosen // 100, minlength=10).min() > 0
    assert np.bincount(chosen % 10, minlength=10).min() > 0
    assert random_subset(7, 7).tolist() == list(range(7))


def test_a_folder_is_read_with_its_subfolders_and_without_hidden_files(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "f", blobs(9))
    (folder / "notes.txt").write_text("no picture")
    (folder / ".thumbs").mkdir()
    shutil.copy(folder / "0" / "000.png", folder / ".thumbs" / "000.png")
    source = PictureFolder(folder)
    assert source.available() == 9
    taken = torch.cat(list(source.batches(9, 4, lambda images: images)))
    order = [0, 2, 4, 6, 8, 1, 3, 5, 7]
    assert torch.equal(taken, torch.from_numpy(blobs(9)[order]).repeat(1, 3, 1, 1))
    assert [len(batch) for batch in source.batches(9, 4, lambda images: images)] == [4, 4, 1]


def test_a_zip_equals_its_folder(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "f", blobs(9))
    packed = PictureFolder(Path(shutil.make_archive(str(tmp_path / "f"), "zip", folder)))
    plain = PictureFolder(folder)
    assert packed.available() == 9
    assert packed.digest(5) == plain.digest(5) != plain.digest(6)
    for one, other in zip(packed.batches(5, 2, torch.clone), plain.batches(5, 2, torch.clone), strict=True):
        assert torch.equal(one, other)


def test_pictures_of_different_sizes_share_a_batch(tmp_path: Path) -> None:
    for side in (5, 9, 12):
        Image.fromarray(blobs(1, side)[0, 0]).save(tmp_path / f"{side}.png")
    seen = []
    list(
        PictureFolder(tmp_path).batches(
            3, 2, lambda images: seen.append(images.shape[2]) or images.new_zeros(1, 3, 2, 2)
        )
    )
    assert sorted(seen) == [5, 9, 12]


def test_unreadable_pictures_are_named(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "f", blobs(9))
    for number in (3, 5):
        (folder / "1" / f"00{number}.png").write_bytes(b"not a picture")
    with pytest.raises(
        DataError,
        match=(
            r"f: 2 of 9 pictures cannot be read, more than 1% and more than one: 1/003\.png \(not-an-image.*\)\. Repair or "
            "remove these files"
        ),
    ):
        list(PictureFolder(folder).batches(9, 4, lambda images: images))


def test_one_unreadable_picture_of_few_is_left_out(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "f", blobs(9))
    (folder / "1" / "003.png").write_bytes(b"not a picture")
    broken = PictureFolder(folder)
    assert sum(len(batch) for batch in broken.batches(9, 4, torch.clone)) == 8
    assert set(broken.unreadable) == {"1/003.png"}


@pytest.mark.parametrize("packed", [False, True])
def test_one_unreadable_picture_of_many_is_left_out_and_named(tmp_path: Path, packed: bool) -> None:
    pixels = blobs(120)
    folder = write_folder(tmp_path / "f", pixels)
    (folder / "1" / "003.png").write_bytes(b"not a picture")
    (folder / "notes.txt").write_text("words")
    broken = PictureFolder(Path(shutil.make_archive(str(tmp_path / "f"), "zip", folder)) if packed else folder)
    taken = torch.cat(list(broken.batches(120, 50, torch.clone)))
    assert set(broken.unreadable) == {"1/003.png"}
    assert broken.files.others == ["notes.txt"]
    order = [*range(0, 120, 2), *range(1, 120, 2)]
    order.remove(3)
    assert torch.equal(taken, torch.from_numpy(pixels[order]).repeat(1, 3, 1, 1))
    digest = broken.digest(120)
    (folder / "1" / "003.png").unlink()
    whole = PictureFolder(folder)
    assert whole.digest(119) == digest, "the digest is of the pictures that were used"
    assert not whole.unreadable


def test_a_source_without_pictures_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="contains no pictures"):
        PictureFolder(tmp_path)
    (tmp_path / "file.txt").write_text("words")
    with pytest.raises(DataError, match=r"contains no pictures, only 1 file \(1 \.txt\)"):
        PictureFolder(tmp_path)
    with pytest.raises(DataError, match="neither a folder nor a zip"):
        PictureFolder(tmp_path / "file.txt")


def pack(folder: Path, to: Path) -> bytearray:
    """A zip file of ``folder`` without compression."""
    with zipfile.ZipFile(to, "w") as packed:
        for path in sorted(folder.rglob("*.png")):
            packed.write(path, path.relative_to(folder))
    return bytearray(to.read_bytes())


@pytest.mark.parametrize("damage", ["content", "encrypted", "header"])
def test_a_broken_member_of_a_zip_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "broken.zip"
    content = pack(write_folder(tmp_path / "f", blobs(4)), path)
    if damage == "content":
        content[content.index(b"IHDR") + 8] ^= 0xFF
    elif damage == "header":
        content[:4] = b"none"
    else:
        content[content.index(b"PK\x01\x02") + 8] |= 1  # the encryption flag in the central directory
    path.write_bytes(content)
    source = PictureFolder(path)
    for read in (lambda: source.digest(4), lambda: list(source.batches(4, 2, torch.clone))):
        source.unreadable.clear()
        read()
        assert set(source.unreadable) == {"0/000.png"}
        assert source.unreadable["0/000.png"].startswith("unreadable: ")


def test_a_zip_without_a_readable_directory_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "broken.zip"
    content = pack(write_folder(tmp_path / "f", blobs(4)), path)
    content[content.index(b"PK\x01\x02")] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"broken\.zip is a broken zip file"):
        PictureFolder(path)


@pytest.mark.parametrize("packing", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_zip_member_is_named_for_each_compression(tmp_path: Path, packing: int) -> None:
    path = tmp_path / "broken.zip"
    with zipfile.ZipFile(path, "w", packing) as packed:
        packed.write(write_folder(tmp_path / "f", blobs(1)) / "0" / "000.png", "a.png")
    content = bytearray(path.read_bytes())
    start = content.index(b"a.png") + len("a.png")
    content[start + 4 : start + 40] = b"\xff" * 36  # after the header of LZMA
    path.write_bytes(content)
    with pytest.raises(
        DataError,
        match=r"broken\.zip: 1 of 1 pictures cannot be read, which leaves fewer than two: a\.png \(unreadable: .*\)\. Repair",
    ):
        PictureFolder(path).digest(1)


@pytest.mark.parametrize("name", ["cut.zip", "cut"])
def test_a_truncated_zip_is_an_error(tmp_path: Path, name: str) -> None:
    content = pack(write_folder(tmp_path / "f", blobs(4)), tmp_path / "whole.zip")
    (tmp_path / name).write_bytes(content[:-100])
    with pytest.raises(DataError, match=rf"/{name} is a broken zip file, perhaps truncated\. Get it again"):
        PictureFolder(tmp_path / name)


def test_a_split_returns_its_pixels(tmp_path: Path) -> None:
    pixels = blobs(9)
    source = DatasetSplit(PreparedDataset(write_prepared(tmp_path / "d", pixels)), "train")
    assert source.available() == 9
    assert torch.equal(torch.cat(list(source.batches(9, 4, lambda images: images))), torch.from_numpy(pixels))
    with pytest.raises(DataError, match="has no split 'test'"):
        DatasetSplit(source.dataset, "test").available()


def test_samples_do_not_depend_on_the_batch_size() -> None:
    asked = []

    def sample(n: int, seed: int) -> torch.Tensor:
        asked.append((n, seed))
        return torch.randint(0, 256, (n, 1, 2, 2), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)

    source = Samples(sample, seed=7, digest="g")
    count = SAMPLE_CHUNK + 10
    one = torch.cat(list(source.batches(count, 64, lambda images: images)))
    other = torch.cat(list(source.batches(count, 100, lambda images: images)))
    assert one.shape == (count, 1, 2, 2)
    assert torch.equal(one, other)
    assert asked[0] == (SAMPLE_CHUNK, 7)
    assert asked[1][0] == 10
    assert asked[1][1] not in (7, 8)


def whole(source: DatasetSplit | Translations, count: int, batch_size: int = 4) -> torch.Tensor:
    return torch.cat(list(source.batches(count, batch_size, lambda images: images)))


def test_a_domain_has_only_its_own_pictures(tmp_path: Path) -> None:
    pixels, labels = blobs(10), np.arange(10) % 3
    dataset = PreparedDataset(write_prepared(tmp_path / "d", pixels, labels, kind="domains"))
    source = DatasetSplit(dataset, "train", 1)
    assert source.available() == 3
    assert torch.equal(whole(source, 3), torch.from_numpy(pixels[[1, 4, 7]]))
    assert source.name == "test train 1"
    assert source.key != DatasetSplit(dataset, "train", 2).key
    assert DatasetSplit(dataset, "train").key == {"dataset": dataset.info.digest, "split": "train"}


def test_an_attribute_selects_pictures_with_it_or_without_it(tmp_path: Path) -> None:
    pixels, labels = blobs(6), np.array([[0, 1], [1, 1], [0, 0], [1, 0], [1, 1], [0, 1]])
    dataset = PreparedDataset(write_prepared(tmp_path / "d", pixels, labels))
    having, lacking = (DatasetSplit(dataset, "train", 0, lacking=lacking) for lacking in (False, True))
    assert having.rows.tolist() == [1, 3, 4]
    assert lacking.rows.tolist() == [0, 2, 5]
    assert having.key != lacking.key
    assert lacking.name == "test train without attribute 0"


def test_selecting_a_domain_of_data_without_domains_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no domains.*ingest\.kind"):
        DatasetSplit(PreparedDataset(write_prepared(tmp_path / "e", blobs(4))), "train", 1)


def test_translations_use_conditions_and_do_not_depend_on_the_batch_size(tmp_path: Path) -> None:
    n = TRANSLATE_CHUNK + 6
    pixels, conditions = blobs(n), blobs(n, seed=1)
    dataset = PreparedDataset(write_prepared(tmp_path / "d", pixels, conditions=conditions))
    seen = []

    def translate(images: torch.Tensor, target: int | None = None, seed: int = 0, *, first: int = 0) -> torch.Tensor:
        numbers = torch.arange(first, first + len(images), dtype=torch.uint8)[:, None, None, None]
        return images + numbers + seed

    source = Translations(
        translate,
        DatasetSplit(dataset, "train"),
        seed=5,
        digest="g",
        on_batch=lambda given, made, first: seen.append((given, made, first)),
    )
    assert (source.available(), source.digest(3), source.split) == (n, "g", "train")
    made = whole(source, n, 200)
    expected = torch.from_numpy(conditions) + torch.arange(n, dtype=torch.uint8)[:, None, None, None] + 5
    assert torch.equal(made, expected)
    assert [first for _, _, first in seen] == [0, TRANSLATE_CHUNK]
    assert torch.equal(torch.cat([given for given, _, _ in seen]), torch.from_numpy(conditions))
    assert torch.equal(whole(source, n, 7), made)


def test_identity_translations_have_the_targets_channels(tmp_path: Path) -> None:
    conditions = blobs(5, seed=1)
    dataset = PreparedDataset(write_prepared(tmp_path / "d", blobs(5, channels=3), conditions=conditions))
    unchanged = IdentityTranslations(dataset, "train")
    assert torch.equal(whole(unchanged, 5), torch.from_numpy(conditions).expand(-1, 3, -1, -1))
    assert unchanged.key != DatasetSplit(dataset, "train").key
    with pytest.raises(DataError, match="not paired"):
        whole(IdentityTranslations(PreparedDataset(write_prepared(tmp_path / "e", blobs(4))), "train"), 4)


def test_identity_translation_converts_colour_to_grey_and_transparency_to_white() -> None:
    red = torch.tensor([255, 0, 0], dtype=torch.uint8)[None, :, None, None]
    assert identity_translation(red, 1).item() == 76
    assert identity_translation(red, 4).flatten().tolist() == [255, 0, 0, 255]
    clear = torch.tensor([9, 9, 9, 0], dtype=torch.uint8)[None, :, None, None]
    assert identity_translation(clear, 3).flatten().tolist() == [255, 255, 255]
    assert identity_translation(clear, 1).item() == 255
    # A lightness of 50 (of 100) is grey level 119, not 128.
    half = torch.full((1, 1, 1, 1), 128, dtype=torch.uint8)
    assert identity_translation(half, 3, "greyscale").flatten().tolist() == [119, 119, 119]
    assert identity_translation(half, 3, "edges").flatten().tolist() == [128, 128, 128]
    with pytest.raises(SettingsError, match="1, 3 or 4 channels"):
        identity_translation(red, 2)


def test_drawings_are_rendered_as_in_ingestion(tmp_path: Path) -> None:
    svg = '<svg xmlns="http://www.w3.org/2000/svg" width="4" height="2"><rect width="2" height="2" fill="red"/></svg>'
    (tmp_path / "a.svg").write_text(svg)
    source = PictureFolder(tmp_path)
    (images,) = source.batches(1, 1, lambda images: images)
    assert images.shape == (1, 3, 128, 256)
    assert images[0, :, 64, 10].tolist() == [255, 0, 0]
    assert images[0, :, 64, 200].tolist() == [255, 255, 255]
    assert source.unreadable == {}
