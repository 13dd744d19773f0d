"""From the pictures that a reader lists to entries of one kind of data: pairs, two domains, several, or as they come."""

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
"""A picture's split, and its name in its folder."""


def arrange(
    root: Path,
    note: SourceNote,
    *,
    kind: Kind = "auto",
    pairs: Pairs = "folders",
    condition_side: Side = "first",
    attributes: Sequence[str] = (),
) -> tuple[str, Listing]:
    """The entries of ``root`` as data of ``kind``.

    Args:
        root: the raw data.
        note: how it is read.
        kind: ``auto`` takes folders trainA and trainB as two domains, a table of attributes as domains, and else what has
            labels as labelled. ``unpaired`` wants those folders, or two classes of any form; ``domains`` a table of
            attributes or two classes and more; ``paired`` what ``pairs`` says, and labels are left aside.
        pairs: ``folders`` takes two folders with equal names in them (suffixes may differ), within or around folders
            train and test, or trainA and trainB.
        condition_side: which of two folders, by name, holds the conditions.
        attributes: those of the table to use, in this order; empty for all.

    Returns:
        The kind that it turned out to be, never ``auto``, and the entries.

    Raises:
        DataError: ``root`` does not hold such data, or a domain's folder holds no picture, or something lies beside trainA
            and trainB; says what it holds.
    """
    if kind == "domains":
        note = _with_attributes(root, note, attributes)
        if table.holds_attributes(root, note, wanted=bool(attributes)):
            return kind, _labelled(_clear(_some(table.list_attributes(root, note, attributes), root), root), root)
        if attributes:
            if note.format == "folder" and (flaw := table.why_no_attributes(root, attributes)):
                raise DataError(flaw)
            raise DataError(
                f"{root} holds no table of attributes (ingest.attributes names some). Bring one with: gantry data add "
                "NAME PATH --labels FILE"
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
        # trainA and testA are splits, whatever their pictures are to each other.
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
                f"{root}: unpaired data has two domains; {_found(listing, places)}. Lay it out as folders trainA and trainB "
                "(testA and testB too, for a test split), or as one folder for each domain."
            )
    elif len(listing.classes) < (2 if kind == "domains" else 1):
        what = "two folders or more, or a table of attributes" if kind == "domains" else "folders or a label table"
        raise DataError(f"{root}: {kind} data needs {what}; {_found(listing, places)}.")
    return kind, _labelled(listing, root)


def check_domains(root: Path, listing: Listing, kept: dict[str, list[Entry]]) -> None:
    """Raise DataError where a domain has no picture left in a split."""
    for split, entries in sorted(kept.items()):
        there = Counter(entry.label for entry in entries)
        empty = [name for label, name in enumerate(listing.classes) if not there[label]]
        if empty:
            raise DataError(
                f"{root}: no usable picture of {_words(empty)} in the {split} split, and every split needs some of every "
                f"domain ({', '.join(listing.classes)}). Add pictures, or change ingest.test_share."
            )


@dataclass(frozen=True)
class _Place:
    """Where a picture lies: its split, the folder that it shares with its like, its path there."""

    split: str
    side: str
    name: str
    fixed: bool
    """Whether the folder is one of trainA, trainB, testA, ..."""


def _places(listing: Listing) -> list[_Place | None]:
    """The places of a listing's entries; None of a picture that lies in no folder."""
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
    """The domains A and B, where all pictures lie in folders trainA, trainB, ...; else None."""
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
    """Raise DataError where pictures lie beside trainA and trainB: folders so called are meant as two domains."""
    if {place.side for place in places if place is not None and place.fixed} != {"A", "B"}:
        return
    beside = {
        entry.file if place is None else entry.file.removesuffix(f"/{place.name}")
        for entry, place in zip(listing.entries, places, strict=True)
        if place is None or not place.fixed
    }
    if beside:
        raise DataError(
            f"{root}: {_lie(beside)} beside folders such as trainA and trainB, which are two domains. Move what belongs to "
            "one of them into it, and the rest away."
        )


def _check_folders(root: Path, listing: Listing) -> None:
    """Raise DataError where a folder that is to be a domain holds no picture."""
    bare = bare_folders(root, [entry.file for entry in listing.entries])
    if bare:
        raise DataError(
            f"{root}: no picture in {_words(bare)}, and each folder is a domain. Put some there, or remove it."
        )


def _without_labels(root: Path, note: SourceNote) -> SourceNote:
    """``note`` without the labels that lie beside folders of pictures."""
    if note.format == "table" and "split" in table.column_names(labels := table.table_of(root, note)):
        log.warning("Pairs come from folders; the column 'split' of %s is left aside.", labels)
    return replace(note, format="folder") if note.format in ("table", "stylegan") else note


def _pairs(
    root: Path, note: SourceNote, listing: Listing, found: Sequence[_Place | None], condition_side: Side
) -> Listing:
    places = [place for place in found if place is not None]
    other_ways = f"set ingest.pairs to side-by-side or to one of {', '.join(DERIVED)}"
    if not places:
        raise DataError(
            f"{root}: pairs come from two folders with equal names in them; these pictures lie elsewhere (read as "
            f"'{note.format}'). Change the layout, or {other_ways}."
        )
    if len(places) < len(found):
        raise DataError(
            f"{root}: pairs come from two folders with equal names in them; {_lie(_outside(listing, found))} outside of "
            "folders. Move what belongs to a folder into it, and the rest away."
        )
    sides = sorted({place.side for place in places})
    if len(sides) != 2:
        raise DataError(
            f"{root}: pairs come from two folders with equal names in them; found {len(sides)}: {_words(sides)}. Keep two, "
            f"or {other_ways}."
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
        raise DataError(f"{root}: no name is in both folders. Partners bear equal names; {one} and {another} do not.")
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
    """Keys of targets to keys of conditions: by name, else by name without suffix where that leaves no doubt."""
    found = {key: key for key in targets if key in conditions}
    ours, theirs = _by_stem(targets, found), _by_stem(conditions, found)
    for stem, keys in ours.items():
        others = theirs.get(stem, [])
        if len(keys) == len(others) == 1:
            found[keys[0]] = others[0]
    return found


def _by_stem(keys: Iterable[_Key], taken: Container[_Key]) -> dict[_Key, list[_Key]]:
    """Keys that are not ``taken``, by their name without suffix."""
    stems: dict[_Key, list[_Key]] = {}
    for split, name in keys:
        if (split, name) not in taken:
            stems.setdefault((split, str(PurePosixPath(name).with_suffix(""))), []).append((split, name))
    return stems


def _with_attributes(root: Path, note: SourceNote, wanted: Sequence[str]) -> SourceNote:
    """``note`` with the table of attributes that lies beside the pictures, where nothing was said of one."""
    if note.format != "folder" or (found := table.find_attributes(root, wanted)) is None:
        return note
    # Pictures in class folders are domains by folder, unless attributes are asked for.
    if not wanted and readers.list_pictures(root, note).classes:
        return note
    return replace(note, format="table", labels=found.relative_to(root).as_posix())


def _clear(listing: Listing, root: Path) -> Listing:
    """``listing``; raises DataError where its layout may mean two things, or a class has a name that cannot be shown."""
    if listing.unclear:
        raise DataError(f"{root}: {listing.unclear[0].lower()}{listing.unclear[1:]}")
    check_class_names([*listing.classes, *listing.attributes], root)
    return listing


def _labelled(listing: Listing, root: Path) -> Listing:
    """Without the pictures of splits whose labels are not published: they are rejects, and a note says so."""
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
        f"{count} pictures of the {split} split have no label and are left out; with ingest.kind: unlabelled they are used"
        for split, count in sorted(lost.items())
    ]
    rejects = [Reject(entry.source, HIDDEN_LABEL, f"the {entry.split} split has no labels") for entry in hidden]
    return replace(listing, entries=kept, rejects=[*listing.rejects, *rejects], notes=(*listing.notes, *said))


def _some(listing: Listing, root: Path) -> Listing:
    if not listing.entries:
        raise DataError(f"{root}: the table of attributes names none of the pictures; compare the names.")
    return listing


def _bare(listing: Listing) -> Listing:
    """Without labels and attributes."""
    entries = [replace(entry, label=-1, attributes=b"") for entry in listing.entries]
    return replace(listing, entries=entries, classes=(), attributes=())


def _found(listing: Listing, places: Sequence[_Place | None]) -> str:
    if listing.classes:
        return f"found {len(listing.classes)}: {_words(listing.classes)}"
    outside = _outside(listing, places)
    if outside and len(outside) < len(places):
        return f"{_lie(outside)} outside of folders"
    return "found attributes and no domains" if listing.attributes else "these pictures have no labels"


def _outside(listing: Listing, places: Sequence[_Place | None]) -> list[str]:
    """Pictures that lie in no folder."""
    return [entry.file for entry, place in zip(listing.entries, places, strict=False) if place is None]


def _lie(names: Collection[str]) -> str:
    return f"{_words(sorted(names))} {'lies' if len(names) == 1 else 'lie'}"


def _words(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
