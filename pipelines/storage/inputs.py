"""What processes on any host need to train or measure, through the storage: prepared data and weights, each by its content.

Each host fetches the data once into its cache, and needs no internet for the weights of the Inception network.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from gan_core.cache import user_cache_dir
from gan_core.data import DATASET_FILE, PreparedDataset
from gan_core.download.weights import INCEPTION_FILE, INCEPTION_SHA256, inception_file, weights_dir
from gan_core.files import atomic_write, sha256_file
from gan_core.locks import file_lock
from pipelines.storage.folders import data_name, fetch_folder, publish_folder, read_note
from pipelines.storage.node_cache import NodeCache, PieceCache, folder_size
from pipelines.storage.objects import MissingObjectError, Storage, StorageError
from pipelines.storage.shards import StorageShards
from pipelines.storage.uses import note_use

WEIGHTS = f"weights/{INCEPTION_SHA256}"
"""Name of the weights of the Inception network in the storage."""
_WEIGHTS_FILE = f"{WEIGHTS}/{INCEPTION_FILE}"


@dataclass(frozen=True)
class HostData:
    """Prepared data on a host."""

    folder: Path
    shards: StorageShards | None
    """Where the shards are if they are not in :attr:`folder`, which then has only their description."""

    def open(self, cache_dir: Path | None = None) -> PreparedDataset:
        """The data; decoded pictures are cached in ``cache_dir``, by default in the user's cache."""
        return PreparedDataset(self.folder, cache_dir=cache_dir, shards=self.shards)


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Prepared data, and whether weights are needed; made by :func:`publish_inputs`."""

    uri: str
    """Of the storage."""
    digest: str
    """SHA-256 of the description of the prepared data."""
    size: int
    """Bytes of the prepared data."""
    cache_bytes: int
    """Largest size of the cache of each host."""
    weights: bool
    """Whether the weights of the Inception network are needed."""

    @property
    def streams(self) -> bool:
        """Whether the prepared data is larger than the cache of a host, so that it is fetched in parts."""
        return self.size > self.cache_bytes

    @contextmanager
    def on_host(self) -> Iterator[HostData]:
        """Yield the prepared data on this host; the weights are in their place, if needed.

        Raises:
            StorageError: the storage cannot be reached from this host, or holds something else.
        """
        storage, name = Storage(self.uri), data_name(self.digest)
        if self.weights:
            fetch_weights(storage)
        if self.streams:
            shards = StorageShards(storage, name, PieceCache(user_cache_dir() / "row-groups", self.cache_bytes))
            described = user_cache_dir() / "described" / self.digest
            shards.fetch(DATASET_FILE, described / DATASET_FILE)
            yield HostData(described, shards)
            return
        cache = NodeCache(user_cache_dir() / "prepared", self.cache_bytes)
        with cache.hold(self.digest, lambda folder: fetch_folder(storage, name, folder), self.size) as folder:
            yield HostData(folder, None)


def publish_inputs(
    storage: Storage, data: Path, *, user: str, cache_gib: float, weights: bool, sending: Callable[[str], None]
) -> Inputs:
    """Put the prepared data in ``data``, and the weights if needed, into the storage unless they are there.

    Args:
        storage: where to.
        data: prepared data on this host.
        user: name of a lease that the caller holds: :func:`pipelines.storage.prune.prune` keeps the inputs as long.
        cache_gib: largest size of the cache of each host, GiB.
        weights: whether the hosts need the weights of the Inception network.
        sending: called with a message before something is sent.

    Raises:
        FetchError: the weights are neither on this host nor in the storage, and cannot be fetched.
    """
    # The description holds the digest of the content, and what else a worker reads of it.
    digest = sha256_file(data / DATASET_FILE)
    note_use(storage, data_name(digest), user)
    try:
        read_note(storage, data_name(digest))
    except MissingObjectError:
        sending(f"sending the prepared data to {storage.uri}")
        publish_folder(storage, data_name(digest), data)
    if weights:
        note_use(storage, WEIGHTS, user)
        publish_weights(storage, sending)
    return Inputs(
        uri=storage.uri,
        digest=digest,
        size=folder_size(data),
        cache_bytes=int(cache_gib * (1 << 30)),
        weights=weights,
    )


def publish_weights(storage: Storage, sending: Callable[[str], None] = lambda message: None) -> None:
    """Put the weights of the Inception network into the storage unless they are there.

    Raises:
        FetchError: they are not on this host either, and cannot be fetched.
    """
    if not any(True for _ in storage.entries(WEIGHTS)):
        path = inception_file()
        sending(f"sending the weights of the Inception network to {storage.uri}")
        storage.write(_WEIGHTS_FILE, path)


def fetch_weights(storage: Storage) -> None:
    """Fetch the weights of the Inception network from the storage, if they are there and not on this host.

    Raises:
        StorageError: what the storage holds has another digest.
    """
    path = weights_dir() / INCEPTION_FILE
    if path.is_file():
        return  # its digest is checked where it is read
    path.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(path.with_name(f"{path.name}.lock")), suppress(MissingObjectError):
        if path.is_file():  # another process of this host has fetched it meanwhile
            return
        with atomic_write(path) as temporary:
            storage.download(_WEIGHTS_FILE, temporary)
            if sha256_file(temporary) != INCEPTION_SHA256:
                raise StorageError(
                    f"{storage.uri}/{_WEIGHTS_FILE} is damaged: its content has another digest. Remove it."
                )
