"""Raw files on the driver's disk for tasks on other hosts: the files that a chunk needs travel through the storage.

The picture files of a chunk travel as one tar, which is unpacked for the time of the conversion. A file with many pictures
(IDX, CIFAR or Parquet) travels once, by its digest, and into the cache of each host that needs it.
"""

import io
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from gan_core.cache import user_cache_dir
from gan_core.files import sha256_file
from gan_core.images.pictures import PictureError
from pipelines.data.exchange import SCRATCH, Exchange
from pipelines.data.names import check_told_apart
from pipelines.data.pairs import of_condition
from pipelines.data.readers.base import Entry, FileReader
from pipelines.runtime.owned import scratch_folder
from pipelines.storage.node_cache import NodeCache
from pipelines.storage.objects import Storage, StorageError

_CONTENT = "content"


@dataclass(frozen=True, kw_only=True)
class SharedFile:
    """A raw file with many pictures, in the storage."""

    file: str
    """Path within the raw data."""
    sha256: str
    size: int
    """Bytes."""


@dataclass(frozen=True, kw_only=True)
class SentFiles:
    """The raw files of one chunk, in the storage."""

    tar: str | None
    """Name of the tar with the picture files; None if there are none."""
    shared: tuple[SharedFile, ...]
    refused: Mapping[int, PictureError]
    """Pictures whose files the driver cannot read, by position in the chunk."""


class RawFiles:
    """Sends the files of ``raw`` through ``exchange``, which removes them in the end."""

    def __init__(self, raw: Path, exchange: Exchange) -> None:
        self._raw, self._exchange, self._storage = raw, exchange, Storage(exchange.uri)
        self._reader = FileReader(raw)
        self._shared: dict[str, SharedFile] = {}

    def send(self, entries: Sequence[Entry], name: str) -> SentFiles:
        """Send what the pictures ``entries`` need; ``name`` is for their tar, and differs for each chunk.

        One file at a time is in memory, and one tar on the disk.

        Raises:
            StorageError: the storage cannot be used.
        """
        if any(entry.row >= 0 for entry in entries):
            files = dict.fromkeys(entry.file for entry in entries)
            return SentFiles(tar=None, shared=tuple(map(self._share, files)), refused={})
        refused: dict[int, PictureError] = {}
        with scratch_folder(SCRATCH) as folder:
            path = folder / name
            with tarfile.open(path, "w") as tar:
                for position, entry in enumerate(entries):
                    for file in filter(None, (entry.file, entry.condition)):
                        try:
                            content = self._reader.read_file(Entry(file))
                        except PictureError as error:
                            refused.setdefault(position, error if file == entry.file else of_condition(error))
                            continue
                        info = tarfile.TarInfo(file)
                        info.size = len(content)
                        tar.addfile(info, io.BytesIO(content))
            self._exchange.send_part(path, name)
        return SentFiles(tar=name, shared=(), refused=refused)

    def _share(self, file: str) -> SharedFile:
        if file not in self._shared:
            path = self._raw / file
            shared = SharedFile(file=file, sha256=sha256_file(path), size=path.stat().st_size)
            self._exchange.send_part(path, shared.sha256)
            self._shared[file] = shared
        return self._shared[file]


@contextmanager
def fetched_files(sent: SentFiles, exchange: Exchange, folder: Path) -> Iterator[Path]:
    """Yield a folder below ``folder`` with the files of a chunk, at their paths within the raw data.

    Raises:
        DataError: two files have names that are one on the disk of this host.
        StorageError: the storage cannot be used, a file arrives damaged, or it is larger than the cache of this host.
    """
    storage, files = Storage(exchange.uri), folder / "raw"
    files.mkdir()
    if sent.tar is not None:
        packed = folder / "raw.tar"
        storage.download(exchange.name(sent.tar), packed)
        with tarfile.open(packed) as tar:
            check_told_apart(tar.getnames(), files, exchange.uri)
            tar.extractall(files, filter="data")
        packed.unlink()
    cache = NodeCache(user_cache_dir() / "raw", exchange.cache_bytes)
    with ExitStack() as stack:
        for shared in sent.shared:
            fetch = partial(_fetch_shared, shared, exchange)
            held = stack.enter_context(cache.hold(shared.sha256, fetch, shared.size))
            place = files / shared.file
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(held / _CONTENT)
        yield files


def _fetch_shared(shared: SharedFile, exchange: Exchange, folder: Path) -> None:
    folder.mkdir()
    Storage(exchange.uri).download(exchange.name(shared.sha256), folder / _CONTENT)
    if sha256_file(folder / _CONTENT) != shared.sha256:
        raise StorageError(
            f"{exchange.uri}/{exchange.name(shared.sha256)} ({shared.file}) is damaged. Run the stage again."
        )
