"""The difference between two prepared datasets: pictures by content, counts by split and class, and distances in features.

Two pictures are the same if their prepared pixels are. Equal files have equal pixels; only pictures without an equal file are
decoded, because another zlib compresses the same pixels to other bytes. If the shape of the pictures differs, no pixels can be
equal, and pictures are matched by the names of their source files.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gan_core.data import PreparedDataset
from gan_core.metrics.evaluate import compare
from gan_core.metrics.inception import Extractor
from gan_core.metrics.sources import DatasetSplit
from gan_core.shards import explain_damage, open_shard

FIGURES = ("fid", "kid", "coverage")
"""Figures between two datasets, by name. Coverage is the share of the new pictures that the old ones cover."""
_DUPLICATE = "duplicate"
_BATCH = 256


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two datasets."""

    name: str
    """How the user named it."""
    digest: str
    kind: str
    width: int
    height: int
    channels: int
    pictures: int
    duplicates: int
    """Duplicates that ingestion removed."""
    rejects: int
    """Other pictures that ingestion left out."""
    shared: int
    """Pictures that are in several splits or classes at once."""


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Pictures of a split or a class."""

    before: int
    after: int
    added: int
    """Pictures that the old data has nowhere."""
    removed: int
    """Pictures that the new data has nowhere."""


@dataclass(frozen=True, kw_only=True)
class DataDiff:
    """The difference between two datasets."""

    before: Side
    after: Side
    splits: dict[str, Counts]
    classes: dict[str, Counts]
    """By class or domain, over all splits; empty without labels. For attributes, pictures that have the attribute."""
    pictures: Counts
    """Over all splits."""
    moved: int
    """Pictures in both that are in other splits now."""
    relabelled: int
    """Pictures in both that have other classes or other attributes now."""
    matched_by: str
    """``content``, or ``name`` (of the source file) if the shape of the pictures differs."""
    figures: tuple[dict[str, Any], ...] = ()
    """FID, KID and coverage with their protocols."""
    omitted: dict[str, str] = field(default_factory=dict)
    """Figures that were not measured, with the reason."""

    @property
    def same(self) -> bool:
        """Whether both are the same data: equal pixels, splits and labels, in the same order, and the same names of classes."""
        renamed = any(counts.before != counts.after for counts in self.classes.values())
        return self.before.digest == self.after.digest and not renamed

    @property
    def share(self) -> float:
        """Pictures that were added, removed, moved or relabelled, as a share of the old ones."""
        changed = self.pictures.added + self.pictures.removed + self.moved + self.relabelled
        return changed / max(self.before.pictures, 1)

    def value(self, figure: str) -> float | None:
        """Value of a figure; None if it was not measured."""
        return next((entry["value"] for entry in self.figures if entry["name"] == figure), None)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "share": self.share, "same": self.same}


@dataclass(frozen=True)
class _Rows:
    """All pictures of a dataset, one row each."""

    keys: np.ndarray
    """uint64 (N,): digest of the content, or of the name of the source file."""
    splits: np.ndarray
    """int64 (N,): index of the split."""
    labels: np.ndarray
    """int64 (N,) of classes, (N, k) of attributes, (N, 0) without labels."""
    split_names: tuple[str, ...]
    label_names: tuple[str, ...]


def diff_datasets(
    before: PreparedDataset, after: PreparedDataset, names: tuple[str, str]
) -> tuple[DataDiff, list[int]]:
    """Compare the pictures of two datasets, without figures.

    Args:
        before: the old data.
        after: the new data.
        names: how the user named them.

    Returns:
        The difference, and the rows of added pictures in the split train of the new data.

    Raises:
        DataError: a shard is damaged.
    """
    shapes = [(d.info.channels, d.info.height, d.info.width, d.info.condition_channels) for d in (before, after)]
    by_name = shapes[0] != shapes[1]
    old, new = (_rows(dataset, by_name=by_name) for dataset in (before, after))
    if not by_name:
        _match_pixels((before, after), old, new)
    added, removed = ~np.isin(new.keys, old.keys), ~np.isin(old.keys, new.keys)
    moved, relabelled = _changed(old, new)
    splits = {
        name: _counts(_in_split(old, name), _in_split(new, name), removed, added)
        for name in dict.fromkeys((*old.split_names, *new.split_names))
    }
    classes = {
        name: _counts(_in_class(old, name), _in_class(new, name), removed, added)
        for name in dict.fromkeys((*old.label_names, *new.label_names))
    }
    everything = [np.ones(len(rows.keys), bool) for rows in (old, new)]
    diff = DataDiff(
        before=_side(before, names[0], old),
        after=_side(after, names[1], new),
        splits=splits,
        classes=classes,
        pictures=_counts(everything[0], everything[1], removed, added),
        moved=moved,
        relabelled=relabelled,
        matched_by="name" if by_name else "content",
    )
    train = _in_split(new, "train")
    return diff, np.flatnonzero(added[train]).tolist()


def measure_figures(
    before: PreparedDataset,
    after: PreparedDataset,
    *,
    extractor: Extractor,
    count: int,
    split: str = "train",
    cache_dir: Path | None = None,
    progress: bool = False,
) -> tuple[tuple[dict[str, Any], ...], dict[str, str]]:
    """FID, KID and coverage between the same split of two datasets; the new data is the real side.

    Args:
        before: the old data.
        after: the new data.
        extractor: from ``load_inception``.
        count: largest number of pictures of each side, a fixed random subset.
        split: name of the split.
        cache_dir: folder of features; None uses the user's cache.
        progress: whether to show progress bars.

    Returns:
        The figures as plain values, and those that could not be measured, with the reason.

    Raises:
        DataError: one of them has no such split.
    """
    old, new = DatasetSplit(before, split), DatasetSplit(after, split)
    found = compare(
        new,
        old,
        extractor=extractor,
        real_count=min(count, new.available()),
        fake_count=min(count, old.available()),
        warn=False,
        cache_dir=cache_dir,
        progress=progress,
    )
    figures = tuple(figure.as_dict() for figure in found.figures() if figure.name in FIGURES)
    return figures, {name: why for name, why in found.omitted.items() if name in FIGURES}


def added_pictures(after: PreparedDataset, rows: Sequence[int], count: int) -> Tensor:
    """At most ``count`` of the added pictures in the split train, evenly spread: uint8 (n, C, H, W)."""
    chosen = np.array(rows, np.int64)[np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int))]
    return torch.from_numpy(np.array(after.streaming().pixels("train")[chosen]))


def _rows(dataset: PreparedDataset, *, by_name: bool) -> _Rows:
    info = dataset.info
    splits = tuple(sorted(info.splits))
    keys, numbers, labels = [], [], []
    for number, split in enumerate(splits):
        found = np.fromiter(_keys(dataset, split, by_name=by_name), np.uint64)
        keys.append(found)
        numbers.append(np.full(len(found), number))
        given = dataset.labels(split)
        labels.append(np.empty((len(found), 0), np.int64) if given is None else given)
    return _Rows(
        keys=np.concatenate(keys),
        splits=np.concatenate(numbers),
        labels=np.concatenate(labels),
        split_names=splits,
        label_names=info.attributes or info.classes,
    )


def _keys(dataset: PreparedDataset, split: str, *, by_name: bool) -> Iterator[int]:
    """A 64-bit digest of the file of each picture (and of its condition), or of the name of its source file."""
    pictures = ["image", *(["condition"] if dataset.info.condition_channels else [])]
    for shard in dataset.shards(split):
        with explain_damage(shard):
            columns = ["source"] if by_name else pictures
            for batch in open_shard(shard).iter_batches(columns=columns, batch_size=_BATCH):
                parts = [batch.column(name) if by_name else batch.column(name).field("bytes") for name in columns]
                for values in zip(*(part.to_pylist() for part in parts), strict=True):
                    yield _digest(value.encode() if by_name else value for value in values)


def _match_pixels(datasets: tuple[PreparedDataset, PreparedDataset], old: _Rows, new: _Rows) -> None:
    """Give the pictures of ``new`` the keys of those of ``old`` with equal pixels. Pictures with equal files have them."""
    others = [np.flatnonzero(~np.isin(one.keys, other.keys)) for one, other in ((old, new), (new, old))]
    if not all(map(len, others)):
        return
    pixels = [
        np.fromiter(_pixel_keys(dataset, rows, at), np.uint64)
        for dataset, rows, at in zip(datasets, (old, new), others, strict=True)
    ]
    known, first = np.unique(pixels[0], return_index=True)
    place = np.searchsorted(known, pixels[1]).clip(max=len(known) - 1)
    same = known[place] == pixels[1]
    new.keys[others[1][same]] = old.keys[others[0][first[place[same]]]]


def _pixel_keys(dataset: PreparedDataset, rows: _Rows, at: np.ndarray) -> Iterator[int]:
    """A 64-bit digest of the pixels of the pictures ``at`` (ascending rows of all splits), and of their conditions."""
    streamed = dataset.streaming()
    for number, split in enumerate(rows.split_names):
        inside = at[rows.splits[at] == number] - np.searchsorted(rows.splits, number)
        if not len(inside):
            continue
        columns = [column for column in (streamed.pixels(split), streamed.conditions(split)) if column is not None]
        for start in range(0, len(inside), _BATCH):
            chosen = inside[start : start + _BATCH]
            for values in zip(*(column[chosen] for column in columns), strict=True):
                yield _digest(value.data for value in values)


def _digest(values: Iterable[bytes | memoryview]) -> int:
    digest = hashlib.blake2b(digest_size=8)
    for value in values:
        digest.update(value)
    return int.from_bytes(digest.digest(), "big")


def _in_split(rows: _Rows, name: str) -> np.ndarray:
    if name not in rows.split_names:
        return np.zeros(len(rows.keys), bool)
    return rows.splits == rows.split_names.index(name)


def _in_class(rows: _Rows, name: str) -> np.ndarray:
    if name not in rows.label_names:
        return np.zeros(len(rows.keys), bool)
    index = rows.label_names.index(name)
    return rows.labels[:, index] == 1 if rows.labels.ndim == 2 else rows.labels == index


def _counts(before: np.ndarray, after: np.ndarray, removed: np.ndarray, added: np.ndarray) -> Counts:
    return Counts(
        before=int(before.sum()),
        after=int(after.sum()),
        added=int((after & added).sum()),
        removed=int((before & removed).sum()),
    )


def _changed(old: _Rows, new: _Rows) -> tuple[int, int]:
    """Numbers of pictures that both have, in other splits or with other labels. A picture may be in several of either."""
    splits = [np.array(rows.split_names, dtype=object)[rows.splits] for rows in (old, new)]
    labels = [_named(rows) for rows in (old, new)]
    return _differing(old.keys, new.keys, *splits), _differing(old.keys, new.keys, *labels)


def _differing(old: np.ndarray, new: np.ndarray, of_old: Iterable[str], of_new: Iterable[str]) -> int:
    """The number of keys in both ``old`` and ``new`` for which the set of values, ``of_old`` and ``of_new``, differs."""
    both, numbers = np.intersect1d(_distinct(old), _distinct(new), assume_unique=True), dict[str, int]()
    pairs = []
    for keys, values in ((old, of_old), (new, of_new)):
        codes = np.fromiter((numbers.setdefault(value, len(numbers)) for value in values), np.int64, len(keys))
        known = np.isin(keys, both)
        pairs.append((np.searchsorted(both, keys[known]), codes[known]))
    # A pair of a key and a value as one number.
    one, other = (_distinct(at * len(numbers) + codes) for at, codes in pairs)
    return len(_distinct(np.setxor1d(one, other, assume_unique=True) // max(len(numbers), 1)))


def _distinct(values: np.ndarray) -> np.ndarray:
    """The distinct values, sorted. With the indices, numpy sorts; without them it hashes, ten times slower for digests."""
    return np.unique(values, return_index=True)[0]


def _named(rows: _Rows) -> Iterable[str]:
    """The label of each picture by name: of several attributes, all of them."""
    names = np.array(rows.label_names, dtype=object)
    if rows.labels.ndim == 1:
        return names[rows.labels]
    return [" ".join(sorted(map(str, names[has == 1]))) for has in rows.labels]


def _side(dataset: PreparedDataset, name: str, rows: _Rows) -> Side:
    info = dataset.info
    return Side(
        name=name,
        digest=info.digest,
        kind=info.kind,
        width=info.width,
        height=info.height,
        channels=info.channels,
        pictures=len(rows.keys),
        duplicates=info.rejects.get(_DUPLICATE, 0),
        rejects=sum(count for reason, count in info.rejects.items() if reason != _DUPLICATE),
        shared=len(rows.keys) - len(np.unique(rows.keys)),
    )
