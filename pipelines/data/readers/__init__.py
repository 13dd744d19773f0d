"""The forms that raw data comes in. Each reader lists the pictures of a folder and gives the content of each.

A reader is a module with ``matches(root) -> bool``, ``list_pictures(root, note) -> Listing`` and
``open_reader(root, note) -> Reader``; a new form is one module and one line in :data:`READERS`.
"""

from pathlib import Path
from types import ModuleType

from gan_core.config import as_dict, build
from gan_core.errors import DataError, SettingsError, nearest
from gan_core.files import read_json, write_json
from pipelines.data.readers import cifar, folder, idx, parquet, stylegan, table
from pipelines.data.readers.base import NOTE_FILE, Listing, Reader, SourceNote, kinds

READERS: dict[str, ModuleType] = {
    "idx": idx,
    "cifar": cifar,
    "stylegan": stylegan,
    "parquet": parquet,
    "table": table,
    "folder": folder,
}
"""By name, in the order in which an unknown folder is tried; the last one takes any folder."""


def read_note(root: Path) -> SourceNote:
    """What ``source.json`` says of the raw data in ``root``; where there is none, what the folder looks like."""
    if not root.is_dir():
        raise DataError(
            f"No raw data in {root}. Fetch a public dataset (gantry data fetch NAME) or add your own "
            f"(gantry data add NAME PATH-OR-URL)."
        )
    path = root / NOTE_FILE
    if not path.is_file():
        return SourceNote(format=detect(root))
    try:
        note = build(SourceNote, read_json(path))
    except (ValueError, SettingsError) as error:
        raise DataError(f"{path} does not describe a dataset source: {error}") from error
    if note.format not in READERS:
        raise DataError(f"{path}: unknown format '{note.format}'.{nearest(note.format, READERS)}")
    return note


def write_note(root: Path, note: SourceNote) -> None:
    """Write ``source.json`` into ``root``; equal notes are equal bytes."""
    write_json(root / NOTE_FILE, {key: value for key, value in as_dict(note).items() if value not in (None, [])})


def detect(root: Path) -> str:
    """Name of the first reader that knows the form of ``root``."""
    return next(name for name, reader in READERS.items() if reader.matches(root))


def list_pictures(root: Path, note: SourceNote) -> Listing:
    """The pictures of ``root`` in a fixed order; raises DataError when there is none."""
    listing: Listing = READERS[note.format].list_pictures(root, note)
    if not listing.entries and not listing.rejects:
        others = f", only {kinds(listing.ignored)}" if listing.ignored else ""
        raise DataError(f"{root} holds no picture{others} (read as '{note.format}'). {_hint(listing.ignored)}")
    return listing


def _hint(files: list[str]) -> str:
    """What to do with files that hold pictures in a form that is not read."""
    suffixes = {Path(file).suffix.lower() for file in files}
    if ".arrow" in suffixes:
        return "Write each split as Parquet first, with datasets' load_from_disk(PATH)['train'].to_parquet('train.parquet')."
    if suffixes & {".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar"}:
        return "Unpack the archives in it, and give the folder."
    return "Add pictures with: gantry data add NAME PATH"


def open_reader(root: Path, note: SourceNote) -> Reader:
    """A reader of the content of single pictures."""
    return READERS[note.format].open_reader(root, note)
