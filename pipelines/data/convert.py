"""The first pass of ingestion: decode, fit and encode a chunk of pictures into its part file."""

import contextlib
import hashlib
import socket
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from gan_core.errors import DataError
from gan_core.images import pictures, sandbox
from gan_core.images.pictures import Fit, PictureError
from pipelines.data import readers
from pipelines.data.bucket import fetch_objects
from pipelines.data.exchange import SCRATCH, Exchange
from pipelines.data.pairs import of_condition, prepare_pair
from pipelines.data.raw_files import SentFiles, fetched_files
from pipelines.data.readers.base import Entry, Reader, Reject, SourceNote
from pipelines.data.readers.bucket import Objects
from pipelines.data.rejects import DECODER_FAILURES, check_decoder_failures
from pipelines.data.shards import PartWriter
from pipelines.runtime.owned import scratch_folder
from pipelines.settings.ingest import Pairing


@dataclass(frozen=True, kw_only=True)
class ChunkSpec:
    """A chunk of pictures to convert."""

    raw: Path
    note: SourceNote
    entries: tuple[Entry, ...]
    part: Path
    size: tuple[int, int]
    channels: int
    fit: Fit
    digest_contents: bool
    max_failures: int
    """Number of decoder failures that are allowed in the whole dataset."""
    pairing: Pairing | None = None
    objects: Objects | None = None
    """The objects of the chunk, if the pictures are in a bucket: they are fetched for the time of the conversion."""
    exchange: Exchange | None = None
    """Where the part file goes, if hosts share no disk; ``part`` is then only its name."""
    sent: SentFiles | None = None
    """The raw files of the chunk, if they are on the driver's disk and travel through ``exchange``."""
    refused: Mapping[int, PictureError] = field(default_factory=dict)
    """Pictures that ended a worker before, or that the driver could not read, by position: they are rejected without another
    attempt."""


@dataclass(frozen=True, kw_only=True)
class ConvertedChunk:
    """The result for a chunk. Row i of every array describes row i of the part file."""

    positions: np.ndarray
    """int64 (n,): positions of the converted entries in the chunk."""
    pixel_digests: np.ndarray
    """uint8 (n, 32): SHA-256 of the prepared pixels; for a pair of picture and condition."""
    content_digests: np.ndarray
    """uint8 (n, 32): SHA-256 of the source content; (0, 32) unless ``digest_contents``."""
    sums: np.ndarray
    """int64 (n, C): sum of the pixels of each channel."""
    squares: np.ndarray
    """int64 (n, C): sum of the squared pixels of each channel."""
    rejects: tuple[Reject, ...]


def convert(spec: ChunkSpec) -> ConvertedChunk:
    """Convert a chunk of pictures into its part file, in a worker with limits (:mod:`gan_core.images.sandbox`).

    A picture that ends the worker is rejected, and the chunk is converted again without it.

    Raises:
        DataError: too many pictures end the worker, it ends while it decodes no picture, or an object in a bucket has changed.
    """
    if spec.objects is None and spec.sent is None and not spec.raw.is_dir():
        raise DataError(
            f"{spec.raw} is not on host {socket.gethostname()}, where a task of ingestion runs. Set storage.uri, through which "
            "the pictures then travel, use a disk that all hosts share, or set ingest.workers to 1."
        )
    if spec.objects is None and spec.exchange is None:
        return _convert_with_retries(spec, spec.raw)
    with scratch_folder(SCRATCH) as scratch, contextlib.ExitStack() as stack:
        files, part = spec.raw, spec.part
        if spec.objects is not None:
            files = scratch / "objects"
            fetch_objects(spec.objects, files)
        elif spec.sent is not None and spec.exchange is not None:
            files = stack.enter_context(fetched_files(spec.sent, spec.exchange, scratch))
            spec = replace(spec, refused={**spec.refused, **spec.sent.refused})
        if spec.exchange is not None:
            part = scratch / spec.part.name
        result = _convert_with_retries(replace(spec, part=part), files)
        if spec.exchange is not None:
            spec.exchange.send_part(part, spec.part.name)
        return result


def _convert_with_retries(spec: ChunkSpec, files: Path) -> ConvertedChunk:
    ended: Counter[int] = Counter()
    while True:
        try:
            return sandbox.call(_convert, replace(spec, raw=files))
        except sandbox.WorkerEndedError as error:
            ended[error.item] += 1
            if error.retryable and ended[error.item] == 1:
                continue
            if error.item == sandbox.NO_ITEM:
                raise DataError(
                    f"The process that converts the pictures of {spec.raw} ended: {error.detail}."
                ) from error
            refused = {**spec.refused, error.item: PictureError(error.reason, error.detail)}
            ends = [
                Reject(spec.entries[at].source, end.reason, end.detail)
                for at, end in refused.items()
                if end.reason in DECODER_FAILURES
            ]
            check_decoder_failures(ends, spec.max_failures, spec.raw)
            spec = replace(spec, refused=refused)


def _convert(spec: ChunkSpec) -> ConvertedChunk:
    # Write pictures one by one: all PNGs of a chunk may exceed the memory limit of a worker.
    with PartWriter(spec.part, paired=spec.pairing is not None) as part:
        return _convert_into(part, spec)


def _convert_into(part: PartWriter, spec: ChunkSpec) -> ConvertedChunk:
    reader = readers.open_reader(spec.raw, spec.note)
    positions: list[int] = []
    digests, contents = bytearray(), bytearray()
    rejects = []
    moments = _Moments(spec.channels, spec.size)
    for position, entry in enumerate(spec.entries):
        sandbox.begin(position)
        try:
            if position in spec.refused:
                raise spec.refused[position]
            content = reader.read(entry)
            partner = _read_condition(reader, entry.condition) if entry.condition else None
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
    sandbox.finish()
    sums, squares = moments.finish()
    return ConvertedChunk(
        positions=np.array(positions, dtype=np.int64),
        pixel_digests=np.frombuffer(bytes(digests), dtype=np.uint8).reshape(-1, 32),
        content_digests=np.frombuffer(bytes(contents), dtype=np.uint8).reshape(-1, 32),
        sums=sums,
        squares=squares,
        rejects=tuple(rejects),
    )


def _read_condition(reader: Reader, file: str) -> bytes | np.ndarray:
    try:
        return reader.read(Entry(file))
    except PictureError as error:
        raise of_condition(error) from error


def _prepared(content: bytes | np.ndarray, partner: bytes | np.ndarray | None, spec: ChunkSpec) -> list[np.ndarray]:
    """The pixels of the picture, and for a pair also those of the condition."""
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
    """Exact sums and sums of squares by channel and picture, computed for a few pictures at a time."""

    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        self._pixels = size[0] * size[1]
        self._at_once = max(1, 2**18 // (channels * self._pixels))
        self._waiting: list[np.ndarray] = []
        self._done = [np.zeros((2, 0, channels), dtype=np.int64)]

    def add(self, pixels: np.ndarray) -> None:
        """Add one picture, uint8 (C, H, W)."""
        self._waiting.append(pixels)
        if len(self._waiting) >= self._at_once:
            self._flush()

    def finish(self) -> tuple[np.ndarray, np.ndarray]:
        """Sums and sums of squares, int64 (n, C) each, in the order of the pictures."""
        self._flush()
        sums, squares = np.concatenate(self._done, axis=1)
        return sums, squares

    def _flush(self) -> None:
        if self._waiting:
            # Integers below 2**53 are exact in float64, in any order of summation.
            block = np.stack(self._waiting).reshape(len(self._waiting), -1, self._pixels).astype(np.float64)
            self._done.append(np.stack([block.sum(axis=2), np.einsum("ncp,ncp->nc", block, block)]).astype(np.int64))
            self._waiting.clear()
