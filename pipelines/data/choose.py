"""The second pass of ingestion: find duplicates among all converted pictures, and assign splits, by columns."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from pipelines.data.convert import ConvertedChunk
from pipelines.data.readers.base import Entries, Reject
from pipelines.data.rejects import DUPLICATE

log = logging.getLogger(__name__)


class ConvertedPictures:
    """What the first pass found out about each converted picture. Row i of every array describes one of them.

    It takes about 100 bytes a picture.
    """

    def __init__(self, total: int, chunk: int, channels: int, *, contents: bool) -> None:
        """Make room.

        Args:
            total: largest number of pictures.
            chunk: pictures in one chunk.
            channels: of the prepared pictures.
            contents: whether digests of the source contents are kept.
        """
        self._chunk, self.count = chunk, 0
        self._entries = np.empty(total, dtype=np.int64)
        self._rows = np.empty(total, dtype=np.int32)
        self._digests = np.empty((total, 32), dtype=np.uint8)
        self._contents = np.empty(total if contents else 0, dtype=np.uint64)
        self._sums, self._squares = (np.empty((total, channels), dtype=np.int64) for _ in range(2))
        self.rejects: list[Reject] = []

    def add(self, number: int, chunk: ConvertedChunk) -> None:
        """Append the pictures of chunk ``number``; the chunks come in order."""
        here = slice(self.count, self.count + len(chunk.positions))
        self.count = here.stop
        self._entries[here] = number * self._chunk + chunk.positions
        self._rows[here] = np.arange(len(chunk.positions))
        self._digests[here] = chunk.pixel_digests
        if len(self._contents):
            self._contents[here] = np.ascontiguousarray(chunk.content_digests[:, :8]).view(">u8")[:, 0]
        self._sums[here], self._squares[here] = chunk.sums, chunk.squares
        self.rejects += chunk.rejects

    @property
    def entries(self) -> np.ndarray:
        """Positions in the listing, int64 (n,), ascending."""
        return self._entries[: self.count]

    @property
    def rows(self) -> np.ndarray:
        """Row in the part file of the chunk, int32 (n,)."""
        return self._rows[: self.count]

    @property
    def digests(self) -> np.ndarray:
        """SHA-256 of the prepared pixels, uint8 (n, 32)."""
        return self._digests[: self.count]

    @property
    def chunks(self) -> np.ndarray:
        """Number of the chunk, int64 (n,)."""
        return self.entries // self._chunk

    @property
    def contents(self) -> np.ndarray:
        """The first 64 bits of the SHA-256 of the source content, uint64 (n,)."""
        return self._contents[: self.count]

    def totals(self, members: np.ndarray) -> tuple[list[int], list[int]]:
        """Exact sums, and sums of squares, of the pixels of the pictures ``members``, for each channel."""
        return _exact_sums(self._sums, members), _exact_sums(self._squares, members)


def _exact_sums(values: np.ndarray, members: np.ndarray) -> list[int]:
    # Each sum of a picture is below 2**43: a block of them does not overflow.
    blocks = [values[members[start : start + 2**16]].sum(axis=0) for start in range(0, len(members), 2**16)]
    return [sum(int(block[channel]) for block in blocks) for channel in range(values.shape[1])]


@dataclass(frozen=True)
class Choice:
    """The pictures of the prepared dataset."""

    splits: Mapping[str, np.ndarray]
    """For each split with pictures, the converted pictures in order, int64 (n,)."""
    rejects: list[Reject]
    """All rejects of the first pass, and the duplicates."""


def choose(entries: Entries, converted: ConvertedPictures, *, by_domain: bool, test_share: float | None) -> Choice:
    """Remove duplicates and assign splits.

    Args:
        entries: all pictures.
        converted: those that were converted.
        by_domain: whether pictures with different labels are never duplicates.
        test_share: share of the test split, which is held out by the digests of the contents; None: the splits of ``entries``.
    """
    first = _first_of_equals(entries, converted, by_domain)
    everything = np.arange(converted.count)
    rejects = list(converted.rejects)
    for copy in np.flatnonzero(first != everything):
        entry, kept = entries[int(converted.entries[copy])], entries[int(converted.entries[first[copy]])]
        alike = (kept.label, kept.attributes) == (entry.label, entry.attributes)
        other = "" if alike else ", which has another label"
        rejects.append(Reject(entry.source, DUPLICATE, f"same prepared pixels as {kept.source}{other}"))
    kept_ones = np.flatnonzero(first == everything)
    if test_share is not None:
        held_out = _below(converted.contents[kept_ones], test_share)
        found = {"train": kept_ones[~held_out], "test": kept_ones[held_out]}
        return Choice({split: members for split, members in found.items() if len(members)}, rejects)
    codes = entries.split_codes[converted.entries[kept_ones]]
    splits: dict[str, np.ndarray] = {}
    for code in np.unique(codes):
        split = entries.split_names[code] or "train"
        members = kept_ones[codes == code]
        # Pictures without a split count as training pictures.
        splits[split] = np.sort(np.concatenate([splits[split], members])) if split in splits else members
    return Choice(splits, rejects)


def _first_of_equals(entries: Entries, converted: ConvertedPictures, by_domain: bool) -> np.ndarray:
    """For each converted picture, the one among its equals whose path sorts first, int64 (n,)."""
    first = np.arange(converted.count)
    if not converted.count:
        return first
    words = converted.digests.view(np.uint64)
    keys = [*words.T, entries.split_codes[converted.entries]]
    if by_domain:
        keys.append(entries.labels[converted.entries])
    order = np.lexsort(keys)
    equal = np.ones(converted.count - 1, dtype=bool)
    for key in keys:
        equal &= key[order[1:]] == key[order[:-1]]
    # Groups of equals: most pictures are alone, and cost nothing here.
    edges = np.flatnonzero(np.diff(np.concatenate([[False], equal, [False]]).astype(np.int8)))
    for begin, end in edges.reshape(-1, 2):
        group = np.sort(order[begin : end + 1])
        at = converted.entries[group]
        names = list(zip(entries.files.take(at), entries.rows[at].tolist(), strict=True))
        first[group] = group[min(range(len(group)), key=names.__getitem__)]
    return first


def _below(digests: np.ndarray, share: float) -> np.ndarray:
    """Whether digests are in the test split: adding pictures moves no other picture."""
    limit = math.ceil(share * 2**64)
    return np.ones(len(digests), dtype=bool) if limit >= 2**64 else digests < np.uint64(limit)


def warn_of_shared(splits: Mapping[str, np.ndarray], entries: Entries, converted: ConvertedPictures, raw: Path) -> None:
    """Warn of pictures in other splits that are also training pictures: they bias the evaluation."""

    def digests(members: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(converted.digests[members]).view("S32")[:, 0]

    train = splits.get("train", np.empty(0, dtype=np.int64))[::-1]
    for split, members in sorted(splits.items()):
        if split == "train" or not len(train):
            continue
        others = members[::-1]
        shared, ours, theirs = np.intersect1d(digests(others), digests(train), return_indices=True)
        if len(shared):
            examples = [entries.source(int(converted.entries[at])) for at in (others[ours[0]], train[theirs[0]])]
            log.warning(
                "%s: %d pictures of the %s split are also in the train split (for example %s and %s).",
                *(raw, len(shared), split, *examples),
            )


def attribute_values(entries: Entries, at: np.ndarray, attributes: int) -> np.ndarray | None:
    """The attributes of the pictures at the positions ``at`` of the listing, int8 (n, attributes); None without attributes."""
    if not attributes:
        return None
    if entries.attributes is None:
        return np.empty((len(at), 0), dtype=np.int8)
    held = pc.take(entries.attributes, at)
    return np.frombuffer(b"".join(held.to_pylist()), dtype=np.int8).reshape(len(at), attributes)
