"""A folder that one process writes and others follow on other hosts, through the storage.

A training worker writes its work folder on its own disk. The mirror carries it to the driver, and to the worker that goes on
after the first one is lost: the end of each log, each new file, each removal, in one order (:mod:`pipelines.storage.journal`).
Contents of files lie beside the journal by digest. What a reader sees is always a state that the folder had: logs reach at
least as far as the checkpoints beside them.
"""

import hashlib
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from gan_core.errors import GantryError
from gan_core.files import atomic_write, sha256_file
from pipelines.storage.journal import Journal, Segment
from pipelines.storage.objects import MissingObjectError, Storage, StorageError

LOG = logging.getLogger(__name__)

SYNC_SECONDS = 5.0
_LONGEST, _SMALL = 4 << 20, 4 << 20
Accept = Callable[[str], bool]


def _all(name: str) -> bool:
    return True


class Mirror:
    """What the storage knows of a folder: shared by the one that writes and those that follow.

    Args:
        storage: where the mirror is.
        prefix: its name there.
        folder: on this host.
        accept: names of the files that are kept in ``folder``; others are only known.
    """

    def __init__(self, storage: Storage, prefix: str, folder: Path, accept: Accept = _all) -> None:
        self._storage, self._prefix, self._folder, self._accept = storage, prefix, folder, accept
        self._journal = Journal(storage, f"{prefix}/journal")
        self._files: dict[str, str] = {}
        """SHA-256 of each whole file, by name."""
        self._fetched: dict[str, str] = {}
        """The same of those that were brought to the folder."""
        self._logs: dict[str, int] = {}
        """Length of each log, by name."""

    def pull(self) -> int:
        """Bring the folder to the newest state in the storage; returns the number of changes.

        Whole files are fetched last, and only those of the newest state. Logs that are already here are continued. What a call
        that failed has not brought here, the next one brings.

        Raises:
            StorageError: the storage cannot be reached, or lacks a file of the newest state.
        """
        changes, missing = self._pull()
        if missing:
            raise StorageError(
                f"{self._storage.uri}/{self._prefix} is damaged: the content of {', '.join(sorted(missing))} is missing. "
                f"Remove {self._storage.uri}/{self._prefix} and run the stage again."
            )
        return changes

    def _pull(self) -> tuple[int, set[str]]:
        """As :meth:`pull`; returns the number of changes, and the names of files whose content the storage has lost."""
        changes, missing = self._read_new(), self._fetch_new()
        while missing:
            # The writer removes a content only after the segment that says so.
            changes += self._read_new()
            again = self._fetch_new()
            if again == missing:
                break
            missing = again
        return changes, set(missing)

    def _read_new(self) -> int:
        """Read the journal, and apply it to the logs; returns the number of changes."""
        changes = 0
        for segment in self._journal.read_new():
            self._apply(segment)
            changes += len(segment.operations)
        return changes

    def _fetch_new(self) -> dict[str, str]:
        """Bring whole files to the newest state; returns those whose content is not in the storage."""
        for name in self._fetched.keys() - self._files.keys():
            (self._folder / name).unlink(missing_ok=True)
            with suppress(OSError):
                (self._folder / name).parent.rmdir()
            del self._fetched[name]
        missing = {}
        for name, digest in self._files.items():
            if self._fetched.get(name) != digest and self._accept(name):
                if self._fetch(name, digest):
                    self._fetched[name] = digest
                else:
                    missing[name] = digest
        return missing

    def _apply(self, segment: Segment) -> None:
        position = 0
        for operation in segment.operations:
            name, kind = operation["name"], operation["kind"]
            if kind == "append":
                part = segment.body[position : position + operation["size"]]
                position += operation["size"]
                self._logs[name] = operation["offset"] + operation["size"]
                if self._accept(name):
                    self._continue(name, operation["offset"], part)
            elif kind == "put":
                self._files[name] = operation["sha256"]
            else:
                self._files.pop(name, None)

    def _continue(self, name: str, offset: int, part: bytes) -> None:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        here = path.stat().st_size if path.is_file() else 0
        if here < offset:
            raise StorageError(
                f"{path} is shorter than its mirror {self._storage.uri}/{self._prefix} ({here} of {offset} bytes). Remove the "
                "file: it is fetched again."
            )
        if here > offset:
            with path.open("rb") as file:
                file.seek(offset)
                if file.read(len(part)) != part[: here - offset]:
                    raise StorageError(
                        f"{path} differs from its mirror {self._storage.uri}/{self._prefix}. Remove the one that is wrong: a "
                        "file that is removed is fetched again."
                    )
        if here < offset + len(part):
            with path.open("ab") as file:
                file.write(part[here - offset :])

    def _fetch(self, name: str, digest: str) -> bool:
        """Bring a file here; returns False if its content is not in the storage."""
        path = self._folder / name
        if path.is_file() and sha256_file(path) == digest:
            return True
        try:
            with atomic_write(path) as temporary:
                self._storage.download(self._blob(digest), temporary)
                if sha256_file(temporary) != digest:
                    raise StorageError(f"{self._storage.uri}/{self._blob(digest)} is damaged. Remove it.")
        except MissingObjectError:
            return False
        return True

    def _blob(self, digest: str) -> str:
        return f"{self._prefix}/blobs/{digest}"


@dataclass(frozen=True)
class _Change:
    """A segment of the journal, and what the writer knows of its folder when the segment is written."""

    operations: list[dict[str, Any]]
    body: bytes
    sent: dict[str, tuple[int, int]]
    files: dict[str, str]
    logs: dict[str, int]


class MirrorWriter(Mirror):
    """The one process that writes the folder.

    Args:
        storage: where the mirror is.
        prefix: its name there.
        folder: on this host, new and empty; nothing else writes it.
        epoch: of the lease under which this process works.
        logs: patterns of names of files that only grow, by whole lines.
        checkpoints: patterns of names of files that the logs must reach. Their removal is mirrored, that of other files is not.
        accept: names of the files that :meth:`take_over` brings here.
    """

    def __init__(
        self,
        storage: Storage,
        prefix: str,
        folder: Path,
        *,
        epoch: int,
        logs: Iterable[str],
        checkpoints: Iterable[str] = (),
        accept: Accept = _all,
    ) -> None:
        super().__init__(storage, prefix, folder, accept)
        self._epoch, self._growing, self._checkpoints = epoch, tuple(logs), tuple(checkpoints)
        self._sent: dict[str, tuple[int, int]] = {}
        """Size and modification time of each whole file as it was sent."""
        self._unsure: _Change | None = None
        """What the storage may have or not, because its answer was lost."""
        self._mutex = threading.Lock()
        self._error: Exception | None = None

    def take_over(self) -> None:
        """Bring the folder to the newest state, and let no earlier writer change it any more.

        A checkpoint whose content the storage has lost is left out, with a warning.

        Raises:
            StageError: a later writer has taken over.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        missing = self._pull()[1]
        while not self._journal.begin(self._epoch):
            missing = self._pull()[1]
        for name in sorted(missing):
            LOG.warning("%s/%s has lost the content of %s.", self._storage.uri, self._prefix, name)
            del self._files[name]
        for name in self._files:
            with suppress(FileNotFoundError):
                stat = (self._folder / name).stat()
                self._sent[name] = stat.st_size, stat.st_mtime_ns

    def sync(self) -> None:
        """Carry all changes of the folder since the last call to the storage.

        Raises:
            StageError: a later writer has taken over.
            StorageError: the storage cannot be reached; the next call tries again.
        """
        while not self._sync_once():
            pass

    def _sync_once(self) -> bool:
        """As :meth:`sync`, but at most :data:`_LONGEST` bytes of each log; returns whether that was all."""
        with self._mutex:
            if self._unsure:
                self._append(self._unsure)
            change, complete = self._collect()
            if change.operations:
                self._append(change)
            return complete

    def _collect(self) -> tuple[_Change, bool]:
        """Send the contents of new files, and return what has changed, and whether that is all."""
        operations: list[dict[str, Any]] = []
        sent, files = dict(self._sent), dict(self._files)
        # Checkpoints before logs, so that logs reach at least as far; other files after, so that what a log names is there.
        present = self._names()
        for name in present:
            if _matches(name, self._checkpoints):
                self._send_file(name, sent, files, operations)
        for name in [name for name in files if name not in present and _matches(name, self._checkpoints)]:
            operations.append({"kind": "remove", "name": name})
            del files[name]
            sent.pop(name, None)
        body, logs, more = b"", dict(self._logs), False
        for name in present:
            if _matches(name, self._growing):
                part, complete = _whole_lines(self._folder / name, logs.get(name, 0))
                more = more or not complete
                if part:
                    offset = logs.get(name, 0)
                    operations.append({"kind": "append", "name": name, "offset": offset, "size": len(part)})
                    body += part
                    logs[name] = offset + len(part)
        for name in self._names():
            if not _matches(name, self._growing) and not _matches(name, self._checkpoints):
                self._send_file(name, sent, files, operations)
        return _Change(operations, body, sent, files, logs), not more

    def _append(self, change: _Change) -> None:
        # If the answer of the storage is lost, the segment may be there: another one would find its number taken.
        self._unsure = change
        self._journal.append(change.operations, change.body)
        self._unsure = None
        unused = set(self._files.values()) - set(change.files.values())
        self._sent, self._files, self._logs = change.sent, change.files, change.logs
        self._delete_unused(unused)

    @contextmanager
    def running(self, every: float = SYNC_SECONDS) -> Iterator[None]:
        """Sync every ``every`` seconds in a thread, and once more at the end of the block.

        Errors of the thread are raised by :meth:`check`; while the storage is away, changes wait in the folder.
        """
        over = threading.Event()

        def work() -> None:
            while not over.wait(every):
                try:
                    self.sync()
                except StorageError as error:  # the folder keeps what is to be sent
                    LOG.warning("What this process writes waits on this host: %s", error)
                except Exception as error:
                    self._error = error
                    return

        thread = threading.Thread(target=work, name="mirror", daemon=True)
        thread.start()
        try:
            yield
        except BaseException:
            with suppress(GantryError):  # the error of the block is the one to report
                self.sync()
            raise
        finally:
            over.set()
            thread.join()
        self.check()
        self.sync()

    def check(self) -> None:
        """Raise what has ended the thread of :meth:`running`, such as that a later writer has taken over."""
        if self._error:
            raise self._error

    def _send_file(
        self, name: str, sent: dict[str, tuple[int, int]], files: dict[str, str], operations: list[dict[str, Any]]
    ) -> None:
        path = self._folder / name
        try:
            stat = path.stat()
            if sent.get(name) == (stat.st_size, stat.st_mtime_ns):
                return
            # A small one may still be growing: its digest is that of what is sent.
            content = path.read_bytes() if stat.st_size <= _SMALL else path
            digest = hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else sha256_file(content)
            if files.get(name) != digest:
                self._storage.write(self._blob(digest), content)
        except FileNotFoundError:
            return  # the trainer has removed it meanwhile
        if files.get(name) != digest:
            operations.append({"kind": "put", "name": name, "sha256": digest, "size": stat.st_size})
            files[name] = digest
        sent[name] = stat.st_size, stat.st_mtime_ns

    def _delete_unused(self, digests: set[str]) -> None:
        for digest in digests:
            with suppress(StorageError):  # a file too many in the storage does no harm
                self._storage.delete(self._blob(digest))

    def _names(self) -> list[str]:
        """Names of the files in the folder, but for temporary ones: names of those, or of their folders, begin with a dot."""

        def passed_over(error: OSError) -> None:
            if not isinstance(error, FileNotFoundError):  # a folder that the trainer has just removed
                raise error

        names = []
        for parent, folders, files in os.walk(self._folder, onerror=passed_over):
            folders[:] = [name for name in folders if not name.startswith(".")]
            names += [Path(parent, name) for name in files if not name.startswith(".")]
        return sorted(path.relative_to(self._folder).as_posix() for path in names)


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _whole_lines(path: Path, offset: int) -> tuple[bytes, bool]:
    """The lines that follow ``offset`` in a file, of about :data:`_LONGEST` bytes at most, and whether these are all."""
    with path.open("rb") as file:
        file.seek(offset)
        content = file.read(_LONGEST)
        while len(content) % _LONGEST == 0 and content and b"\n" not in content:  # a line longer than that
            more = file.read(_LONGEST)
            content += more
            if not more:
                break
        return content[: content.rfind(b"\n") + 1], not file.read(1)
