"""Describe raw data in lines of text: its splits, classes and counts, and the files that are not used."""

from collections import Counter

import numpy as np
import pyarrow as pa

from pipelines.data.readers.base import Listing, summarize_suffixes

_SHOWN = 6


def describe(kind: str, listing: Listing) -> list[str]:
    """Describe a listing in lines of text: one for each split, then rejects, unused files and notes.

    Args:
        kind: kind of data, from :func:`pipelines.data.arrange.arrange`.
        listing: the listing, from the same call.
    """
    names = listing.attributes or listing.classes
    what = "attributes" if listing.attributes else "domains" if kind in ("unpaired", "domains") else "classes"
    entries = listing.entries
    lines = []
    for split in sorted(entries.splits(), key=lambda split: (split != "train", split)):
        members = entries.split_codes == entries.split_names.index(split)
        if listing.attributes and entries.attributes is not None:
            held = b"".join(one for one in entries.attributes.filter(pa.array(members)).to_pylist())
            counts = np.frombuffer(held, dtype=np.uint8).reshape(-1, len(names)).sum(axis=0, dtype=np.int64)
        else:
            labels = entries.labels[members]
            counts = np.bincount(labels[labels >= 0], minlength=len(names))
        labels_said = f"; {len(names)} {what}: {_counts(counts, names)}" if names else ", no labels"
        total = int(members.sum())
        begin = split or "no splits"
        lines.append(f"{begin}: {total:,} {_noun(kind, total)}{labels_said if kind != 'paired' else ''}")
    if listing.rejects:
        reasons = ", ".join(
            f"{count} {reason}" for reason, count in Counter(r.reason for r in listing.rejects).most_common()
        )
        lines.append(f"rejected before reading: {reasons}")
    if listing.ignored:
        lines.append(f"not used: {summarize_suffixes(listing.ignored)}")
    return lines + list(listing.notes)


def _noun(kind: str, count: int) -> str:
    return ("pair" if kind == "paired" else "picture") + ("" if count == 1 else "s")


def _counts(counts: np.ndarray, names: tuple[str, ...]) -> str:
    """``cat 5, dog 4``; for many classes the first few, and the range of all counts."""
    first = ", ".join(f"{name} {counts[number]:,}" for number, name in enumerate(names[:_SHOWN]))
    if len(names) <= _SHOWN:
        return first
    numbers = [counts[number] for number in range(len(names))]
    low, high = min(numbers), max(numbers)
    return f"{first}, ... ({f'{low:,}' if low == high else f'{low:,} to {high:,}'} in each)"
