"""Raw data: public datasets by name and a user's own pictures, each a folder under ``data/raw`` that DVC tracks."""

import filecmp
import gzip
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from gan_core.config import build
from gan_core.disk import with_place
from gan_core.download.fetch import Wanted, fetch_many, progress_bar
from gan_core.errors import DataError
from gan_core.files import replacing, sha256_file
from pipelines.data import archives, readers
from pipelines.data.arrange import arrange
from pipelines.data.findings import findings
from pipelines.data.names import check_dataset_name
from pipelines.data.public import PublicDataset
from pipelines.data.readers.base import Listing, SourceNote, kinds, walk_files
from pipelines.data.readers.idx import matches as holds_idx
from pipelines.data.sources import public_dataset
from pipelines.data.translation_sources import pack
from pipelines.data.unpack_limits import Budget
from pipelines.runtime.dvc_error import dvc_error
from pipelines.runtime.project_files import check_project_files
from pipelines.settings.data import UnpackLimits
from pipelines.settings.params import read_params

log = logging.getLogger(__name__)

RAW = Path("data/raw")


@dataclass(frozen=True, kw_only=True)
class RawData:
    """What came in."""

    path: Path
    format: str
    pictures: int
    classes: tuple[str, ...]
    tracked: bool
    """Whether DVC tracks it."""
    ignored: int = 0
    """Files that are no pictures and were left aside."""
    attributes: tuple[str, ...] = ()
    """Names of the attributes, where a table of them was named."""
    kind: str = "unlabelled"
    """What ingestion takes it for, unless it is told otherwise: unlabelled, labelled, unpaired or domains."""
    found: tuple[str, ...] = ()
    """Lines that say its splits, its classes with their counts, and what is not used."""


def fetch_public(name: str, *, root: Path, replace: bool = False) -> RawData:
    """Bring the public dataset ``name`` to its place in ``data/raw`` below ``root`` (the checkout) and track it with DVC.

    Its place is its name, with a dash for a colon; NAME:greyscale lies where NAME does. Data that is there and right is left
    as it is. The folder holds the same bytes whichever address gave them.

    Raises:
        DataError: no such dataset, or other data lies there and ``replace`` is false.
        FetchError: no address gives a file.
        StageError: a file of the project that DVC reads is damaged (before anything is fetched).
    """
    dataset = public_dataset(name)
    check_project_files(root)
    target = root / RAW / dataset.place
    if target.exists() and not _is_right(target, dataset):
        _refuse_unless(replace, target)
    if not target.exists() or not _is_right(target, dataset):
        with replacing(target) as folder:
            folder.mkdir()
            wanted = [
                Wanted(target=folder / file.name, sha256=file.sha256, addresses=file.addresses)
                for file in dataset.files
            ]
            fetch_many(wanted, label=name)
            if dataset.packed:
                _unpack_all(folder, dataset)
            readers.write_note(folder, _public_note(dataset))
    note = readers.read_note(target)
    return _summary(target, note, *arrange(target, note), tracked=track(target, root))


def add(
    name: str,
    source: str,
    *,
    root: Path,
    labels: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    encoding: str | None = None,
    replace: bool = False,
) -> RawData:
    """Copy a user's pictures to ``data/raw/NAME`` below ``root`` and track them with DVC; the source is only read.

    Args:
        name: letters, digits, dots, dashes, underscores; no name of DVC's own files.
        source: a folder, zip, tar, IDX file or Parquet file; a local path or an fsspec URL (``s3://...``, ``https://...``).
        root: the checkout.
        labels: a label table (CSV, TSV or Parquet), local or within the source.
        image_column: its column of file names, or the Parquet column of pictures; found by its usual names if None.
        label_column: its column of labels.
        encoding: of the names in an archive that does not say it; told from the names if None.
        replace: replace data of this name.

    Raises:
        DataError: nothing there, not readable, not safe to unpack, no picture in it or in one of its folders, the name is
            taken, or DVC refuses (what is new is removed then).
        StageError: a file of the project that DVC reads is damaged (before anything is copied).
    """
    check_dataset_name(name)
    check_project_files(root)
    _check_source(source, root)
    limits = unpack_limits(root)
    target = root / RAW / name
    new = not target.exists()
    if not new:
        _refuse_unless(replace, target)
    with replacing(target) as folder:
        place = source.rstrip("/") or source
        # What is wrong is wrong with the user's data; the copy that it was seen in is gone when that is said.
        origins = {str(folder): place}
        if not Path(source).expanduser().is_dir():
            origins[f"{folder}/{Path(place).name}"] = place  # one file lies in the copy under its own name
        try:
            _bring(source, folder, name, limits, encoding)
            _unpack_idx(folder, limits)
            inside = None
            if labels is not None:
                inside = _bring_labels(folder, source, labels)
                if inside != labels:
                    origins[f"{folder}/{inside}"] = labels
            note = _note(folder, inside, image_column, label_column)
            readers.write_note(folder, note)
            kind, listing = arrange(folder, note)
            _check_pictures(folder, note, listing, source)
        except DataError as error:
            told = str(error)
            for copy in sorted(origins, key=len, reverse=True):
                told = told.replace(copy, origins[copy])
            raise DataError(told) from error
    try:
        tracked = track(target, root)
    except DataError:
        if new:  # or the next attempt would find the name taken
            shutil.rmtree(target)
        raise
    return _summary(target, note, kind, listing, tracked=tracked)


def track(path: Path, root: Path) -> bool:
    """``dvc add`` the folder; False, with a message, where ``root`` is no DVC repository.

    Raises:
        DataError: DVC refuses.
    """
    if not any((parent / ".dvc").is_dir() for parent in (root.resolve(), *root.resolve().parents)):
        log.warning("%s is not versioned: %s is not in a DVC repository (dvc init makes one).", path, root.resolve())
        return False
    command = [sys.executable, "-m", "dvc", "add", os.path.relpath(path, root)]
    environment = {**os.environ, "DVC_NO_ANALYTICS": "1"}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise DataError(f"DVC does not take {path}: {dvc_error(done.stderr or done.stdout)}")
    return True


def _unpack_all(folder: Path, dataset: PublicDataset) -> None:
    """Put the content of the tars in ``folder`` in their place."""
    for file in dataset.files:
        archives.unpack(folder / file.name, folder, dataset.name)
        (folder / file.name).unlink()


def _is_right(folder: Path, dataset: PublicDataset) -> bool:
    if dataset.packed:
        with tempfile.TemporaryDirectory() as scratch:
            again = Path(scratch) / "again.tar"
            pack(((file, (folder / file).read_bytes()) for file in walk_files(folder)), again)
            if sha256_file(again) != dataset.files[0].sha256:
                return False
        return readers.read_note(folder) == _public_note(dataset)
    files = [(folder / file.name, file.sha256) for file in dataset.files]
    if not all(path.is_file() and sha256_file(path) == sha256 for path, sha256 in files):
        return False
    return {*walk_files(folder)} == {file.name for file in dataset.files} and (
        readers.read_note(folder) == _public_note(dataset)
    )


def _public_note(dataset: PublicDataset) -> SourceNote:
    return SourceNote(format=dataset.format, classes=dataset.classes, about=dataset.about)


def _refuse_unless(replace: bool, target: Path) -> None:
    if not replace:
        raise DataError(f"{target} holds data already. Choose another name, or replace it with --replace.")


def _check_source(source: str, root: Path) -> None:
    """Raise DataError for a source that is nothing, or that the raw data itself lies in."""
    if not source.strip():
        raise DataError("The source is empty. Give a folder of pictures, an archive of one, or a URL.")
    place, raw = Path(source).expanduser(), (root / RAW).resolve()
    if "://" not in source and place.is_dir() and raw.is_relative_to(place.resolve()):
        raise DataError(
            f"{source} holds {raw}, where raw data is copied to: it would be copied into itself. Give the folder that the "
            "pictures lie in."
        )


def _check_pictures(folder: Path, note: SourceNote, listing: Listing, source: str) -> None:
    """Raise DataError unless one picture at least can be used and no folder is empty; say what looks like labels and is
    not used."""
    if not listing.entries:
        reasons = Counter(reject.reason for reject in listing.rejects).most_common(3)
        first = ", ".join(f"{count} {reason}" for reason, count in reasons)
        if note.format != "table":
            raise DataError(f"No picture of {source} can be used: {first}. Mend them, or give another source.")
        table = folder / note.labels if note.labels else readers.table.find_table(folder)
        raise DataError(
            f"No picture of {source} could be matched with a label ({first}): compare the names in {table} with those of "
            "the files, or name its column of file names with --image-column."
        )
    if note.format == "folder":
        _check_folders(folder, listing, source)
        if reason := readers.table.why_unused(folder):
            log.warning("%s: %s", source, reason)


def _check_folders(folder: Path, listing: Listing, source: str) -> None:
    """Raise DataError for an empty folder among those of classes; say which hold other things only.

    This is the last place where an empty folder can be seen: neither git nor DVC keeps it.
    """
    for name in readers.folder.bare_folders(folder, [entry.file for entry in listing.entries]):
        others = [*walk_files(folder / name)]
        if not others:
            raise DataError(
                f"{folder}/{name} is empty, and the folders beside it hold pictures. Put pictures into it, or remove it."
            )
        log.warning("%s: %s holds no picture, only %s; it is no class.", source, name, kinds(others))


def _summary(target: Path, note: SourceNote, kind: str, listing: Listing, *, tracked: bool) -> RawData:
    return RawData(
        path=target,
        format=note.format,
        pictures=len(listing.entries),
        classes=listing.classes,
        tracked=tracked,
        ignored=len(listing.ignored),
        attributes=listing.attributes,
        kind=kind,
        found=tuple(findings(kind, listing)),
    )


def unpack_limits(root: Path) -> UnpackLimits:
    """What an archive may unpack to, by section ``data`` of params.yaml in ``root`` where it says so.

    Raises:
        SettingsError: params.yaml cannot be read, or a limit is no number above 0.
    """
    path = root / "params.yaml"
    section = read_params(path).get("data") if path.is_file() else None
    known = {field.name for field in fields(UnpackLimits)}
    given = {key: value for key, value in section.items() if key in known} if isinstance(section, Mapping) else {}
    return build(UnpackLimits, given, where="data")


def _bring(source: str, folder: Path, label: str, limits: UnpackLimits, encoding: str | None) -> None:
    """Put the content of ``source`` into the new folder ``folder``."""
    if "://" not in source:
        _bring_local(Path(source).expanduser(), folder, label, limits, encoding)
        return
    # In the checkout rather than in /tmp: it has room for data, and unpacking stays on one disk.
    with tempfile.TemporaryDirectory(prefix="download-", dir=folder.parent) as scratch:
        local = _download(source, Path(scratch), label)
        try:
            _bring_local(local, folder, label, limits, encoding)
        except DataError as error:
            raise DataError(str(error).replace(str(local), source)) from error


def _bring_local(source: Path, folder: Path, label: str, limits: UnpackLimits, encoding: str | None) -> None:
    if source.is_dir():
        archives.copy_tree(source, folder, label)
        return
    if not source.is_file():
        raise DataError(
            f"There is nothing at {source} (looked for from {Path.cwd()}). Give a folder of pictures, an archive of one, or "
            "a URL such as https://HOST/PICTURES.zip."
        )
    like_archive = archives.like_archive(source)
    if archives.is_archive(source):
        archives.unpack(source, folder, label, limits=limits, encoding=encoding)
        return
    if like_archive:
        raise DataError(f"{source} is a broken archive; it may be cut off. Get it again.")
    folder.mkdir()
    siblings = [source]
    if "images" in source.name and "idx" in source.name:
        beside = source.with_name(re.sub(r"idx[34]", "idx1", source.name.replace("images", "labels")))
        siblings += [beside] if beside.is_file() else []
    elif source.suffix.lower() != ".parquet":
        raise DataError(
            f"{source} is no folder, zip, tar, IDX or Parquet file. Give a folder of pictures, or an archive of one."
        )
    for file in siblings:
        try:
            shutil.copyfile(file, folder / file.name)
        except OSError as error:
            if refused := with_place(error, folder):
                raise refused from error
            raise DataError(f"{file} cannot be copied: {error.strerror}. Mend that, and run this again.") from error


def _download(url: str, scratch: Path, label: str) -> Path:
    """Fetch a file or folder from an fsspec URL; raises DataError with the file system's own words."""
    import fsspec
    from fsspec.callbacks import TqdmCallback

    bar: Any = progress_bar
    try:
        filesystem, path = fsspec.core.url_to_fs(url)
        if filesystem.isdir(path):
            local = scratch / "folder"
            callback = TqdmCallback(tqdm_kwargs={"desc": label, "unit": "file"})
            filesystem.get(path.rstrip("/") + "/", f"{local}/", recursive=True, callback=callback)
            return local
        local = scratch / (Path(path.split("?")[0]).name or "file")
        size = filesystem.size(path)
        with filesystem.open(path, "rb") as stream, open(local, "wb") as file, bar(label, size) as shown:
            while block := stream.read(1 << 20):
                file.write(block)
                shown.update(len(block))
        return local
    except ImportError as error:
        raise DataError(
            f"{url} cannot be read yet: {error}. Install {_package(url)} into Gantry's environment, then run this again: "
            f"{sys.executable} -m pip install {_package(url)}"
        ) from error
    except (OSError, ValueError) as error:
        if refused := with_place(error, scratch):
            raise refused from error
        raise DataError(f"{url} cannot be read: {type(error).__name__}: {error}") from error


def _package(url: str) -> str:
    """The package that reads URLs of this kind."""
    from fsspec.registry import known_implementations

    package = known_implementations.get(url.split("://", 1)[0], {"class": "PACKAGE"})["class"].split(".")[0]
    # Those that fsspec brings itself need another package, which its own message names.
    return "PACKAGE" if package == "fsspec" else package


def _unpack_idx(folder: Path, limits: UnpackLimits) -> None:
    """Decompress gzipped IDX files, within limits: their rows are read by position."""
    for file in [name for name in walk_files(folder) if re.search(r"idx[134]([-._]ubyte)?\.gz$", name)]:
        packed = folder / file
        target = packed.with_suffix("")
        beside = sha256_file(target) if target.is_file() else None  # torchvision keeps both
        try:
            with gzip.open(packed, "rb") as stream, open(target, "wb") as plain:
                budget = Budget(packed, limits)
                while block := stream.read(1 << 20):
                    budget.add(len(block))
                    plain.write(block)
        except (OSError, EOFError, zlib.error) as error:
            if refused := with_place(error, folder):
                raise refused from error
            raise DataError(f"{packed} cannot be decompressed: {error}. Get it again.") from error
        if beside not in (None, sha256_file(target)):
            raise DataError(f"{packed} and {target.name} beside it hold different things. Take one of them away.")
        packed.unlink()


def _bring_labels(folder: Path, source: str, labels: str) -> str:
    """Where the label table lies in the copy ``folder``, brought there if it is not part of ``source``."""
    within, given = folder / labels, Path(labels).expanduser()
    if within.is_file() and within.resolve().is_relative_to(folder.resolve()):
        return within.relative_to(folder).as_posix()
    if not given.is_file():
        raise DataError(f"There is no label table {labels}, neither here nor within the source.")
    inside = _place_in(source, given) or given.name
    if not (folder / inside).exists():
        inside = given.name
        try:
            shutil.copyfile(given, folder / inside)
        except OSError as error:
            if refused := with_place(error, folder):
                raise refused from error
            raise DataError(f"{labels} cannot be copied: {error.strerror}. Mend that, and run this again.") from error
    elif not filecmp.cmp(given, folder / inside, shallow=False):
        raise DataError(f"The source already holds a file {inside} that is not {given}; rename the label table.")
    return inside


def _note(folder: Path, table: str | None, image_column: str | None, label_column: str | None) -> SourceNote:
    """How the copy ``folder`` is to be read; ``table`` is the label table in it that was named."""
    if table is not None:
        return SourceNote(format="table", labels=table, image_column=image_column, label_column=label_column)
    detected = readers.detect(folder)
    if detected == "folder" and (image_column or label_column) and not holds_idx(folder):
        by_split = SourceNote(format="table", image_column=image_column, label_column=label_column)
        found = readers.table.find_table(folder)
        if found is None and readers.table.matches(folder, by_split):
            return by_split
        if found is None:
            raise DataError("--image-column and --label-column need a label table: name it with --labels FILE.")
        inside = found.relative_to(folder).as_posix()
        return SourceNote(format="table", labels=inside, image_column=image_column, label_column=label_column)
    return SourceNote(format=detected, image_column=image_column, label_column=label_column)


def _place_in(source: str, file: Path) -> str | None:
    """Where ``file`` lies within the folder ``source``; None when it lies elsewhere."""
    folder, file = Path(source).expanduser().resolve(), file.resolve()
    return file.relative_to(folder).as_posix() if folder.is_dir() and file.is_relative_to(folder) else None
