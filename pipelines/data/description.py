"""Describe raw data in lines of text: its splits, classes and counts, and the files that are not used."""

from collections import Counter

from pipelines.data.readers.base import Listing, kinds

_SHOWN = 6


def describe(kind: str, listing: Listing) -> list[str]:
    """Describe a listing in lines of text: one for each split, then rejects, unused files and notes.

    Args:
        kind: kind of data, as :func:`pipelines.data.arrange.arrange` returns it.
        listing: the listing, likewise.
    """
    names = listing.attributes or listing.classes
    what = "attributes" if listing.attributes else "domains" if kind in ("unpaired", "domains") else "classes"
    of_split: dict[str, list[int]] = {}
    held: dict[str, Counter[int]] = {}
    for entry in listing.entries:
        of_split.setdefault(entry.split, []).append(entry.label)
        if listing.attributes:
            held.setdefault(entry.split, Counter()).update(n for n, holds in enumerate(entry.attributes) if holds)
    lines = []
    for split in sorted(of_split, key=lambda split: (split != "train", split)):
        counts = held.get(split) if listing.attributes else Counter(of_split[split])
        labels = f"; {len(names)} {what}: {_counts(counts or Counter(), names)}" if names else ", no labels"
        total = len(of_split[split])
        begin = split or "no splits"
        lines.append(f"{begin}: {total:,} {_noun(kind, total)}{labels if kind != 'paired' else ''}")
    if listing.rejects:
        reasons = ", ".join(
            f"{count} {reason}" for reason, count in Counter(r.reason for r in listing.rejects).most_common()
        )
        lines.append(f"rejected before reading: {reasons}")
    if listing.ignored:
        lines.append(f"not used: {kinds(listing.ignored)}")
    return lines + list(listing.notes)


def _noun(kind: str, count: int) -> str:
    return ("pair" if kind == "paired" else "picture") + ("" if count == 1 else "s")


def _counts(counts: Counter[int], names: tuple[str, ...]) -> str:
    """``cat 5, dog 4``; for many classes the first few, and the range of all counts."""
    first = ", ".join(f"{name} {counts[number]:,}" for number, name in enumerate(names[:_SHOWN]))
    if len(names) <= _SHOWN:
        return first
    numbers = [counts[number] for number in range(len(names))]
    return f"{first}, ... ({min(numbers):,} to {max(numbers):,} in each)"
