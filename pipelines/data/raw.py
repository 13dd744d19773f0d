"""Add raw data: public datasets by name and a user's own pictures, each in a folder under ``data/raw`` tracked by DVC."""

import logging
import os
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

from gan_core.config import build
from gan_core.download.fetch import FileRequest, fetch_many
from gan_core.errors import DataError
from gan_core.files import atomic_write, sha256_file
from pipelines.data import archives, readers
from pipelines.data.arrange import arrange
from pipelines.data.bucket import is_bucket
from pipelines.data.description import describe
from pipelines.data.names import check_dataset_name
from pipelines.data.public import PublicDataset
from pipelines.data.readers.base import Listing, SourceNote, summarize_suffixes, walk_files
from pipelines.data.readers.idx import matches as holds_idx
from pipelines.data.sources import public_dataset
from pipelines.data.translation_sources import write_tar
from pipelines.data.user_source import copy_labels, copy_source, list_bucket, unpack_idx
from pipelines.runtime.checkout import Checkout
from pipelines.runtime.dvc_command import announce_wait, dvc_command
from pipelines.runtime.dvc_error import dvc_error
from pipelines.runtime.process_lock import process_lock
from pipelines.runtime.project_files import check_project_files
from pipelines.settings.data import UnpackLimits
from pipelines.settings.params import read_params

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RawData:
    """A folder of raw data under ``data/raw``."""

    path: Path
    format: str
    pictures: int
    """Number of usable pictures."""
    classes: tuple[str, ...]
    tracked: bool
    """Whether DVC tracks the folder."""
    ignored: int = 0
    """Number of files that are not pictures; they are not used."""
    attributes: tuple[str, ...] = ()
    """Names of the attributes, if a table of attributes was given."""
    kind: str = "unlabelled"
    """Kind that ``ingest.kind: auto`` detects: unlabelled, labelled, unpaired or domains."""
    found: tuple[str, ...] = ()
    """Lines of text: the splits, the classes with their counts, and the files that are not used."""


def fetch_public(name: str, *, checkout: Checkout, replace: bool = False) -> RawData:
    """Download the public dataset ``name`` into the raw data of ``checkout`` and track it with DVC.

    The folder has the name of the dataset, with a dash in place of a colon; NAME:greyscale uses the folder of NAME. A
    complete, unchanged folder is kept. Its bytes do not depend on the address that the files come from.

    Raises:
        DataError: the dataset is unknown, the folder holds other data and ``replace`` is false, or another process writes it.
        FetchError: a file cannot be downloaded from any of its addresses.
        StageError: a project file that DVC reads is damaged. Nothing is downloaded then.
    """
    dataset = public_dataset(name)
    check_project_files(checkout)
    with _only_writer(dataset.folder_name, checkout):
        target = checkout.raw_data(dataset.folder_name)
        if target.exists() and not _is_intact(target, dataset):
            _refuse_unless(replace, target)
        if not target.exists() or not _is_intact(target, dataset):
            with atomic_write(target) as folder:
                folder.mkdir()
                wanted = [
                    FileRequest(target=folder / file.name, sha256=file.sha256, addresses=file.addresses)
                    for file in dataset.files
                ]
                fetch_many(wanted, label=name)
                if dataset.packed:
                    _unpack_all(folder, dataset)
                readers.write_note(folder, _public_note(dataset))
        note = readers.read_note(target)
        return _summary(target, note, *arrange(target, note), tracked=track(target, checkout))


def add(
    name: str,
    source: str,
    *,
    checkout: Checkout,
    labels: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    encoding: str | None = None,
    replace: bool = False,
    copy: bool = False,
) -> RawData:
    """Copy a user's pictures to ``data/raw/NAME`` in ``checkout`` and track them with DVC. The source is not modified.

    Pictures in a bucket are not copied unless ``copy`` says so: DVC tracks a list of the objects with the version of each, and
    ingestion reads them where they are.

    Args:
        name: letters, digits, dots, dashes and underscores; not the name of a DVC file.
        source: a folder, zip, tar, IDX file or Parquet file; a local path or an fsspec URL (``s3://...``, ``https://...``).
        checkout: where to copy them.
        labels: a label table (CSV, TSV or Parquet); a local path or a path within the source.
        image_column: column of file names in the label table, or of pictures in Parquet files; None: detect it by name.
        label_column: column of labels; None: detect it by name.
        encoding: encoding of the file names in an archive that does not state it; None: detect it from the names.
        replace: replace existing data of this name.
        copy: copy pictures from a bucket.

    Raises:
        DataError: the source does not exist, cannot be read or is not safe to unpack; it, or one of its folders, holds no
            picture; the name is taken, also by another process that is adding data; or DVC refuses the folder, which is then
            removed if it is new.
        StageError: a project file that DVC reads is damaged. Nothing is copied then.
    """
    check_dataset_name(name)
    check_project_files(checkout)
    _check_source(source, checkout)
    with _only_writer(name, checkout):
        limits = unpack_limits(checkout)
        target = checkout.raw_data(name)
        new = not target.exists()
        if not new:
            _refuse_unless(replace, target)
        with atomic_write(target) as folder:
            place = source.rstrip("/") or source
            # Errors name the user's files: the copy that they were found in is removed.
            origins = {str(folder): place}
            if not Path(source).expanduser().is_dir():
                origins[f"{folder}/{Path(place).name}"] = place  # the copy of a single file keeps its name
            try:
                if is_bucket(source) and not copy:
                    note = list_bucket(source, folder, labels, image_column, label_column)
                else:
                    copy_source(source, folder, name, limits, encoding)
                    unpack_idx(folder, limits)
                    inside = None
                    if labels is not None:
                        inside = copy_labels(folder, source, labels)
                        if inside != labels:
                            origins[f"{folder}/{inside}"] = labels
                    note = _note(folder, inside, image_column, label_column)
                readers.write_note(folder, note)
                kind, listing = arrange(folder, note)
                _check_pictures(folder, note, listing, source)
            except DataError as error:
                message = str(error)
                for place in sorted(origins, key=len, reverse=True):
                    message = message.replace(place, origins[place])
                raise DataError(message) from error
        try:
            tracked = track(target, checkout)
        except DataError:
            if new:  # otherwise the next attempt fails because the name is taken
                shutil.rmtree(target)
            raise
        return _summary(target, note, kind, listing, tracked=tracked)


@contextmanager
def _only_writer(name: str, checkout: Checkout) -> Iterator[None]:
    """Hold the lock on the raw dataset ``name`` for the length of the block.

    Of two commands that copy data of one name at once, the second would replace that of the first, or remove it if DVC fails.

    Raises:
        DataError: another process holds it.
    """
    with process_lock(checkout.raw_lock(name)) as holder:
        if holder:
            raise DataError(
                f"Another command is adding the data {checkout.raw_data(name)} ({holder}). Wait for it to end, or choose "
                "another name."
            )
        yield


def track(path: Path, checkout: Checkout) -> bool:
    """Run ``dvc add`` on the folder. Log a warning and return False if ``checkout`` is not in a DVC repository.

    Raises:
        DataError: ``dvc add`` fails.
    """
    root = checkout.root
    if not any((parent / ".dvc").is_dir() for parent in (root, *root.parents)):
        log.warning("%s is not versioned: %s is not in a DVC repository. Create one with: dvc init", path, root)
        return False
    announce_wait(root, log)
    command = dvc_command("add", os.path.relpath(path, root))
    environment = {**os.environ, "DVC_NO_ANALYTICS": "1"}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise DataError(f"dvc add {path} failed: {dvc_error(done.stderr or done.stdout)}")
    return True


def _unpack_all(folder: Path, dataset: PublicDataset) -> None:
    """Replace the tars in ``folder`` with their content."""
    for file in dataset.files:
        archives.unpack(folder / file.name, folder, dataset.name)
        (folder / file.name).unlink()


def _is_intact(folder: Path, dataset: PublicDataset) -> bool:
    if dataset.packed:
        with tempfile.TemporaryDirectory() as scratch:
            again = Path(scratch) / "again.tar"
            write_tar(((file, (folder / file).read_bytes()) for file in walk_files(folder)), again)
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
        raise DataError(f"{target} already holds data. Choose another name, or replace it with --replace.")


def _check_source(source: str, checkout: Checkout) -> None:
    """Raise DataError if the source is empty text, or a folder that contains the raw data."""
    if not source.strip():
        raise DataError("The source is empty. Give a folder of pictures, an archive of one, or a URL.")
    place, raw = Path(source).expanduser(), checkout.raw.resolve()
    if "://" not in source and place.is_dir() and raw.is_relative_to(place.resolve()):
        raise DataError(
            f"{source} contains {raw}, the target of the copy, and cannot be copied into itself. Give the folder of pictures."
        )


def _check_pictures(folder: Path, note: SourceNote, listing: Listing, source: str) -> None:
    """Raise DataError if no picture is usable or a folder is empty. Warn of a label table that is not used."""
    if not listing.entries:
        reasons = Counter(reject.reason for reject in listing.rejects).most_common(3)
        first = ", ".join(f"{count} {reason}" for reason, count in reasons)
        if note.format != "table":
            raise DataError(f"{source}: no picture is usable ({first}). Repair the files, or give another source.")
        table = folder / note.labels if note.labels else readers.table.find_table(folder)
        raise DataError(
            f"{source}: no picture matches a label ({first}). Compare the file names in {table} with the files, or name its "
            "column of file names with --image-column."
        )
    if note.format == "folder":
        _check_folders(folder, listing, source)
        if reason := readers.table.why_unused(folder):
            log.warning("%s: %s", source, reason)


def _check_folders(folder: Path, listing: Listing, source: str) -> None:
    """Raise DataError if one of the class folders is empty. Warn of folders that hold no pictures but other files.

    Later steps cannot see empty folders: neither git nor DVC keeps them.
    """
    for name in readers.folder.folders_without_pictures(folder, listing.entries.files):
        others = [*walk_files(folder / name)]
        if not others:
            raise DataError(
                f"{folder}/{name} is empty, but the other folders hold pictures. Add pictures to it, or remove it."
            )
        log.warning("%s: %s holds no pictures, only %s; it is not a class.", source, name, summarize_suffixes(others))


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
        found=tuple(describe(kind, listing)),
    )


def unpack_limits(checkout: Checkout) -> UnpackLimits:
    """Read the limits on unpacking from section ``data`` of the params.yaml of ``checkout``; the defaults if it has none.

    Raises:
        SettingsError: params.yaml cannot be read, or a limit is not a number above 0.
    """
    path = checkout.params
    section = read_params(path).get("data") if path.is_file() else None
    known = {field.name for field in fields(UnpackLimits)}
    given = {key: value for key, value in section.items() if key in known} if isinstance(section, Mapping) else {}
    return build(UnpackLimits, given, where="data")


def _note(folder: Path, table: str | None, image_column: str | None, label_column: str | None) -> SourceNote:
    """The source note of ``folder``. ``table``: path of the label table within it, from --labels."""
    if table is not None:
        return SourceNote(format="table", labels=table, image_column=image_column, label_column=label_column)
    detected = readers.detect(folder)
    if detected == "folder" and (image_column or label_column) and not holds_idx(folder):
        by_split = SourceNote(format="table", image_column=image_column, label_column=label_column)
        found = readers.table.find_table(folder)
        if found is None and readers.table.matches(folder, by_split):
            return by_split
        if found is None:
            raise DataError("--image-column and --label-column need a label table. Name it with --labels FILE.")
        inside = found.relative_to(folder).as_posix()
        return SourceNote(format="table", labels=inside, image_column=image_column, label_column=label_column)
    return SourceNote(format=detected, image_column=image_column, label_column=label_column)
