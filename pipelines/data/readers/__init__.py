"""Readers of the formats of raw data. Each lists the pictures of a folder and reads their content.

A reader is a module with ``matches(root) -> bool``, ``list_pictures(root, note) -> Listing`` and
``open_reader(root, note) -> Reader``. To add a format, add a module and a line in :data:`READERS`.
"""

from pathlib import Path
from types import ModuleType

from gan_core.config import as_dict, build
from gan_core.errors import DataError, SettingsError, did_you_mean
from gan_core.files import read_json, write_json
from pipelines.data.readers import bucket, cifar, folder, idx, parquet, stylegan, table
from pipelines.data.readers.base import NOTE_FILE, Listing, Reader, SourceNote, summarize_suffixes

READERS: dict[str, ModuleType] = {
    "bucket": bucket,
    "idx": idx,
    "cifar": cifar,
    "stylegan": stylegan,
    "parquet": parquet,
    "table": table,
    "folder": folder,
}
"""Readers by format. :func:`detect` tries them in this order; the last one accepts any folder."""


def read_note(root: Path) -> SourceNote:
    """Read ``source.json`` of the raw data in ``root``; without one, detect the format.

    Raises:
        DataError: ``root`` does not exist, or ``source.json`` is invalid.
    """
    if not root.is_dir():
        raise DataError(
            f"No raw data in {root}. Download a public dataset (gantry data fetch NAME) or add your own "
            f"(gantry data add NAME PATH-OR-URL)."
        )
    path = root / NOTE_FILE
    if not path.is_file():
        return SourceNote(format=detect(root))
    try:
        note = build(SourceNote, read_json(path))
    except (ValueError, SettingsError) as error:
        raise DataError(f"{path} is not a valid source note: {error}. Add the data again.") from error
    if note.format not in READERS:
        raise DataError(f"{path}: unknown format '{note.format}'.{did_you_mean(note.format, READERS)}")
    return note


def write_note(root: Path, note: SourceNote) -> None:
    """Write ``source.json`` into ``root``; equal notes give equal bytes."""
    write_json(root / NOTE_FILE, {key: value for key, value in as_dict(note).items() if value not in (None, [])})


def detect(root: Path) -> str:
    """Name of the first reader that recognizes the format of ``root``."""
    return next(name for name, reader in READERS.items() if reader.matches(root))


def list_pictures(root: Path, note: SourceNote) -> Listing:
    """List the pictures of ``root`` in a fixed order; raises DataError if there are none."""
    listing: Listing = READERS[note.format].list_pictures(root, note)
    if not listing.entries and not listing.rejects:
        others = f", only {summarize_suffixes(listing.ignored)}" if listing.ignored else ""
        raise DataError(f"{root} holds no pictures{others} (read as '{note.format}'). {_hint(listing.ignored)}")
    return listing


def _hint(files: list[str]) -> str:
    """The remedy for files in formats that are not supported."""
    suffixes = {Path(file).suffix.lower() for file in files}
    if ".arrow" in suffixes:
        return "Write each split as Parquet first, with datasets' load_from_disk(PATH)['train'].to_parquet('train.parquet')."
    if suffixes & {".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar"}:
        return "Unpack the nested archives, and give the folder."
    return "Add pictures with: gantry data add NAME PATH"


def open_reader(root: Path, note: SourceNote) -> Reader:
    """Open the reader of the content of single pictures."""
    return READERS[note.format].open_reader(root, note)
