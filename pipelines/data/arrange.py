"""Detect the kind of raw data from its layout, and arrange its pictures as pairs, domains, classes or without labels."""

import logging
from collections import Counter
from collections.abc import Collection, Container, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from gan_core.errors import DataError
from pipelines.data import readers
from pipelines.data.names import check_class_names
from pipelines.data.readers import table
from pipelines.data.readers.base import Entry, Listing, Reject, SourceNote
from pipelines.data.readers.folder import bare_folders, mixed
from pipelines.data.readers.layout import own_side, read_layout
from pipelines.data.rejects import HIDDEN_LABEL
from pipelines.settings.ingest import DERIVED, Kind, Pairs, Side

log = logging.getLogger(__name__)


_Key = tuple[str, str]
"""A picture's split, and its path in its folder."""


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
            more classes; ``paired`` needs what ``pairs`` says, and ignores labels. ``auto`` chooses ``unpaired`` for trainA
            and trainB, ``domains`` for a table of attributes, otherwise ``labelled`` or ``unlabelled``.
        pairs: ``folders`` needs two folders with equal file names (suffixes may differ), inside or outside of folders train
            and test, or named trainA and trainB.
        condition_side: the folder, in the order of names, that holds the conditions.
        attributes: attributes of the table to use, in this order; empty: all.

    Returns:
        The kind, which is never ``auto``, and the listing.

    Raises:
        DataError: ``root`` does not hold data of this kind, the folder of a domain holds no picture, or pictures lie beside
            trainA and trainB. The message says what was found.
    """
    if kind == "domains":
        note = _with_attributes(root, note, attributes)
        if table.holds_attributes(root, note, wanted=bool(attributes)):
            return kind, _labelled(_clear(_some(table.list_attributes(root, note, attributes), root), root), root)
        if attributes:
            if note.format == "folder" and (flaw := table.why_no_attributes(root, attributes)):
                raise DataError(flaw)
            raise DataError(
                f"{root} has no table of attributes, which ingest.attributes needs. Add one with: gantry data add NAME PATH "
                "--labels FILE"
            )
    if kind == "paired" and pairs == "folders":
        note = _without_labels(root, note)
    listing = _clear(readers.list_pictures(root, note), root)
    if listing.configurations and (
        kind in ("auto", "labelled", "unlabelled") or (kind == "paired" and pairs != "folders")
    ):
        raise DataError(f"{root}: {listing.configurations}")
    places = _places(listing) if note.format == "folder" else []
    _check_beside(root, listing, places)
    two = _two_domains(listing, places, note)
    if kind == "unlabelled" or (kind == "paired" and pairs != "folders"):
        # trainA and testA still name splits here; A and B do not matter.
        return kind, _bare(two or listing)
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
                f"{root}: unpaired data needs two domains; {_found(listing, places)}. Arrange the pictures in folders trainA "
                "and trainB (and testA and testB for a test split), or in one folder for each domain."
            )
    elif len(listing.classes) < (2 if kind == "domains" else 1):
        what = (
            "two or more folders, or a table of attributes" if kind == "domains" else "class folders or a label table"
        )
        raise DataError(
            f"{root}: {kind} data needs {what}; {_found(listing, places)}. Add them, or change ingest.kind."
        )
    return kind, _labelled(listing, root)


def check_domains(root: Path, listing: Listing, kept: dict[str, list[Entry]]) -> None:
    """Raise DataError if a split has no picture of a domain after rejects are removed."""
    for split, entries in sorted(kept.items()):
        there = Counter(entry.label for entry in entries)
        empty = [name for label, name in enumerate(listing.classes) if not there[label]]
        if empty:
            raise DataError(
                f"{root}: the {split} split has no usable picture of {_words(empty)}; every split needs pictures of every "
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


def _places(listing: Listing) -> list[_Place | None]:
    """The places of a listing's entries; None for a picture outside of all folders."""
    found: list[_Place | None] = []
    for place in read_layout([entry.file for entry in listing.entries]).places:
        if not place.side:
            found.append(None)
        elif not place.split and (own := own_side(place.side)):
            found.append(_Place(*own, place.name, True))
        else:
            found.append(_Place(place.split, place.side, place.name, False))
    return found


def _two_domains(listing: Listing, places: list[_Place | None], note: SourceNote) -> Listing | None:
    """The listing as domains A and B if all pictures lie in folders trainA, trainB, ...; otherwise None."""
    fixed = [place for place in places if place is not None and place.fixed]
    if not fixed or len(fixed) < len(places):
        return None
    names = note.classes if len(note.classes) == 2 else ("A", "B")
    splits = {place.split for place in fixed}
    entries = [
        replace(entry, label="AB".index(place.side), split=place.split if len(splits) > 1 else "")
        for entry, place in zip(listing.entries, fixed, strict=True)
    ]
    return replace(listing, entries=entries, classes=names)


def _check_beside(root: Path, listing: Listing, places: Sequence[_Place | None]) -> None:
    """Raise DataError if pictures lie beside trainA and trainB, which are two domains."""
    if {place.side for place in places if place is not None and place.fixed} != {"A", "B"}:
        return
    beside = {
        entry.file if place is None else entry.file.removesuffix(f"/{place.name}")
        for entry, place in zip(listing.entries, places, strict=True)
        if place is None or not place.fixed
    }
    if beside:
        raise DataError(
            f"{root}: {_lie(beside)} beside the folders of two domains (trainA, trainB, ...). Move the pictures into one of "
            "these folders, or remove them."
        )


def _check_folders(root: Path, listing: Listing) -> None:
    """Raise DataError if the folder of a domain holds no picture."""
    bare = bare_folders(root, [entry.file for entry in listing.entries])
    if bare:
        raise DataError(
            f"{root}: no pictures in {_words(bare)}, and each folder is a domain. Add pictures, or remove the folder."
        )


def _without_labels(root: Path, note: SourceNote) -> SourceNote:
    """``note`` without its label table, so that the pictures are read by their folders."""
    if note.format == "table" and "split" in table.column_names(labels := table.table_of(root, note)):
        log.warning("Pairs come from folders; the column 'split' of %s is ignored.", labels)
    return replace(note, format="folder") if note.format in ("table", "stylegan") else note


def _pairs(
    root: Path, note: SourceNote, listing: Listing, found: Sequence[_Place | None], condition_side: Side
) -> Listing:
    places = [place for place in found if place is not None]
    other_ways = f"set ingest.pairs to side-by-side, {', '.join(DERIVED[:-1])} or {DERIVED[-1]}"
    if not places:
        raise DataError(
            f"{root}: pairs need two folders with equal file names; these pictures are not in folders (read as "
            f"'{note.format}'). Change the layout, or {other_ways}."
        )
    if len(places) < len(found):
        raise DataError(
            f"{root}: pairs need two folders with equal file names; {_lie(_outside(listing, found))} outside of folders. Move "
            "these pictures into a folder, or remove them."
        )
    sides = sorted({place.side for place in places})
    if len(sides) != 2:
        raise DataError(
            f"{root}: pairs need two folders with equal file names; found {len(sides)}: {_words(sides)}. Keep two, or "
            f"{other_ways}."
        )
    condition, target = sides if condition_side == "first" else sides[::-1]
    splits = {place.split for place in places}
    files: dict[str, dict[_Key, Entry]] = {side: {} for side in sides}
    for entry, place in zip(listing.entries, places, strict=True):
        files[place.side][place.split, place.name] = entry
    partners = _partners(files[target], files[condition])
    entries = [
        replace(
            files[target][key],
            label=-1,
            split=key[0] if len(splits) > 1 else "",
            condition=files[condition][other].file,
        )
        for key, other in partners.items()
    ]
    if not entries:
        one, another = (next(iter(files[side].values())).file for side in sides)
        raise DataError(
            f"{root}: the two folders have no file name in common (for example {one} and {another}). Give the two pictures of "
            "a pair equal names."
        )
    matched = {target: set(partners), condition: set(partners.values())}
    alone = [
        Reject(entry.file, "no-partner", f"{other} has no {'/'.join(part for part in key if part)}")
        for side, other in ((target, condition), (condition, target))
        for key, entry in files[side].items()
        if key not in matched[side]
    ]
    rejects = sorted([*listing.rejects, *alone], key=lambda reject: reject.source)
    return replace(listing, entries=mixed(entries), classes=(), rejects=rejects)


def _partners(targets: dict[_Key, Entry], conditions: dict[_Key, Entry]) -> dict[_Key, _Key]:
    """Match keys of targets to keys of conditions: by name, or by the name without suffix if that is unambiguous."""
    found = {key: key for key in targets if key in conditions}
    ours, theirs = _by_stem(targets, found), _by_stem(conditions, found)
    for stem, keys in ours.items():
        others = theirs.get(stem, [])
        if len(keys) == len(others) == 1:
            found[keys[0]] = others[0]
    return found


def _by_stem(keys: Iterable[_Key], taken: Container[_Key]) -> dict[_Key, list[_Key]]:
    """Keys that are not in ``taken``, grouped by their name without suffix."""
    stems: dict[_Key, list[_Key]] = {}
    for split, name in keys:
        if (split, name) not in taken:
            stems.setdefault((split, str(PurePosixPath(name).with_suffix(""))), []).append((split, name))
    return stems


def _with_attributes(root: Path, note: SourceNote, wanted: Sequence[str]) -> SourceNote:
    """``note`` with the table of attributes beside the pictures, unless the note names a label table."""
    if note.format != "folder" or (found := table.find_attributes(root, wanted)) is None:
        return note
    # Class folders are domains, unless settings ask for attributes.
    if not wanted and readers.list_pictures(root, note).classes:
        return note
    return replace(note, format="table", labels=found.relative_to(root).as_posix())


def _clear(listing: Listing, root: Path) -> Listing:
    """Return ``listing``; raise DataError if its layout is ambiguous or a class name is not printable."""
    if listing.unclear:
        raise DataError(f"{root}: {listing.unclear[0].lower()}{listing.unclear[1:]}")
    check_class_names([*listing.classes, *listing.attributes], root)
    return listing


def _labelled(listing: Listing, root: Path) -> Listing:
    """Reject the pictures of splits whose labels are not published, and add a note."""
    if listing.attributes:
        kept = [entry for entry in listing.entries if entry.attributes]
    elif listing.classes:
        kept = [entry for entry in listing.entries if entry.label >= 0]
    else:
        return listing
    used = set(kept)
    hidden = [entry for entry in listing.entries if entry not in used]
    lost = Counter(entry.split for entry in hidden)
    said = [
        f"{count} pictures of the {split} split have no label and are not used (ingest.kind: unlabelled uses them)"
        for split, count in sorted(lost.items())
    ]
    rejects = [Reject(entry.source, HIDDEN_LABEL, f"the {entry.split} split has no labels") for entry in hidden]
    return replace(listing, entries=kept, rejects=[*listing.rejects, *rejects], notes=(*listing.notes, *said))


def _some(listing: Listing, root: Path) -> Listing:
    if not listing.entries:
        raise DataError(
            f"{root}: the table of attributes matches none of the pictures. Compare the file names in it with the files."
        )
    return listing


def _bare(listing: Listing) -> Listing:
    """The listing without labels and attributes."""
    entries = [replace(entry, label=-1, attributes=b"") for entry in listing.entries]
    return replace(listing, entries=entries, classes=(), attributes=())


def _found(listing: Listing, places: Sequence[_Place | None]) -> str:
    if listing.classes:
        return f"found {len(listing.classes)}: {_words(listing.classes)}"
    outside = _outside(listing, places)
    if outside and len(outside) < len(places):
        return f"{_lie(outside)} outside of folders"
    return "found attributes, but no domains" if listing.attributes else "these pictures have no labels"


def _outside(listing: Listing, places: Sequence[_Place | None]) -> list[str]:
    """Pictures outside of all folders."""
    return [entry.file for entry, place in zip(listing.entries, places, strict=False) if place is None]


def _lie(names: Collection[str]) -> str:
    return f"{_words(sorted(names))} {'lies' if len(names) == 1 else 'lie'}"


def _words(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
