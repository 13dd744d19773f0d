"""Detect the kind of raw data from its layout, and arrange its pictures as pairs, domains, classes or without labels."""

import logging
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from gan_core.errors import DataError
from pipelines.data import partners, readers
from pipelines.data.names import check_class_names
from pipelines.data.readers import table
from pipelines.data.readers.base import Entries, Listing, Reject, SourceNote, split_column
from pipelines.data.readers.entries import Texts
from pipelines.data.readers.folder import folders_without_pictures, shuffle_by_hash
from pipelines.data.readers.layout import Places, read_layout, split_and_domain
from pipelines.data.rejects import HIDDEN_LABEL
from pipelines.settings.ingest import DERIVED, Kind, Pairs, Side

log = logging.getLogger(__name__)


def arrange(
    root: Path,
    note: SourceNote,
    *,
    kind: Kind = "auto",
    pairs: Pairs = "folders",
    condition_side: Side = "first",
    attributes: Sequence[str] = (),
) -> tuple[str, Listing]:
    """Arrange the pictures of ``root`` as data of ``kind``.

    Args:
        root: the raw data.
        note: how to read it.
        kind: ``unpaired`` needs folders trainA and trainB, or two classes; ``domains`` needs a table of attributes, or two or
            more classes; ``paired`` needs pairs as in ``pairs``, and ignores labels. ``auto`` chooses ``unpaired`` for trainA
            and trainB, ``domains`` for a table of attributes, otherwise ``labelled`` or ``unlabelled``.
        pairs: ``folders`` needs two folders with equal file names (suffixes may differ), inside folders train and
            test or containing them, or named trainA and trainB.
        condition_side: the folder, in the order of names, that holds the conditions.
        attributes: attributes of the table to use, in this order; empty: all.

    Returns:
        The kind, which is never ``auto``, and the listing.

    Raises:
        DataError: ``root`` does not hold data of this kind, the folder of a domain holds no picture, or pictures are beside
            trainA and trainB. The message states what was found.
    """
    if kind == "domains":
        note = _with_attributes(root, note, attributes)
        if table.is_attribute_table(root, note, wanted=bool(attributes)):
            listing = _require_entries(table.list_attributes(root, note, attributes), root)
            return kind, _labelled(_check_listing(listing, root), root)
        if attributes:
            if note.format == "folder" and (flaw := table.why_no_attributes(root, attributes)):
                raise DataError(flaw)
            raise DataError(
                f"{root} has no table of attributes, which ingest.attributes needs. Add one with: gantry data add NAME PATH "
                "--labels FILE"
            )
    if kind == "paired" and pairs == "folders":
        note = _without_labels(root, note)
    listing = _check_listing(readers.list_pictures(root, note), root)
    if listing.configurations and (
        kind in ("auto", "labelled", "unlabelled") or (kind == "paired" and pairs != "folders")
    ):
        raise DataError(f"{root}: {listing.configurations}")
    by_folders = note.format in ("folder", "bucket")
    places = _FoundPlaces(read_layout(listing.entries.files).places) if by_folders else _FoundPlaces()
    _check_beside(root, listing, places)
    two = _two_domains(listing, places, note)
    if kind == "unlabelled" or (kind == "paired" and pairs != "folders"):
        # trainA and testA still name splits here; A and B do not matter.
        return kind, _without_annotations(two or listing)
    if kind == "paired":
        return kind, _pairs(root, note, listing, places, condition_side)
    if note.format == "folder":
        if kind == "domains" and not listing.classes and (flaw := table.why_no_attributes(root)):
            raise DataError(flaw)
        if kind in ("unpaired", "domains") or (kind == "auto" and two is not None):
            _check_folders(root, listing)
    if kind == "auto":
        if two is not None:
            return "unpaired", two
        kind = "domains" if listing.attributes else "labelled" if listing.classes else "unlabelled"
        return kind, _labelled(listing, root)
    listing = two or listing
    if kind == "unpaired":
        if len(listing.classes) != 2:
            raise DataError(
                f"{root}: unpaired data needs two domains; {_describe_found(listing, places)}. Arrange the pictures in "
                "folders trainA and trainB (and testA and testB for a test split), or in one folder for each domain."
            )
    elif len(listing.classes) < (2 if kind == "domains" else 1):
        what = (
            "two or more folders, or a table of attributes" if kind == "domains" else "class folders or a label table"
        )
        raise DataError(
            f"{root}: {kind} data needs {what}; {_describe_found(listing, places)}. Add them, or change ingest.kind."
        )
    return kind, _labelled(listing, root)


def check_domains(root: Path, listing: Listing, kept: Mapping[str, np.ndarray]) -> None:
    """Raise DataError if a split has no picture of a domain after rejects are removed.

    Args:
        root: the raw data, for the message.
        listing: names the domains.
        kept: int64 (n,), the labels of the pictures of each split.
    """
    for split, labels in sorted(kept.items()):
        there = set(np.unique(labels).tolist())
        empty = [name for label, name in enumerate(listing.classes) if label not in there]
        if empty:
            raise DataError(
                f"{root}: the {split} split has no usable picture of {_join_names(empty)}; every split needs pictures of every "
                f"domain ({', '.join(listing.classes)}). Add pictures, or change ingest.test_share."
            )


@dataclass(frozen=True)
class _Place:
    """The split, folder and path of a picture."""

    split: str
    side: str
    """The folder of its domain or of its side of the pairs."""
    name: str
    """Path within that folder."""
    fixed: bool
    """Whether the folder is named trainA, trainB, testA, ..."""


class _FoundPlaces:
    """The places of a listing's entries; None for a picture outside all folders."""

    def __init__(self, places: Places | None = None) -> None:
        self.places = places
        self.folders = [_place(*folder, "") for folder in sorted(places.folders)] if places else []
        """The place of each folder."""

    def __iter__(self) -> Iterator[_Place | None]:
        return (_place(place.split, place.folder, place.name) for place in self.places or ())


def _place(split: str, folder: str, name: str) -> _Place | None:
    if not folder:
        return None
    if not split and (own := split_and_domain(folder)):
        return _Place(*own, name, True)
    return _Place(split, folder, name, False)


def _two_domains(listing: Listing, found: _FoundPlaces, note: SourceNote) -> Listing | None:
    """The listing as domains A and B if all pictures are in folders trainA, trainB, ...; otherwise None."""
    if found.places is None or not found.folders or not all(place and place.fixed for place in found.folders):
        return None
    names = note.classes if len(note.classes) == 2 else ("A", "B")
    splits = sorted({place.split for place in found.folders if place})
    own = {folder: _place(*folder, "") for folder in found.places.folders}

    def label(split: str, folder: str) -> int:
        place = own[split, folder]
        return "AB".index(place.side) if place else -1

    def code(split: str, folder: str) -> int:
        place = own[split, folder]
        return splits.index(place.split) if place and len(splits) > 1 else 0

    entries = listing.entries.relabelled(
        found.places.map(label), found.places.map(code).astype(np.int16), splits if len(splits) > 1 else ("",)
    )
    return replace(listing, entries=entries, classes=names)


def _check_beside(root: Path, listing: Listing, found: _FoundPlaces) -> None:
    """Raise DataError if pictures are beside trainA and trainB, which are two domains."""
    if {place.side for place in found.folders if place is not None and place.fixed} != {"A", "B"}:
        return
    if all(place is not None and place.fixed for place in found.folders):
        return
    beside = {
        file if place is None else file.removesuffix(f"/{place.name}")
        for file, place in zip(listing.entries.files, found, strict=True)
        if place is None or not place.fixed
    }
    if beside:
        raise DataError(
            f"{root}: {_names_are(beside)} beside the folders of two domains (trainA, trainB, ...). Move the pictures "
            "into one of these folders, or remove them."
        )


def _check_folders(root: Path, listing: Listing) -> None:
    """Raise DataError if the folder of a domain holds no picture."""
    bare = folders_without_pictures(root, listing.entries.files)
    if bare:
        raise DataError(
            f"{root}: no pictures in {_join_names(bare)}, and each folder is a domain. Add pictures, or remove the folder."
        )


def _without_labels(root: Path, note: SourceNote) -> SourceNote:
    """``note`` without its label table, so that the pictures are read by their folders."""
    if note.format == "table" and split_column(table.column_names(labels := table.label_table(root, note))):
        log.warning("Pairs come from folders; the column 'split' of %s is ignored.", labels)
    return replace(note, format="folder") if note.format in ("table", "stylegan") else note


def _pairs(root: Path, note: SourceNote, listing: Listing, found: _FoundPlaces, condition_side: Side) -> Listing:
    sides = sorted({place.side for place in found.folders if place is not None})
    other_ways = f"set ingest.pairs to side-by-side, {', '.join(DERIVED[:-1])} or {DERIVED[-1]}"
    if not sides:
        raise DataError(
            f"{root}: pairs need two folders with equal file names; these pictures are not in folders (read as "
            f"'{note.format}'). Change the layout, or {other_ways}."
        )
    if None in found.folders:
        raise DataError(
            f"{root}: pairs need two folders with equal file names; {_names_are(_outside(listing, found))} outside "
            "folders. Move these pictures into a folder, or remove them."
        )
    if len(sides) != 2:
        raise DataError(
            f"{root}: pairs need two folders with equal file names; found {len(sides)}: {_join_names(sides)}. Keep two, or "
            f"{other_ways}."
        )
    condition, target = sides if condition_side == "first" else sides[::-1]
    assert found.places is not None  # there are sides
    own = {folder: _place(*folder, "") for folder in found.places.folders}
    splits = sorted({place.split for place in own.values() if place})

    def side_number(split: str, folder: str) -> int:
        place = own[split, folder]
        return (target, condition).index(place.side) if place else -1

    def split_code(split: str, folder: str) -> int:
        place = own[split, folder]
        return splits.index(place.split) if place and len(splits) > 1 else 0

    entries = listing.entries
    keys = Texts.of(partners.key(place.split, place.name) for place in found if place is not None)
    codes = found.places.map(split_code).astype(np.int16)
    on = found.places.map(side_number)
    ours, theirs = (np.flatnonzero(on == number) for number in range(2))
    for positions in (ours, theirs):
        if equal := partners.find_equal(keys.take(positions)):
            names = sorted(entries.files[int(positions[at])] for at in equal)
            raise DataError(
                f"{root}: {' and '.join(names)} have the same name, in folders of the same split and side, so that their "
                "partner is ambiguous. Rename one of them, or remove one of the folders."
            )
    partner = partners.match(keys.take(ours), keys.take(theirs))
    paired = partner >= 0
    if not paired.any():
        one, another = sorted([(target, ours), (condition, theirs)])
        raise DataError(
            f"{root}: the two folders have no file name in common (for example {entries.files[int(one[1][0])]} and "
            f"{entries.files[int(another[1][0])]}). Give the two pictures of a pair equal names."
        )
    kept, conditions = ours[paired], theirs[partner[paired]]
    alone = [
        Reject(entries.files[int(at)], "no-partner", f"{other} has no {partners.shown(keys[int(at)])}")
        for other, lonely in ((condition, ours[~paired]), (target, np.setdiff1d(theirs, conditions)))
        for at in lonely
    ]
    rejects = sorted([*listing.rejects, *alone], key=lambda reject: reject.source)
    pairs = Entries(
        entries.files.take(kept),
        rows=entries.rows[kept],
        split_codes=codes[kept],
        split_names=splits if len(splits) > 1 else ("",),
        conditions=entries.files.take(conditions),
    )
    return replace(listing, entries=shuffle_by_hash(pairs), classes=(), rejects=rejects)


def _with_attributes(root: Path, note: SourceNote, wanted: Sequence[str]) -> SourceNote:
    """``note`` with the table of attributes beside the pictures, unless the note names a label table."""
    if note.format != "folder" or (found := table.find_attribute_table(root, wanted)) is None:
        return note
    # Class folders are domains, unless settings ask for attributes.
    if not wanted and readers.list_pictures(root, note).classes:
        return note
    return replace(note, format="table", labels=found.relative_to(root).as_posix())


def _check_listing(listing: Listing, root: Path) -> Listing:
    """Return ``listing``; raise DataError if its layout is ambiguous or a class name is not printable."""
    if listing.ambiguity:
        raise DataError(f"{root}: {listing.ambiguity}")
    check_class_names([*listing.classes, *listing.attributes], root)
    return listing


def _labelled(listing: Listing, root: Path) -> Listing:
    """Reject the pictures of splits whose labels are not published, and add a note."""
    entries = listing.entries
    if listing.attributes:
        if entries.attributes is None:
            return listing
        used = pc.binary_length(entries.attributes).to_numpy(zero_copy_only=False) > 0
    elif listing.classes:
        used = entries.labels >= 0
    else:
        return listing
    hidden = entries.take(np.flatnonzero(~used))
    lost = Counter(entry.split for entry in hidden)
    said = [
        f"{count} pictures of the {split} split have no label and are not used (ingest.kind: unlabelled uses them)"
        for split, count in sorted(lost.items())
    ]
    rejects = [Reject(entry.source, HIDDEN_LABEL, f"the {entry.split} split has no labels") for entry in hidden]
    kept = entries.take(np.flatnonzero(used)) if len(hidden) else entries
    return replace(listing, entries=kept, rejects=[*listing.rejects, *rejects], notes=(*listing.notes, *said))


def _require_entries(listing: Listing, root: Path) -> Listing:
    if not listing.entries:
        raise DataError(
            f"{root}: the table of attributes matches none of the pictures. Compare the file names in it with the files."
        )
    return listing


def _without_annotations(listing: Listing) -> Listing:
    """The listing without labels and attributes, with the pictures that were rejected because they have none."""
    old, rejects = listing.entries, listing.rejects
    if bare := listing.without_label:
        if bare[0].row >= 0:
            old = Entries.of(sorted([*old, *bare], key=lambda entry: (entry.file, entry.row)))
        else:
            old = shuffle_by_hash(Entries.of([*old, *bare]))
        rejects = [reject for reject in rejects if reject.reason != "no-label"]
    entries = old.relabelled(None, old.split_codes, old.split_names)
    return replace(listing, entries=entries, classes=(), attributes=(), rejects=rejects, without_label=[])


def _describe_found(listing: Listing, places: _FoundPlaces) -> str:
    if listing.classes:
        return f"found {len(listing.classes)}: {_join_names(listing.classes)}"
    outside = _outside(listing, places)
    if outside and len(outside) < len(listing.entries):
        return f"{_names_are(outside)} outside folders"
    return "found attributes, but no domains" if listing.attributes else "these pictures have no labels"


def _outside(listing: Listing, places: _FoundPlaces) -> list[str]:
    """Pictures outside all folders."""
    return [file for file, place in zip(listing.entries.files, places, strict=False) if place is None]


def _names_are(names: Collection[str]) -> str:
    return f"{_join_names(sorted(names))} {'is' if len(names) == 1 else 'are'}"


def _join_names(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
