"""A journal in the storage: numbered segments that are created once, so that all readers see one order.

Each segment carries the term of its writer: the epoch of the lease under which it writes (:mod:`pipelines.storage.lease`), and
how many writers there were in that epoch. A new writer begins with an empty segment. From then on an earlier writer, which was
cut off and does not know that it was replaced, finds its next number taken and stops: it cannot change what the new one has
seen.
"""

import json
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from gan_core.errors import StageError
from pipelines.storage.objects import Storage, StorageError

_THREADS = 8
_AT_ONCE = 64


class ReplacedError(StageError):
    """This process was replaced by a later writer of the same epoch: its driver knows, and goes on with that one."""


Term = tuple[int, int]
"""Epoch of the lease, and number of the writer in it."""


@dataclass(frozen=True)
class Segment:
    """One entry of the journal."""

    number: int
    """From 1 without gaps."""
    term: Term
    operations: Sequence[dict[str, Any]]
    body: bytes
    """Bytes that the operations refer to."""


class Journal:
    """The segments below ``prefix``."""

    def __init__(self, storage: Storage, prefix: str) -> None:
        self._storage, self._prefix = storage, prefix
        self.number = 0
        """Number of the newest segment that this process has read and applied, or written."""
        self.term: Term = (0, 0)
        """Term of that segment."""

    def read_new(self) -> Iterator[Segment]:
        """The segments after :attr:`number`, in order.

        Raises:
            StorageError: one is damaged, or a number is missing.
        """
        begins = f"{self._prefix}/{self.number:010d}" if self.number else None
        numbers = sorted(
            int(entry.name.rpartition("/")[2]) for entry in self._storage.entries(self._prefix, after=begins)
        )
        with ThreadPoolExecutor(_THREADS) as pool:
            for start in range(0, len(numbers), _AT_ONCE):
                for segment in pool.map(self._read, numbers[start : start + _AT_ONCE]):
                    if segment.number != self.number + 1:
                        raise StorageError(
                            f"{self._storage.uri}/{self._prefix}: segment {self.number + 1} is missing. Remove "
                            f"{self._storage.uri}/{self._prefix} and run the stage again."
                        )
                    yield segment
                    # Not before: what its reader could not apply is read again.
                    self.number, self.term = segment.number, segment.term

    def begin(self, epoch: int) -> bool:
        """Begin to write in ``epoch``, after everything was read; returns False if there is something new to read first.

        Raises:
            StageError: the journal is written in a later epoch.
        """
        if self.term[0] > epoch:
            raise self._replaced(self.term, (epoch, 1))
        term = epoch, self.term[1] + 1 if self.term[0] == epoch else 1
        # The token makes the segment differ from that of a writer who begins at the same time.
        if not self._create(term, [], b"", token=uuid.uuid4().hex):
            return False
        self.number, self.term = self.number + 1, term
        return True

    def append(self, operations: Sequence[dict[str, Any]], body: bytes = b"") -> None:
        """Write the next segment, after :meth:`begin`.

        After a StorageError it is unknown whether the segment is there. Only the same one may then be written.

        Raises:
            ReplacedError: a later writer of this epoch has begun.
            StageError: a writer of a later epoch has begun.
        """
        if not self._create(self.term, operations, body):
            raise self._replaced(self._read(self.number + 1).term, self.term)
        self.number += 1

    def _create(self, term: Term, operations: Sequence[dict[str, Any]], body: bytes, **more: str) -> bool:
        header = json.dumps({"term": term, "operations": list(operations), **more}, separators=(",", ":")).encode()
        return self._storage.create(f"{self._prefix}/{self.number + 1:010d}", header + b"\n" + body)

    def _replaced(self, term: Term, own: Term) -> StageError:
        kind = StageError if term[0] > own[0] else ReplacedError
        return kind(
            f"Another process has taken over {self._prefix} (term {term[0]}.{term[1]}, this one has "
            f"{own[0]}.{own[1]}): this host was cut off from the storage or paused for too long. The other one "
            "goes on."
        )

    def _read(self, number: int) -> Segment:
        content = self._storage.read(f"{self._prefix}/{number:010d}")
        head, _, body = content.partition(b"\n")
        try:
            header = json.loads(head)
            epoch, writer = header["term"]
            return Segment(number, (int(epoch), int(writer)), list(header["operations"]), body)
        except (ValueError, KeyError, TypeError) as error:
            raise StorageError(
                f"{self._storage.uri}/{self._prefix}/{number:010d} is damaged. Remove {self._storage.uri}/{self._prefix} and "
                "run the stage again."
            ) from error
