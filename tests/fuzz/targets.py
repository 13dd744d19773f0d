"""Make and read each kind of fuzzed input. Code under test must read an input or refuse it with a reason."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np

from gan_core.errors import DataError, PictureError
from gan_core.images import pictures
from pipelines.data import archives, readers
from pipelines.data.arrange import arrange
from pipelines.data.readers.base import SourceNote
from tests.fuzz import mutate, seeds


@dataclass(frozen=True)
class Input:
    """An input: the name and content of a file."""

    name: str
    content: bytes


@dataclass(frozen=True)
class Target:
    """A kind of input."""

    make: Callable[[Random], Input]
    read: Callable[[Input, Path], None]
    """Reads an input in an empty folder; raises GantryError if it is refused."""
    inputs: int
    """Number of inputs in ``make test``."""


# -- pictures --------------------------------------------------------------------------------------------------------


def _picture(random: Random) -> Input:
    known = seeds.pictures()
    name = random.choice(list(known))
    content = known[name]
    if name.startswith("PNG") and random.random() < 0.6:
        content = mutate.png_chunks(content, random)
    elif name.startswith("TIFF") and random.random() < 0.6:
        content = mutate.tiff_tags(content, random)
    else:
        content = mutate.blind(content, list(known.values()), random)
    return Input(f"{name}.bin", content)


def _read_picture(given: Input, place: Path) -> None:
    pixels = pictures.decode(given.content, 3)
    assert pixels.dtype == np.uint8, pixels.dtype
    assert pixels.ndim == 3 and pixels.shape[0] == 3 and pixels.size, pixels.shape  # noqa: PT018


# -- archives --------------------------------------------------------------------------------------------------------


def _archive(random: Random) -> Input:
    known = seeds.archives()
    picture = seeds.pictures()["PNG RGB 0"]
    choice = random.random()
    if choice < 0.3:
        return Input("a.zip", mutate.hostile_zip(picture, random))
    if choice < 0.6:
        return Input("a.tar", mutate.hostile_tar(picture, random))
    return Input("a.archive", mutate.blind(random.choice(list(known.values())), list(known.values()), random))


def _read_archive(given: Input, place: Path) -> None:
    archive, target = place / given.name, place / "inside" / "target"
    archive.write_bytes(given.content)
    if not archives.is_archive(archive):
        raise DataError("not an archive")
    try:
        archives.unpack(archive, target, "fuzz")
    finally:
        strays = [
            path
            for path in (*place.iterdir(), *(place / "inside").glob("*"))
            if path not in (archive, target.parent, target)
        ]
        assert not strays, f"written outside the target: {strays}"
        if target.exists():
            odd = [path for path in target.rglob("*") if path.is_symlink() or not (path.is_file() or path.is_dir())]
            assert not odd, f"neither a regular file nor a folder: {odd}"


# -- tables ----------------------------------------------------------------------------------------------------------


def _table(random: Random) -> Input:
    known = seeds.tables()
    name = random.choice(list(known))
    if random.random() < 0.4:
        return Input(name, mutate.blind(known[name], list(known.values()), random))
    if name.endswith(("json", "jsonl")):
        return Input(name, mutate.strange_json(random))
    return Input(name, mutate.strange_csv(random))


def _read_table(given: Input, place: Path) -> None:
    for name in "abc":
        (place / f"{name}.png").write_bytes(seeds.pictures()["PNG RGB 0"])
    (place / given.name).write_bytes(given.content)
    _arranged(place)
    _arranged(place, SourceNote(format="table", labels=given.name))


# -- Parquet ---------------------------------------------------------------------------------------------------------


def _parquet(random: Random) -> Input:
    known = seeds.parquets()
    if random.random() < 0.5:
        picture = seeds.pictures()
        return Input("data.parquet", mutate.strange_parquet([picture["PNG RGB 0"], picture["GIF P 0"], b"x"], random))
    return Input("data.parquet", mutate.blind(random.choice(list(known.values())), list(known.values()), random))


def _read_parquet(given: Input, place: Path) -> None:
    (place / given.name).write_bytes(given.content)
    _arranged(place)
    _arranged(place, SourceNote(format="parquet"))


def _arranged(root: Path, note: SourceNote | None = None) -> None:
    """List the pictures of a folder and read them. As in ingestion, unreadable pictures are skipped."""
    note = note or readers.read_note(root)
    _, listing = arrange(root, note)
    assert all(reject.reason for reject in listing.rejects)
    reader = readers.open_reader(root, note)
    for entry in listing.entries:
        assert -1 <= entry.label < max(len(listing.classes), 1)
        try:
            content = reader.read(entry)
            if isinstance(content, bytes):
                pictures.decode(content, 3)
        except PictureError as error:
            assert error.reason  # noqa: PT017


TARGETS: dict[str, Target] = {
    "pictures": Target(_picture, _read_picture, 6000),
    "archives": Target(_archive, _read_archive, 2500),
    "tables": Target(_table, _read_table, 1500),
    "parquet": Target(_parquet, _read_parquet, 1500),
}
"""Targets by kind, with 11,500 inputs in total."""
