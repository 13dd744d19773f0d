"""Objects below one URI: a folder that hosts share, or a bucket of S3, Google Cloud Storage or Azure.

Credentials, region and endpoint come from each system's own environment variables and files (``AWS_ACCESS_KEY_ID``,
``AWS_ENDPOINT_URL``, ``GOOGLE_APPLICATION_CREDENTIALS``, ...), never from the URI. Objects are written whole or not at all, and
:meth:`Storage.create` lets exactly one of several writers succeed. Nothing else is asked of the storage: no locks, no rename.
"""

import errno
import os
import re
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import LocalStore, from_url

from gan_core.disk import describe_os_error, find_disk_error
from gan_core.errors import GantryError
from gan_core.files import atomic_write
from pipelines.settings.storage import check_storage_uri

if TYPE_CHECKING:
    import pyarrow.fs

PATIENCE_SECONDS = 180.0
"""How long a request is repeated by default while the storage does not answer or answers with a server error."""
_REQUEST_SECONDS = 60
_CHUNK = 8 << 20
_ENDPOINTS = {
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    "gs": ("GOOGLE_BASE_URL",),
    "az": ("AZURE_STORAGE_ENDPOINT",),
}
_NO_BUCKET = re.compile("NoSuchBucket|ContainerNotFound|specified bucket does not exist")
_REFUSED = re.compile("status code: 40[13]|SignatureDoesNotMatch|AccessDenied|InvalidAccessKeyId")
_NO_CREDENTIALS = re.compile(r"169\.254\.169\.254|metadata\.google|Account must be specified")
"""Where a client looks for the credentials of a machine in a cloud if there are no others, and Azure's own words."""
_REMEDIES = {
    "s3": "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the other variables of AWS, on every host.",
    "gs": "Set GOOGLE_APPLICATION_CREDENTIALS to a key file on every host.",
    "az": "Set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY on every host.",
    "file": "Change its permissions, or name another folder.",
}


class StorageError(GantryError):
    """The storage that hosts share cannot be reached, refuses, or does not hold what it should."""


class MissingObjectError(StorageError):
    """There is no object of this name."""


class ChangedObjectError(StorageError):
    """An object is not the version that was asked for."""


@dataclass(frozen=True)
class Entry:
    """An object in a listing."""

    name: str
    """Its name relative to the storage, with ``/`` between the parts."""
    size: int
    """Bytes."""
    version: str = ""
    """Changes when the content does: the entity tag, or the time of the last change where there is none."""
    modified: float = 0.0
    """When it was written last, by the clock of the storage: seconds since 1970."""


class Storage:
    """The objects below ``uri``.

    Each method raises StorageError if the storage cannot be reached within ``patience`` or refuses; the message names the
    storage, this host and the remedy.
    """

    def __init__(self, uri: str, *, patience: float = PATIENCE_SECONDS, what: str = "storage.uri") -> None:
        """Connect to nothing yet.

        Args:
            uri: as :func:`check_storage_uri` accepts it.
            patience: seconds for which a request is repeated.
            what: name of the setting or argument that names the storage, for messages.
        """
        check_storage_uri(uri, what)
        self._what = what
        self.uri = uri.rstrip("/")
        self.patience = patience
        self._scheme = urlsplit(uri).scheme
        with self._explained("open"):
            self._store: Any = self._open_folder() if self._scheme == "file" else self._open_bucket()

    def _open_folder(self) -> LocalStore:
        folder = Path(unquote(urlsplit(self.uri).path))
        folder.mkdir(parents=True, exist_ok=True)
        return LocalStore(folder)

    def _open_bucket(self) -> Any:
        return from_url(self.uri, **self._client())

    def _client(self) -> dict[str, Any]:
        """How a bucket is reached. Credentials are not among it: they are read from the environment."""
        endpoint = next((os.environ[name] for name in _ENDPOINTS.get(self._scheme, ()) if os.environ.get(name)), "")
        return {
            "client_options": {
                "allow_http": endpoint.startswith("http://"),
                "timeout": timedelta(seconds=_REQUEST_SECONDS),
                "connect_timeout": timedelta(seconds=min(10.0, self.patience)),
            },
            "retry_config": {
                "max_retries": 1000,
                "retry_timeout": timedelta(seconds=self.patience),
                "backoff": {
                    "init_backoff": timedelta(milliseconds=200),
                    "max_backoff": timedelta(seconds=5),
                    "base": 2,
                },
            },
        }

    def filesystem(self) -> tuple["pyarrow.fs.FileSystem", str]:
        """The storage as a file system of pyarrow, for libraries that take one, and its path there.

        It is as patient as this object, and can be pickled: it holds no credentials.
        """
        import pyarrow.fs
        from obstore.fsspec import FsspecStore

        from pipelines.storage.arrow import ObjectsHandler

        parts = urlsplit(self.uri)
        if self._scheme == "file":
            return pyarrow.fs.LocalFileSystem(), unquote(parts.path)
        store = FsspecStore(self._scheme, **self._client())  # type: ignore[call-overload]
        return pyarrow.fs.PyFileSystem(ObjectsHandler(store)), f"{parts.netloc}{parts.path}"

    def read(self, name: str) -> bytes:
        """The content of an object; raises MissingObjectError if there is none."""
        with self._explained("read", name):
            return bytes(obstore.get(self._store, name).bytes())

    def read_range(self, name: str, first: int, length: int) -> bytes:
        """``length`` bytes of an object from byte ``first``; raises MissingObjectError if there is none."""
        with self._explained("read", name):
            return bytes(obstore.get_range(self._store, name, start=first, length=length))

    def write(self, name: str, content: bytes | Path) -> None:
        """Write an object, or replace it, from bytes or from a file.

        Raises:
            FileNotFoundError: there is no such file.
        """
        try:
            with self._explained("write", name):
                obstore.put(self._store, name, content, chunk_size=_CHUNK)
        except MissingObjectError as error:
            if isinstance(content, Path) and not content.exists():
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(content)) from error
            raise

    def create(self, name: str, content: bytes) -> bool:
        """Write an object unless there is one of this name; of several writers at the same time one succeeds.

        Returns:
            Whether the object holds ``content`` now. A request whose answer was lost is repeated, and then finds the object
            that it wrote: ``content`` must therefore differ between writers.
        """
        with self._explained("write", name):
            try:
                obstore.put(self._store, name, content, mode="create", use_multipart=False)
            except AlreadyExistsError:
                return self.read(name) == content
            return True

    def download(self, name: str, path: Path, *, version: str | None = None) -> None:
        """Write the content of an object to the file ``path``.

        Raises:
            MissingObjectError: there is no such object.
            ChangedObjectError: it has another version than ``version``, if that is given.
            OSError: the file cannot be written on this host.
        """
        with atomic_write(path) as temporary, temporary.open("wb") as file, self._explained("read", name):
            answer = obstore.get(self._store, name)
            if version is not None and (found := _version(answer.meta)) != version:
                raise ChangedObjectError(f"{self._place()}: {name} has changed: its version is {found}, not {version}.")
            for chunk in answer.stream(min_chunk_size=_CHUNK):
                file.write(chunk)

    def entries(self, prefix: str = "", *, after: str | None = None) -> Iterator[Entry]:
        """The objects whose names begin with ``prefix/``, in no particular order, a page of the storage at a time.

        Args:
            prefix: whole parts of a name; empty for all objects.
            after: only names behind this one.
        """
        with self._explained("list", prefix):
            for page in obstore.list(self._store, prefix or None, offset=after):
                for found in page:
                    # Not all storages begin behind the offset: Azure's may list that object again, Azurite lists all.
                    if after is None or found["path"] > after:
                        yield Entry(found["path"], found["size"], _version(found), found["last_modified"].timestamp())

    def subfolders(self, prefix: str) -> list[str]:
        """Last parts of the names of the folders directly below ``prefix/``, in order."""
        with self._explained("list", prefix):
            found = obstore.list_with_delimiter(self._store, prefix)["common_prefixes"]
            return sorted(name.rstrip("/").rpartition("/")[2] for name in found)

    def delete(self, *names: str) -> None:
        """Delete objects. It is no error if there are none of these names."""
        for start in range(0, len(names), 1000):
            some = list(names[start : start + 1000])
            with self._explained("delete", some[0]):
                try:
                    obstore.delete(self._store, some)
                except FileNotFoundError:  # at which some storages stop, and leave the rest
                    for name in some:
                        with suppress(FileNotFoundError):
                            obstore.delete(self._store, name)

    def delete_below(self, prefix: str) -> None:
        """Delete all objects whose names begin with ``prefix/``."""
        self.delete(*(entry.name for entry in self.entries(prefix)))

    def check(self) -> None:
        """Write, create, read, list and delete a small object; raises StorageError if one of these is impossible.

        Some servers that speak the protocol of S3 ignore that an object is to be created only if there is none (the header
        ``If-None-Match``), and replace it: there, two drivers would hold the same lease.
        """
        name = f"check/{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        with self._explained("use"):
            next(
                iter(obstore.list(self._store, "check")), None
            )  # fails if there is no bucket, where a write may create it
        self.write(name, b"gantry")
        try:
            if self.create(name, b"another"):
                raise StorageError(
                    f"{self._place()} replaces an object that is to be created only if there is none (If-None-Match), so two "
                    "hosts could work on the same thing at once. Update its server, or use another storage."
                )
            if self.read(name) != b"gantry":
                raise StorageError(f"{self.uri} does not return what was written to it.")
        finally:
            self.delete(name)

    def clock(self) -> float:
        """The time of the storage in seconds since 1970, often in whole seconds: writes a small object and deletes it."""
        name = f"check/clock-{socket.gethostname()}-{os.getpid()}"
        self.write(name, b"gantry")
        try:
            with self._explained("read", name):
                return obstore.head(self._store, name)["last_modified"].timestamp()
        finally:
            self.delete(name)

    def _place(self) -> str:
        return f"Storage {self.uri} (from host {socket.gethostname()})"

    @contextmanager
    def _explained(self, action: str, name: str = "") -> Iterator[None]:
        """Turn errors of the storage into StorageError."""
        what = f"{action} {name}".strip()
        try:
            yield
        except GantryError:
            raise
        except (BaseError, OSError) as error:
            if isinstance(error, OSError) and find_disk_error(error) is not None:
                raise  # a full disk: the caller says where, and how much is missing
            raise self._explain(error, what, name) from error

    def _explain(self, error: Exception, what: str, name: str) -> StorageError:
        text, remedy = str(error), _REMEDIES[self._scheme]
        # A listing reports every refusal as an error of no particular type.
        if _NO_BUCKET.search(text):
            bucket = urlsplit(self.uri).netloc
            return StorageError(f"{self._place()}: there is no bucket '{bucket}'. Create it, or correct {self._what}.")
        if isinstance(error, FileNotFoundError) and name:
            return MissingObjectError(f"{self._place()} holds no {name}.")
        if _NO_CREDENTIALS.search(text):
            return StorageError(f"{self._place()}: there are no credentials on this host. {remedy}")
        if isinstance(error, (PermissionDeniedError, UnauthenticatedError, PermissionError)) or _REFUSED.search(text):
            return StorageError(f"{self._place()} refuses to {what}: {_reason(error)}. {remedy}")
        if self._scheme == "file":
            if (refused := find_disk_error(error)) is not None:
                refused.filename = unquote(urlsplit(self.uri).path)
                return StorageError(f"{self._place()} cannot {what}: {describe_os_error(refused)}")
            return StorageError(f"{self._place()} cannot {what}: {_reason(error)}. {remedy}")
        if what == "open":  # nothing was asked of the storage yet: what the environment says is wrong
            return StorageError(f"{self._place()} cannot be opened: {_reason(error)}. {remedy}")
        return StorageError(
            f"{self._place()} cannot {what}, tried for {self.patience:.0f} s: {_reason(error)}. Check that it runs and that "
            "this host can reach it."
        )


def _version(found: Any) -> str:
    """The version of an object from its description; a listing and a request may quote it differently."""
    tag = (found["e_tag"] or "").removeprefix("W/").strip('"')
    return tag or found["last_modified"].isoformat()


def _reason(error: BaseException) -> str:
    """The storage's own words in one line: the code and message of its answer if there are any."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror.lower()}" if error.filename else error.strerror.lower()
    text = str(error).partition("\n\nDebug source")[0]
    code, message = re.search(r"<Code>(.*?)</Code>", text), re.search(r"<Message>(.*?)</Message>", text)
    if code:
        return f"{code[1]} ({message[1].rstrip('.')})" if message else code[1]
    return " ".join(text.split())[:300].rstrip(".")
