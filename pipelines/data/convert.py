"""The first pass of ingestion: a run of pictures is decoded, fitted and encoded into a part file of its own."""

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from gan_core.errors import DataError
from gan_core.images import bounded, pictures
from gan_core.images.pictures import Fit, PictureError
from pipelines.data import readers
from pipelines.data.pairs import prepare_pair
from pipelines.data.readers.base import Entry, Reject, SourceNote
from pipelines.data.rejects import refuse_endless
from pipelines.data.shards import PartWriter
from pipelines.settings.ingest import Pairing


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """One run of pictures to convert."""

    raw: Path
    note: SourceNote
    entries: tuple[Entry, ...]
    part: Path
    size: tuple[int, int]
    channels: int
    fit: Fit
    digest_contents: bool
    most_ended: int
    """How many pictures may end their decoder before ingestion gives up."""
    pairing: Pairing | None = None
    refused: Mapping[int, PictureError] = field(default_factory=dict)
    """By position, pictures that are put aside unread, and why: they have ended a worker."""


@dataclass(frozen=True, kw_only=True)
class Converted:
    """What is known of a converted run; row i of the part file is row i of every array."""

    positions: np.ndarray
    """int64 (n,): which entries of the run came through."""
    pixel_digests: np.ndarray
    """uint8 (n, 32): SHA-256 of the prepared pixels, of a pair of both."""
    content_digests: np.ndarray
    """uint8 (n, 32): SHA-256 of the content as it came; (0, 32) where nobody needs it."""
    sums: np.ndarray
    """int64 (n, C): sum of the pixels of each channel."""
    squares: np.ndarray
    """int64 (n, C): sum of their squares."""
    rejects: tuple[Reject, ...]


def convert(spec: RunSpec) -> Converted:
    """Convert one run of pictures into its part file, in a worker with limits (:mod:`gan_core.images.bounded`).

    A picture that ends the worker is put aside, and the run is made again without it.

    Raises:
        DataError: too many pictures do that; or the worker ended at no picture.
    """
    ended: Counter[int] = Counter()
    while True:
        try:
            return bounded.call(_convert, spec)
        except bounded.WorkerEndedError as error:
            ended[error.item] += 1
            if error.again and ended[error.item] == 1:
                continue
            if error.item == bounded.NO_ITEM:
                raise DataError(f"The process that converts pictures of {spec.raw} ended: {error.detail}.") from error
            refused = {**spec.refused, error.item: PictureError(error.reason, error.detail)}
            ends = [Reject(spec.entries[at].source, end.reason, end.detail) for at, end in refused.items()]
            refuse_endless(ends, spec.most_ended, spec.raw)
            spec = replace(spec, refused=refused)


def _convert(spec: RunSpec) -> Converted:
    # Pictures go to the file as they come: all PNGs of a run may be more than a worker may hold.
    with PartWriter(spec.part, paired=spec.pairing is not None) as part:
        return _convert_into(part, spec)


def _convert_into(part: PartWriter, spec: RunSpec) -> Converted:
    reader = readers.open_reader(spec.raw, spec.note)
    positions: list[int] = []
    digests, contents = bytearray(), bytearray()
    rejects = []
    moments = _Moments(spec.channels, spec.size)
    for position, entry in enumerate(spec.entries):
        bounded.begin(position)
        try:
            if position in spec.refused:
                raise spec.refused[position]
            content = reader.read(entry)
            partner = reader.read(Entry(entry.condition)) if entry.condition else None
            prepared = _prepared(content, partner, spec)
        except (PictureError, MemoryError) as error:
            reject = error if isinstance(error, PictureError) else pictures.too_much_memory()
            rejects.append(Reject(entry.source, reject.reason, reject.detail))
            continue
        digests += _sha256(*prepared)
        if spec.digest_contents:
            contents += _sha256(content) if partner is None else _sha256(content, partner)
        moments.add(prepared[0])
        part.add(*map(pictures.encode_png, prepared))
        positions.append(position)
    bounded.finish()
    sums, squares = moments.finish()
    return Converted(
        positions=np.array(positions, dtype=np.int64),
        pixel_digests=np.frombuffer(bytes(digests), dtype=np.uint8).reshape(-1, 32),
        content_digests=np.frombuffer(bytes(contents), dtype=np.uint8).reshape(-1, 32),
        sums=sums,
        squares=squares,
        rejects=tuple(rejects),
    )


def _prepared(content: bytes | np.ndarray, partner: bytes | np.ndarray | None, spec: RunSpec) -> list[np.ndarray]:
    """The picture's pixels; of a pair the condition's too."""
    if spec.pairing is None:
        found: tuple[np.ndarray, ...] = (
            pictures.prepare(content, size=spec.size, channels=spec.channels, mode=spec.fit),
        )
    else:
        found = prepare_pair(content, partner, spec.pairing, size=spec.size, channels=spec.channels, mode=spec.fit)
    return [np.ascontiguousarray(pixels) for pixels in found]


def _sha256(*contents: bytes | np.ndarray) -> bytes:
    digest = hashlib.sha256()
    for content in contents:
        digest.update(content if isinstance(content, bytes) else np.ascontiguousarray(content).data)
    return digest.digest()


class _Moments:
    """Sums and sums of squares of each channel of each picture, exact, a few pictures at a time."""

    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        self._pixels = size[0] * size[1]
        self._at_once = max(1, 2**18 // (channels * self._pixels))
        self._waiting: list[np.ndarray] = []
        self._done = [np.zeros((2, 0, channels), dtype=np.int64)]

    def add(self, pixels: np.ndarray) -> None:
        """Take one picture, uint8 (C, H, W)."""
        self._waiting.append(pixels)
        if len(self._waiting) >= self._at_once:
            self._flush()

    def finish(self) -> tuple[np.ndarray, np.ndarray]:
        """Sums and sums of squares, int64 (n, C) each, in the order in which pictures came."""
        self._flush()
        sums, squares = np.concatenate(self._done, axis=1)
        return sums, squares

    def _flush(self) -> None:
        if self._waiting:
            # Whole numbers below 2**53 are exact in float64, whatever the order of summation.
            block = np.stack(self._waiting).reshape(len(self._waiting), -1, self._pixels).astype(np.float64)
            self._done.append(np.stack([block.sum(axis=2), np.einsum("ncp,ncp->nc", block, block)]).astype(np.int64))
            self._waiting.clear()
