"""Pictures that stay in a bucket: list them when they are added, and fetch those of a chunk when it is converted.

Credentials and endpoint come from the environment of each host, see :mod:`pipelines.storage.objects`.
"""

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import pyarrow as pa

from gan_core.errors import DataError
from gan_core.images.files import MAX_FILE_BYTES
from pipelines.data.names import check_told_apart
from pipelines.data.readers.bucket import Objects
from pipelines.settings.storage import SCHEMES
from pipelines.storage.objects import ChangedObjectError, MissingObjectError, Storage

_THREADS = 8
_PATIENCE_SECONDS = 60.0
_FILES = re.compile(r"\.(zip|tar|tgz|tbz2|txz|gz|bz2|xz|7z|rar|parquet)$|idx\d[-._]ubyte$", re.IGNORECASE)
_LONGEST_PART = 255


def is_bucket(source: str) -> bool:
    """Whether ``source`` names a bucket, or a prefix of names in one: not an archive or another single file of pictures."""
    parts = urlsplit(source)
    return parts.scheme in SCHEMES and parts.scheme != "file" and not _FILES.search(parts.path)


def list_objects(uri: str) -> pa.Table:
    """List the objects below ``uri`` with the columns name, size and version, in no order.

    Raises:
        DataError: there are none, or a name is not usable as that of a file.
        StorageError: the bucket cannot be listed.
    """
    batches, names, sizes, versions = [], [], [], []
    for entry in Storage(uri, patience=_PATIENCE_SECONDS, what="the source").entries():
        if entry.name.endswith("/"):  # a folder that a console has made
            continue
        parts = PurePosixPath(entry.name).parts
        if ".." in parts or any(len(part.encode()) > _LONGEST_PART for part in parts):
            raise DataError(
                f"{uri}: the name {entry.name} cannot be the name of a file. Rename the object, or copy the data."
            )
        names.append(entry.name)
        sizes.append(entry.size)
        versions.append(entry.version)
        if len(names) == 65536:
            batches.append(_batch(names, sizes, versions))
            names, sizes, versions = [], [], []
    batches.append(_batch(names, sizes, versions))
    table = pa.concat_tables(batches)
    if not len(table):
        raise DataError(f"{uri} holds no objects. Correct the name of the bucket or of the prefix.")
    return table


def _batch(names: list[str], sizes: list[int], versions: list[str]) -> pa.Table:
    columns = [pa.array(names, pa.large_string()), pa.array(sizes, pa.int64()), pa.array(versions, pa.large_string())]
    return pa.table(columns, names=["name", "size", "version"])


def fetch_objects(objects: Objects, folder: Path) -> None:
    """Write objects to ``folder`` under their names. One that is too large for a picture becomes an empty file of its size.

    Raises:
        DataError: an object has changed or vanished since it was added, or two have names that are one on this disk.
        StorageError: the bucket cannot be read.
    """
    storage = Storage(objects.uri, what="the source")
    folder.mkdir(parents=True, exist_ok=True)
    check_told_apart(objects.names, folder, objects.uri)

    def fetch(name: str, size: int, version: str) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if size > MAX_FILE_BYTES:
            with path.open("wb") as file:
                file.truncate(size)  # takes no room, and is rejected for its size
            return
        try:
            storage.download(name, path, version=version)
        except (MissingObjectError, ChangedObjectError) as error:
            what = "is no longer there" if isinstance(error, MissingObjectError) else "has changed"
            raise DataError(
                f"{objects.uri}/{name} {what} since it was added. Restore it, or list the bucket again with: gantry data add "
                f"--replace NAME {objects.uri}"
            ) from error

    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(fetch, objects.names, objects.sizes, objects.versions))
