"""Add raw data: public datasets by name and a user's own pictures, each in a folder under ``data/raw`` tracked by DVC."""

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
from gan_core.disk import disk_error_at
from gan_core.download.fetch import FileRequest, fetch_many, progress_bar
from gan_core.errors import DataError
from gan_core.files import atomic_write, sha256_file
from pipelines.data import archives, readers
from pipelines.data.arrange import arrange
from pipelines.data.bucket import is_bucket, list_objects
from pipelines.data.description import describe
from pipelines.data.names import check_dataset_name
from pipelines.data.public import PublicDataset
from pipelines.data.readers.base import Listing, SourceNote, summarize_suffixes, walk_files
from pipelines.data.readers.bucket import write_objects
from pipelines.data.readers.idx import matches as holds_idx
from pipelines.data.sources import public_dataset
from pipelines.data.translation_sources import write_tar
from pipelines.data.unpack_limits import Budget
from pipelines.runtime.checkout import Checkout
from pipelines.runtime.dvc_error import dvc_error
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
        DataError: the dataset is unknown, or the folder holds other data and ``replace`` is false.
        FetchError: a file cannot be downloaded from any of its addresses.
        StageError: a project file that DVC reads is damaged. Nothing is downloaded then.
    """
    dataset = public_dataset(name)
    check_project_files(checkout)
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
            picture; the name is taken; or DVC refuses the folder, which is then removed if it is new.
        StageError: a project file that DVC reads is damaged. Nothing is copied then.
    """
    check_dataset_name(name)
    check_project_files(checkout)
    _check_source(source, checkout)
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
                note = _list_bucket(source, folder, labels, image_column, label_column)
            else:
                _copy_source(source, folder, name, limits, encoding)
                _unpack_idx(folder, limits)
                inside = None
                if labels is not None:
                    inside = _copy_labels(folder, source, labels)
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


def track(path: Path, checkout: Checkout) -> bool:
    """Run ``dvc add`` on the folder. Log a warning and return False if ``checkout`` is not in a DVC repository.

    Raises:
        DataError: ``dvc add`` fails.
    """
    root = checkout.root
    if not any((parent / ".dvc").is_dir() for parent in (root, *root.parents)):
        log.warning("%s is not versioned: %s is not in a DVC repository. Create one with: dvc init", path, root)
        return False
    command = [sys.executable, "-m", "dvc", "add", os.path.relpath(path, root)]
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


def _list_bucket(
    source: str, folder: Path, labels: str | None, image_column: str | None, label_column: str | None
) -> SourceNote:
    """Write the list of the objects of a bucket into the new folder ``folder``."""
    if labels or image_column or label_column:
        raise DataError(
            f"{source}: label tables are not read from or for a bucket. Arrange the objects by class (CLASS/NAME.png), or copy "
            "the pictures with --copy."
        )
    uri = source.rstrip("/")
    folder.mkdir()
    write_objects(folder, list_objects(uri))
    return SourceNote(format="bucket", bucket=uri)


def _copy_source(source: str, folder: Path, label: str, limits: UnpackLimits, encoding: str | None) -> None:
    """Copy the content of ``source`` into the new folder ``folder``, and unpack or download it as needed."""
    if "://" not in source:
        _copy_local(Path(source).expanduser(), folder, label, limits, encoding)
        return
    # Use the checkout, not /tmp: it has room for data, and unpacking stays on one disk.
    with tempfile.TemporaryDirectory(prefix="download-", dir=folder.parent) as scratch:
        local = _download(source, Path(scratch), label)
        try:
            _copy_local(local, folder, label, limits, encoding)
        except DataError as error:
            raise DataError(str(error).replace(str(local), source)) from error


def _copy_local(source: Path, folder: Path, label: str, limits: UnpackLimits, encoding: str | None) -> None:
    if source.is_dir():
        archives.copy_tree(source, folder, label)
        return
    if not source.is_file():
        raise DataError(
            f"{source} does not exist (relative paths start at {Path.cwd()}). Give a folder of pictures, an archive, or a URL "
            "such as https://HOST/PICTURES.zip."
        )
    looks_like_archive = archives.looks_like_archive(source)
    if archives.is_archive(source):
        archives.unpack(source, folder, label, limits=limits, encoding=encoding)
        return
    if looks_like_archive:
        raise DataError(f"{source} is a broken archive, perhaps truncated. Download it again.")
    folder.mkdir()
    siblings = [source]
    if "images" in source.name and "idx" in source.name:
        beside = source.with_name(re.sub(r"idx[34]", "idx1", source.name.replace("images", "labels")))
        siblings += [beside] if beside.is_file() else []
    elif source.suffix.lower() != ".parquet":
        raise DataError(
            f"{source} is not a folder, zip, tar, IDX or Parquet file. Give a folder of pictures, or an archive of one."
        )
    for file in siblings:
        try:
            shutil.copyfile(file, folder / file.name)
        except OSError as error:
            if refused := disk_error_at(error, folder):
                raise refused from error
            raise DataError(
                f"{file} cannot be copied: {error.strerror}. Resolve this and run the command again."
            ) from error


def _download(url: str, scratch: Path, label: str) -> Path:
    """Download a file or folder from an fsspec URL; raises DataError with the message of the file system."""
    import fsspec
    from fsspec.callbacks import TqdmCallback

    bar: Any = progress_bar
    try:
        filesystem, path = fsspec.core.url_to_fs(url)
        if filesystem.isdir(path):
            if url.lower().startswith(("http://", "https://")):
                raise DataError(
                    f"{url} is a web page, not a file. Give the address that the file itself is downloaded from, or download "
                    "the file with a browser and give its path."
                )
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
            f"{url} needs the package {_package(url)}: {error}. Install it into Gantry's environment with "
            f"{sys.executable} -m pip install {_package(url)}, and run the command again."
        ) from error
    except DataError:
        raise
    except Exception as error:  # aiohttp's and botocore's are no OSErrors
        if refused := disk_error_at(error, scratch):
            raise refused from error
        why = " ".join(str(error).split()).rstrip(".")
        raise DataError(
            f"{url} cannot be read: {type(error).__name__}: {why}. Check the address and the credentials, and run the command "
            "again."
        ) from error


def _package(url: str) -> str:
    """The Python package that fsspec needs for this URL."""
    from fsspec.registry import known_implementations

    package = known_implementations.get(url.split("://", 1)[0], {"class": "PACKAGE"})["class"].split(".")[0]
    # Classes of fsspec itself need another package; fsspec's own message names it.
    return "PACKAGE" if package == "fsspec" else package


def _unpack_idx(folder: Path, limits: UnpackLimits) -> None:
    """Decompress gzipped IDX files within the limits: rows are read by their position, which gzip does not allow."""
    for file in [name for name in walk_files(folder) if re.search(r"idx[134]([-._]ubyte)?\.gz$", name)]:
        packed = folder / file
        target = packed.with_suffix("")
        beside = sha256_file(target) if target.is_file() else None  # torchvision keeps both files
        try:
            with gzip.open(packed, "rb") as stream, open(target, "wb") as plain:
                budget = Budget(packed, limits)
                while block := stream.read(1 << 20):
                    budget.add(len(block))
                    plain.write(block)
        except (OSError, EOFError, zlib.error) as error:
            if refused := disk_error_at(error, folder):
                raise refused from error
            raise DataError(f"{packed} cannot be decompressed: {error}. Download it again.") from error
        if beside not in (None, sha256_file(target)):
            raise DataError(f"{packed} and {target.name} in the same folder differ in content. Remove one of them.")
        packed.unlink()


def _copy_labels(folder: Path, source: str, labels: str) -> str:
    """Return the path of the label table within ``folder``; copy the table there if ``source`` does not contain it."""
    within, given = folder / labels, Path(labels).expanduser()
    if within.is_file() and within.resolve().is_relative_to(folder.resolve()):
        if given.is_file() and not filecmp.cmp(given, within, shallow=False):
            raise DataError(
                f"--labels {labels} may be a file in {Path.cwd()} or the one in the source, and they differ. Rename the first, "
                "or run the command in another folder."
            )
        return within.relative_to(folder).as_posix()
    if not given.is_file():
        raise DataError(f"Label table {labels} not found, neither in {Path.cwd()} nor in the source. Correct --labels.")
    inside = _path_within(source, given) or given.name
    if not (folder / inside).exists():
        inside = given.name
        try:
            shutil.copyfile(given, folder / inside)
        except OSError as error:
            if refused := disk_error_at(error, folder):
                raise refused from error
            raise DataError(
                f"{labels} cannot be copied: {error.strerror}. Resolve this and run the command again."
            ) from error
    elif not filecmp.cmp(given, folder / inside, shallow=False):
        raise DataError(f"The source already holds a file {inside} that differs from {given}. Rename the label table.")
    return inside


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


def _path_within(source: str, file: Path) -> str | None:
    """The path of ``file`` within the folder ``source``; None if it is elsewhere."""
    folder, file = Path(source).expanduser().resolve(), file.resolve()
    return file.relative_to(folder).as_posix() if folder.is_dir() and file.is_relative_to(folder) else None
