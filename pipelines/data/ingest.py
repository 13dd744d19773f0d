"""Ingestion: turn raw data into a prepared data set. Equal input gives equal bytes, for any number of workers.

Ingestion has three passes. *Convert* decodes, fits and encodes the pictures in runs of fixed length, each run into its own
part file. *Choose* removes duplicates by the digests of all pictures, and assigns splits. *Assemble* writes the remaining
rows of the part files as shards. A mapper runs the first and the last pass.
"""

import hashlib
import logging
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gan_core.config import as_dict
from gan_core.data import DATASET_FILE, FORMAT, DatasetInfo
from gan_core.download.fetch import progress_bar
from gan_core.errors import DataError
from gan_core.files import replacing, sha256_file, write_json, write_text
from gan_core.images import pictures
from pipelines.data import arrange, readers
from pipelines.data.convert import Converted, RunSpec, convert
from pipelines.data.description import describe
from pipelines.data.mapping import Mapper, map_here
from pipelines.data.readers.base import Entry, Listing, Reject, SourceNote
from pipelines.data.rejects import (
    DECODER_FAILURES,
    DUPLICATE,
    Limits,
    check_decoder_failures,
    check_rejects,
    max_decoder_failures,
    rejects_table,
)
from pipelines.data.shards import Piece, ShardSpec, shard_name, write_shard
from pipelines.settings import ingest as ingest_settings
from pipelines.settings.ingest import DERIVED, IngestSettings

log = logging.getLogger(__name__)

REJECTS_FILE = "rejects.csv"
_RUN = 256  # pictures in one run; does not affect the result, so it is not a setting


@dataclass(frozen=True)
class _Kept:
    """A picture of the prepared data set, with the run and the row of the part file that hold its PNG."""

    entry: Entry
    run: int
    row: int


def ingest(
    raw: Path | str,
    out: Path | str,
    settings: IngestSettings,
    *,
    name: str,
    map_shards: Mapper = map_here,
) -> DatasetInfo:
    """Turn the raw data in ``raw`` into a prepared data set in ``out``, which is written completely or not at all.

    Pictures, or pairs, of one split whose prepared pixels are equal are duplicates; the one whose path sorts first is kept.
    In unpaired data, and in domains that are classes, duplicates are within one domain only.

    Args:
        raw: folder from ``gantry data fetch`` or ``gantry data add``, or any folder of pictures; it is not modified.
        out: folder to write; an existing one is replaced.
        settings: shape, splits and limits.
        name: name of the data set in ``dataset.json``.
        map_shards: mapper that runs the passes, see :mod:`pipelines.data.mapping`. The result does not depend on it.

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
    out.parent.mkdir(parents=True, exist_ok=True)
    for left in out.parent.glob(f".{out.name}.parts-*"):
        shutil.rmtree(left)  # left by a killed run
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.parts-", dir=out.parent) as scratch:
        if settings.test_share > 0 and _has_splits(listing.entries):
            log.warning("%s has its own splits; ingest.test_share (%s) is ignored.", raw, settings.test_share)
        specs = _runs(raw, note, listing.entries, Path(scratch), settings)
        converted = _convert_all(specs, map_shards, len(listing.entries), name)
        by_domain = kind in ("unpaired", "domains") and not listing.attributes
        splits, rejects = _choose(specs, converted, settings, by_domain=by_domain)
        rejects = sorted([*listing.rejects, *rejects], key=lambda reject: (reject.source, reject.reason))
        limits = Limits(settings.max_reject_share, settings.max_duplicate_share)
        check_rejects(rejects, len(listing.entries) + len(listing.rejects), limits, out, raw)
        _warn_of_shared(splits, converted, raw)
        if by_domain:
            arrange.check_domains(raw, listing, {name: [k.entry for k in kept] for name, kept in splits.items()})
        with replacing(out) as folder:
            folder.mkdir()
            plan = _shards(splits, specs, listing, folder, settings)
            for _ in map_shards(write_shard, plan):
                pass
            info = _describe(name, kind, listing, splits, converted, rejects, settings)
            write_text(folder / REJECTS_FILE, rejects_table(rejects))
            write_json(folder / DATASET_FILE, as_dict(info))
    return info


def code_version() -> str:
    """Digest of the code that determines the result of ingestion."""
    here = Path(__file__).parent
    own = ["arrange", "convert", "ingest", "mapping", "names", "pairs", "rejects", "shards"]
    files = {here / f"{name}.py" for name in own} | {*(here / "readers").glob("*.py")}
    files |= {Path(ingest_settings.__file__), *Path(pictures.__file__).parent.glob("*.py")}
    digests = [sha256_file(path) for path in sorted(files, key=lambda path: path.as_posix())]
    return hashlib.sha256("".join(digests).encode()).hexdigest()[:16]


def _runs(
    raw: Path, note: SourceNote, entries: Sequence[Entry], scratch: Path, settings: IngestSettings
) -> list[RunSpec]:
    hold_out = settings.test_share > 0 and not _has_splits(entries)
    return [
        RunSpec(
            raw=raw,
            note=note,
            entries=tuple(entries[start : start + _RUN]),
            part=scratch / f"part-{start // _RUN:06d}.arrow",
            size=settings.size,
            channels=settings.channels,
            fit=settings.fit,
            digest_contents=hold_out,
            pairing=settings.pairing,
            max_failures=max_decoder_failures(len(entries), settings.max_reject_share),
        )
        for start in range(0, len(entries), _RUN)
    ]


def _has_splits(entries: Sequence[Entry]) -> bool:
    return any(entry.split for entry in entries)


def _convert_all(specs: Sequence[RunSpec], mapper: Mapper, total: int, name: str) -> list[Converted]:
    results: list[Converted] = []
    ended: list[Reject] = []
    with progress_bar(f"ingest {name}", total, unit="picture") as bar:
        for spec, result in zip(specs, mapper(convert, specs), strict=True):
            results.append(result)
            ended += [reject for reject in result.rejects if reject.reason in DECODER_FAILURES]
            check_decoder_failures(ended, spec.max_failures, spec.raw)
            bar.update(len(spec.entries))
    return results


def _choose(
    specs: Sequence[RunSpec], converted: Sequence[Converted], settings: IngestSettings, *, by_domain: bool
) -> tuple[dict[str, list[_Kept]], list[Reject]]:
    """The pictures of each split in order, and all rejects."""
    rejects = [reject for result in converted for reject in result.rejects]
    first: dict[tuple[str, int, bytes], Entry] = {}

    def key_of(entry: Entry, digest: np.ndarray) -> tuple[str, int, bytes]:
        return entry.split, entry.label if by_domain else 0, digest.tobytes()

    for spec, result in zip(specs, converted, strict=True):
        for position, digest in zip(result.positions, result.pixel_digests, strict=True):
            entry = spec.entries[position]
            key = key_of(entry, digest)
            if key not in first or (entry.file, entry.row) < (first[key].file, first[key].row):
                first[key] = entry
    splits: dict[str, list[_Kept]] = {}
    for number, (spec, result) in enumerate(zip(specs, converted, strict=True)):
        for row, position in enumerate(result.positions):
            entry = spec.entries[position]
            kept = first[key_of(entry, result.pixel_digests[row])]
            if kept is not entry:
                alike = (kept.label, kept.attributes) == (entry.label, entry.attributes)
                other = "" if alike else ", which has another label"
                rejects.append(Reject(entry.source, DUPLICATE, f"same prepared pixels as {kept.source}{other}"))
                continue
            split = entry.split or "train"
            if spec.digest_contents:
                split = _split_of(result.content_digests[row], settings.test_share)
            splits.setdefault(split, []).append(_Kept(entry, number, row))
    return splits, rejects


def _warn_of_shared(splits: dict[str, list[_Kept]], converted: Sequence[Converted], raw: Path) -> None:
    """Warn of pictures in other splits that are also training pictures: they bias the evaluation."""

    def digests(kept: Sequence[_Kept]) -> dict[bytes, Entry]:
        return {converted[one.run].pixel_digests[one.row].tobytes(): one.entry for one in kept}

    trained = digests(splits.get("train", [])) if len(splits) > 1 else {}
    for split, kept in sorted(splits.items()):
        shared = sorted(set(digests(kept)) & set(trained)) if split != "train" else []
        if shared:
            example = digests(kept)[shared[0]].source
            log.warning(
                "%s: %d pictures of the %s split are also in the train split (for example %s and %s).",
                *(raw, len(shared), split, example, trained[shared[0]].source),
            )


def _split_of(digest: np.ndarray, test_share: float) -> str:
    """Assign a picture to ``test`` or ``train`` by its digest, so that adding pictures moves no other picture."""
    return "test" if int.from_bytes(digest[:8].tobytes(), "big") < test_share * 2**64 else "train"


def _shards(
    splits: dict[str, list[_Kept]],
    specs: Sequence[RunSpec],
    listing: Listing,
    folder: Path,
    settings: IngestSettings,
) -> list[ShardSpec]:
    plan = []
    size, k = settings.shard_pictures, len(listing.attributes)
    for split, kept in sorted(splits.items()):
        starts = range(0, len(kept), size)
        for index, start in enumerate(starts):
            members = kept[start : start + size]
            by_run: dict[int, list[int]] = {}
            for member in members:
                by_run.setdefault(member.run, []).append(member.row)
            plan.append(
                ShardSpec(
                    path=folder / shard_name(split, index, len(starts)),
                    split=split,
                    first=start,
                    pieces=tuple(
                        Piece(part=specs[run].part, rows=np.array(rows, dtype=np.int64)) for run, rows in by_run.items()
                    ),
                    labels=np.array([member.entry.label for member in members], dtype=np.int64),
                    sources=tuple(member.entry.source for member in members),
                    classes=listing.classes,
                    attributes=listing.attributes,
                    held=np.array([list(m.entry.attributes) for m in members], dtype=np.int8).reshape(-1, k)
                    if k
                    else None,
                    paired=settings.pairing is not None,
                )
            )
    return plan


def _describe(
    name: str,
    kind: str,
    listing: Listing,
    splits: dict[str, list[_Kept]],
    converted: Sequence[Converted],
    rejects: Sequence[Reject],
    settings: IngestSettings,
) -> DatasetInfo:
    train = splits.get("train", [])
    if not train:
        raise DataError(f"{name}: the train split has no pictures. Lower ingest.test_share, or add pictures.")
    height, width = settings.size
    pixels = len(train) * height * width * 255
    totals = [sum(int(converted[k.run].sums[k.row, c]) for k in train) for c in range(settings.channels)]
    squares = [sum(int(converted[k.run].squares[k.row, c]) for k in train) for c in range(settings.channels)]
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
        for member in kept:
            digest.update(converted[member.run].pixel_digests[member.row].tobytes())
            digest.update(member.entry.label.to_bytes(8, "big", signed=True))
            digest.update(member.entry.attributes)
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
