"""Copy a user's pictures into a folder of raw data, from this machine or a URL. Of a bucket, only list the objects."""

import filecmp
import gzip
import re
import shutil
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Any

from gan_core.disk import disk_error_at
from gan_core.download.fetch import progress_bar
from gan_core.errors import DataError
from gan_core.files import sha256_file
from pipelines.data import archives
from pipelines.data.bucket import list_objects
from pipelines.data.readers.base import SourceNote, walk_files
from pipelines.data.readers.bucket import write_objects
from pipelines.data.unpack_limits import Budget
from pipelines.settings.data import UnpackLimits


def list_bucket(
    source: str, folder: Path, labels: str | None, image_column: str | None, label_column: str | None
) -> SourceNote:
    """Write the list of the objects of a bucket into the new folder ``folder``.

    Raises:
        DataError: there is a label table or a column, which are not read for a bucket, or the bucket cannot be listed.
    """
    if labels or image_column or label_column:
        raise DataError(
            f"{source}: label tables are not read from or for a bucket. Arrange the objects by class (CLASS/NAME.png), or copy "
            "the pictures with --copy."
        )
    uri = source.rstrip("/")
    folder.mkdir()
    write_objects(folder, list_objects(uri))
    return SourceNote(format="bucket", bucket=uri)


def copy_source(source: str, folder: Path, label: str, limits: UnpackLimits, encoding: str | None) -> None:
    """Copy the content of ``source`` into the new folder ``folder``, and unpack or download it as needed.

    Args:
        source: a folder, archive, IDX file or Parquet file: a local path or an fsspec URL.
        folder: the folder to make.
        label: of the progress bar.
        limits: limits on what an archive may unpack to.
        encoding: encoding of the file names in an archive that does not state it; None: detect it from the names.

    Raises:
        DataError: the source does not exist, cannot be read, is none of these, or is not safe to unpack.
    """
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


def unpack_idx(folder: Path, limits: UnpackLimits) -> None:
    """Decompress gzipped IDX files within the limits: rows are read by their position, which gzip does not allow.

    Raises:
        DataError: a file is damaged, exceeds the limits, or lies beside a decompressed one of other content.
    """
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


def copy_labels(folder: Path, source: str, labels: str) -> str:
    """Return the path of the label table within ``folder``; copy the table there if ``source`` does not contain it.

    Raises:
        DataError: there is no such table, or two different ones.
    """
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
        _copy_file(given, folder / inside)
    elif not filecmp.cmp(given, folder / inside, shallow=False):
        raise DataError(f"The source already holds a file {inside} that differs from {given}. Rename the label table.")
    return inside


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
        _copy_file(file, folder / file.name)


def _copy_file(file: Path, to: Path) -> None:
    """Copy a file of the user; an error names the file, or the disk if it is full."""
    try:
        shutil.copyfile(file, to)
    except OSError as error:
        if refused := disk_error_at(error, to.parent):
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


def _path_within(source: str, file: Path) -> str | None:
    """The path of ``file`` within the folder ``source``; None if it is elsewhere."""
    folder, file = Path(source).expanduser().resolve(), file.resolve()
    return file.relative_to(folder).as_posix() if folder.is_dir() and file.is_relative_to(folder) else None
