"""Ingestion: turn raw data into a prepared dataset. Equal input gives equal bytes, for any number of workers.

Ingestion has three passes. *Convert* decodes, fits and encodes the pictures in chunks of fixed length, each chunk into its
own part file. *Choose* removes duplicates by the digests of all pictures, and assigns splits. *Assemble* writes the remaining
rows of the part files as shards. A mapper runs the first and the last pass.
"""

import hashlib
import logging
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import overload

import numpy as np

from gan_core.config import as_dict
from gan_core.data import DATASET_FILE, FORMAT, DatasetInfo
from gan_core.download.fetch import progress_bar
from gan_core.errors import DataError
from gan_core.files import atomic_write, sha256_file, write_json, write_text
from gan_core.images import pictures, svg
from gan_core.images.files import is_svg
from pipelines.data import arrange, readers
from pipelines.data.choose import ConvertedPictures, attribute_values, choose, warn_of_shared
from pipelines.data.convert import ChunkSpec, convert
from pipelines.data.description import describe
from pipelines.data.exchange import Exchange
from pipelines.data.mapping import Mapper, map_sequentially
from pipelines.data.raw_files import RawFiles
from pipelines.data.readers import bucket
from pipelines.data.readers.base import Entries, Listing, Reject, SourceNote
from pipelines.data.rejects import (
    DECODER_FAILURES,
    RejectLimits,
    check_decoder_failures,
    check_rejects,
    max_decoder_failures,
    rejects_table,
)
from pipelines.data.shards import PartRows, ShardSpec, shard_name, write_shard
from pipelines.settings import ingest as ingest_settings
from pipelines.settings.ingest import DERIVED, IngestSettings

log = logging.getLogger(__name__)

REJECTS_FILE = "rejects.csv"
_OWN_MODULES = (
    *("arrange", "bucket", "choose", "convert", "exchange", "ingest", "mapping", "names", "pairs", "partners"),
    *("raw_files", "rejects", "shards"),
)
"""Modules of this package that determine the result."""
_BLOCK = 65536  # pictures whose digests are hashed at a time
_CHUNK = 256  # pictures in one chunk; does not affect the result, so it is not a setting


def ingest(
    raw: Path | str,
    out: Path | str,
    settings: IngestSettings,
    *,
    name: str,
    mapper: Mapper = map_sequentially,
    exchange: Exchange | None = None,
) -> DatasetInfo:
    """Turn the raw data in ``raw`` into a prepared dataset in ``out``, which is written completely or not at all.

    Pictures, or pairs, of one split whose prepared pixels are equal are duplicates; the one whose path sorts first is kept.
    In unpaired data, and in domains that are classes, duplicates are within one domain only.

    Args:
        raw: folder from ``gantry data fetch`` or ``gantry data add``, or any folder of pictures; it is not modified.
        out: folder to write; an existing one is replaced.
        settings: shape, splits and limits.
        name: name of the dataset in ``dataset.json``.
        mapper: mapper that runs the passes, see :mod:`pipelines.data.mapping`. The result does not depend on it.
        exchange: for tasks on hosts that share no disk with this one: what they need travels through its storage, and the
            prepared data is published there, too.

    Returns:
        The content of ``dataset.json``.

    Raises:
        DataError: there is no data, no usable picture, or no picture of a domain; the data is not of ``settings.kind``; or
            the share of rejects or duplicates exceeds its limit (``OUT.rejects.csv`` lists them).
    """
    raw, out = Path(raw).resolve(), Path(out).resolve()
    note = readers.read_note(raw)
    kind, listing = arrange.arrange(
        raw,
        note,
        kind=settings.kind,
        pairs=settings.pairs,
        condition_side=settings.condition_side,
        attributes=settings.attributes,
    )
    for line in describe(kind, listing):
        log.info("%s: %s", name, line)
    if max(settings.size) > svg.LONGER_SIDE and any(map(is_svg, listing.entries.files)):
        log.warning(
            "%s: drawings (SVG) are rendered with %d pixels on the longer side and then enlarged to %dx%d, so that they lack "
            "detail. Convert them to PNG of that size first, or lower ingest.size.",
            *(raw, svg.LONGER_SIDE, *settings.size),
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    for left in out.parent.glob(f".{out.name}.parts-*"):
        shutil.rmtree(left)  # left by a killed run
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.parts-", dir=out.parent) as scratch:
        has_splits = listing.entries.splits() not in (set(), {""})
        hold_out = settings.test_share > 0 and not has_splits
        if settings.test_share > 0 and has_splits:
            log.warning("%s has its own splits; ingest.test_share (%s) is ignored.", raw, settings.test_share)
        specs = _Chunks(raw, note, listing.entries, Path(scratch), settings, hold_out, exchange)
        converted = _convert_all(specs, mapper, name)
        by_domain = kind in ("unpaired", "domains") and not listing.attributes
        share = settings.test_share if hold_out else None
        choice = choose(listing.entries, converted, by_domain=by_domain, test_share=share)
        rejects = sorted([*listing.rejects, *choice.rejects], key=lambda reject: (reject.source, reject.reason))
        limits = RejectLimits(settings.max_reject_share, settings.max_duplicate_share)
        check_rejects(rejects, len(listing.entries) + len(listing.rejects), limits, out, raw)
        warn_of_shared(choice.splits, listing.entries, converted, raw)
        if by_domain:
            labels = listing.entries.labels[converted.entries]
            arrange.check_domains(raw, listing, {split: labels[kept] for split, kept in choice.splits.items()})
        with atomic_write(out) as folder:
            folder.mkdir()
            info = _describe(name, kind, listing, choice.splits, converted, rejects, settings)
            write_text(folder / REJECTS_FILE, rejects_table(rejects))
            write_json(folder / DATASET_FILE, as_dict(info))
            plan = _Shards(choice.splits, specs, converted, listing, folder, settings)
            if exchange is not None:
                exchange.write_shards(mapper, plan, folder)
            else:
                for _ in mapper(write_shard, plan):
                    pass
    return info


def code_version() -> str:
    """Digest of the code that determines the result of ingestion."""
    here = Path(__file__).parent
    files = {here / f"{name}.py" for name in _OWN_MODULES} | {*(here / "readers").glob("*.py")}
    files |= {Path(ingest_settings.__file__), *Path(pictures.__file__).parent.glob("*.py")}
    digests = [sha256_file(path) for path in sorted(files, key=lambda path: path.as_posix())]
    return hashlib.sha256("".join(digests).encode()).hexdigest()[:16]


class _Chunks(Sequence[ChunkSpec]):
    """The chunks of the first pass. Each is made where it is asked for: together they would hold all pictures as objects.

    With an exchange, raw files on this host are sent when their chunk is made.
    """

    def __init__(
        self,
        raw: Path,
        note: SourceNote,
        entries: Entries,
        scratch: Path,
        settings: IngestSettings,
        hold_out: bool,
        exchange: Exchange | None,
    ) -> None:
        self.raw, self.entries = raw, entries
        self._note, self._scratch, self._settings, self._hold_out = note, scratch, settings, hold_out
        self._exchange = exchange
        self._objects = bucket.ObjectList(raw, note) if note.format == "bucket" else None
        self._object_positions = bucket.positions_of(self._objects, entries) if self._objects else []
        self._files = RawFiles(raw, exchange) if exchange is not None and self._objects is None else None
        self.max_failures = max_decoder_failures(len(entries), settings.max_reject_share)

    @property
    def settings(self) -> IngestSettings:
        """The settings of ingestion."""
        return self._settings

    @property
    def hold_out(self) -> bool:
        """Whether digests of the contents are needed."""
        return self._hold_out

    def part(self, chunk: int) -> Path:
        """Part file of a chunk."""
        return self._scratch / f"part-{chunk:06d}.arrow"

    def __len__(self) -> int:
        return -(-len(self.entries) // _CHUNK)

    @overload
    def __getitem__(self, at: int) -> ChunkSpec: ...
    @overload
    def __getitem__(self, at: slice) -> list[ChunkSpec]: ...
    def __getitem__(self, at: int | slice) -> ChunkSpec | list[ChunkSpec]:
        if isinstance(at, slice):
            return [self[number] for number in range(*at.indices(len(self)))]
        if not 0 <= at < len(self):
            raise IndexError(at)
        settings, entries = self._settings, tuple(self.entries[at * _CHUNK : (at + 1) * _CHUNK])
        return ChunkSpec(
            raw=self.raw,
            note=self._note,
            entries=entries,
            part=self.part(at),
            size=settings.size,
            channels=settings.channels,
            fit=settings.fit,
            digest_contents=self._hold_out,
            pairing=settings.pairing,
            max_failures=self.max_failures,
            objects=self._objects_of(at) if self._objects else None,
            exchange=self._exchange,
            sent=self._files.send(entries, f"raw-{at:06d}.tar") if self._files else None,
        )

    def _objects_of(self, at: int) -> bucket.Objects:
        assert self._objects is not None
        here = slice(at * _CHUNK, (at + 1) * _CHUNK)
        return self._objects.take(np.concatenate([positions[here] for positions in self._object_positions]))


def _convert_all(specs: _Chunks, mapper: Mapper, name: str) -> ConvertedPictures:
    total = len(specs.entries)
    converted = ConvertedPictures(total, _CHUNK, specs.settings.channels, contents=specs.hold_out)
    failures: list[Reject] = []
    with progress_bar(f"ingest {name}", total, unit="picture") as bar:
        for number, result in enumerate(mapper(convert, specs)):
            converted.add(number, result)
            failures += [reject for reject in result.rejects if reject.reason in DECODER_FAILURES]
            check_decoder_failures(failures, specs.max_failures, specs.raw)
            bar.update(min(_CHUNK, total - number * _CHUNK))
    return converted


class _Shards(Sequence[ShardSpec]):
    """The shards of all splits. Each is made where it is asked for."""

    def __init__(
        self,
        splits: Mapping[str, np.ndarray],
        specs: _Chunks,
        converted: ConvertedPictures,
        listing: Listing,
        folder: Path,
        settings: IngestSettings,
    ) -> None:
        self._splits, self._specs, self._converted, self._listing = splits, specs, converted, listing
        self._folder, self._settings = folder, settings
        size = settings.shard_pictures
        self._starts = [
            (split, index, start)
            for split, kept in sorted(splits.items())
            for index, start in enumerate(range(0, len(kept), size))
        ]

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, at: int) -> ShardSpec: ...
    @overload
    def __getitem__(self, at: slice) -> list[ShardSpec]: ...
    def __getitem__(self, at: int | slice) -> ShardSpec | list[ShardSpec]:
        if isinstance(at, slice):
            return [self[number] for number in range(*at.indices(len(self)))]
        split, index, start = self._starts[at]
        size, listing = self._settings.shard_pictures, self._listing
        kept = self._splits[split]
        members = kept[start : start + size]
        chunks, rows = self._converted.chunks[members], self._converted.rows[members].astype(np.int64)
        entries = self._converted.entries[members]
        return ShardSpec(
            path=self._folder / shard_name(split, index, -(-len(kept) // size)),
            split=split,
            first=start,
            parts=tuple(
                PartRows(part=self._specs.part(int(chunk)), rows=rows[chunks == chunk]) for chunk in np.unique(chunks)
            ),
            labels=listing.entries.labels[entries],
            sources=tuple(listing.entries.sources(entries)),
            classes=listing.classes,
            attributes=listing.attributes,
            attribute_values=attribute_values(listing.entries, entries, len(listing.attributes)),
            paired=self._settings.pairing is not None,
        )


def _describe(
    name: str,
    kind: str,
    listing: Listing,
    splits: Mapping[str, np.ndarray],
    converted: ConvertedPictures,
    rejects: Sequence[Reject],
    settings: IngestSettings,
) -> DatasetInfo:
    train = splits.get("train", np.empty(0, dtype=np.int64))
    if not len(train):
        raise DataError(f"{name}: the train split has no pictures. Lower ingest.test_share, or add pictures.")
    height, width = settings.size
    pixels = len(train) * height * width * 255
    totals, squares = converted.totals(train)
    mean = [total / pixels for total in totals]
    # Exact integers up to the last division: the variance of a constant channel is exactly 0.
    variance = [
        (square * (pixels // 255) - total * total) / pixels**2 for square, total in zip(squares, totals, strict=True)
    ]
    pairing = settings.pairing
    # The first versions supported unlabelled and labelled data only; their digests must not change.
    more = "" if kind in ("unlabelled", "labelled") else f" {kind}"
    if pairing:
        more += f" {pairing.pairs} {pairing.side} {pairing.channels}"
    more += "".join(f"\n{attribute}" for attribute in listing.attributes)
    digest = hashlib.sha256(f"{settings.channels}x{height}x{width}{more}".encode())
    for split, kept in sorted(splits.items()):
        digest.update(f"\n{split} {len(kept)}\n".encode())
        for start in range(0, len(kept), _BLOCK):
            members = kept[start : start + _BLOCK]
            at = converted.entries[members]
            labels = listing.entries.labels[at].astype(">i8").view(np.uint8).reshape(-1, 8)
            held = attribute_values(listing.entries, at, len(listing.attributes))
            columns = [converted.digests[members], labels, *([] if held is None else [held.view(np.uint8)])]
            digest.update(np.concatenate(columns, axis=1).tobytes())
    return DatasetInfo(
        format=FORMAT,
        name=name,
        kind=kind,
        channels=settings.channels,
        height=height,
        width=width,
        classes=listing.classes,
        attributes=listing.attributes,
        condition_channels=pairing.channels if pairing else 0,
        derived=pairing.pairs if pairing and pairing.pairs in DERIVED else "",
        splits={split: len(kept) for split, kept in sorted(splits.items())},
        mean=tuple(mean),
        std=tuple(value**0.5 for value in variance),
        digest=digest.hexdigest(),
        code_version=code_version(),
        rejects=dict(sorted(Counter(reject.reason for reject in rejects).items())),
    )
