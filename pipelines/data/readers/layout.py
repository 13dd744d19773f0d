"""The split and the class folder of each picture, from its path.

Split folders lie at the top (``train/cat/1.png``) or within each class (``cat/train/1.png``). An ambiguous layout is refused:
with test pictures in the training data every figure would be wrong, and nobody would see it.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain

from pipelines.data.readers.base import split_name

# trainA, testB: how data for CycleGAN is laid out since Zhu et al. 2017.
_SIDES = re.compile(r"([A-Za-z]+)[-_ ]?([AB])")
# Words beside the name of a split that mean nothing: train_images, test set.
_NEUTRAL = {
    "set",
    "data",
    "dataset",
    "image",
    "images",
    "imgs",
    "img",
    "picture",
    "pictures",
    "photos",
    "folder",
    "split",
}
_NEUTRAL |= {"of", "partial", "samples", "files", "part", "shard", "batch", "chunk"}
_DIGEST = re.compile(r"[0-9a-f]{6,}")
_TRAIN_AND_VALIDATION = re.compile(r"train[-_ ]?val(id|idation)?", re.IGNORECASE)
# A folder of such a name, at any depth, holds a split; "dev" and "eval" may be names of classes.
_TELLING = {"test", "testing", "val", "valid", "validation"}
_REMEDY = "Lay the pictures out as train/CLASS/ and test/CLASS/, or move what is not to be used away."


@dataclass(frozen=True, slots=True)
class Place:
    """The split and folder of one picture."""

    split: str
    """train, test or validation; empty without."""
    side: str
    """The folder of its class or domain; empty where it is in none."""
    name: str
    """Its path in that folder."""


@dataclass(frozen=True)
class Layout:
    """The places of all pictures, in their order."""

    places: list[Place] = field(default_factory=list)
    unclear: str = ""
    """Why the layout is ambiguous, and what to do; empty where it is not."""
    configurations: str = ""
    """Which folders may be several data sets rather than domains of one; empty where there are none."""


def read_layout(files: Sequence[str]) -> Layout:
    """Places of pictures by their paths (forward slashes), whatever folders wrap all of them."""
    parts = _unwrapped([file.split("/") for file in files])
    tops = sorted({way[0] for way in parts if len(way) > 1})
    if not tops or {side[1] for top in tops if (side := own_side(top))} == {"A", "B"}:
        return Layout(_plain(parts))
    named = {top: split_in(top) for top in tops}
    splits = {found[0] for found in named.values() if found}
    rests = {found[1] for found in named.values() if found}
    outside = sorted({way[0] for way in parts if len(way) == 1 or named[way[0]] is None})
    if len(splits) > 1 and len(rests) == 1:
        there = ", ".join(top for top in tops if named[top])
        if outside:
            return Layout(
                _plain(parts), f"{there} are splits, and {_few(outside)} beside them belongs to none. {_REMEDY}"
            )
        if "train" not in splits:
            return Layout(_plain(parts), f"{there} are splits, and none of them is the train split. {_REMEDY}")
        return _below_splits(parts, {top: found[0] for top, found in named.items() if found})
    if len(splits) > 1 and not outside and _each_has(rests, named.values()):
        return Layout(_plain(parts), f"{_few(tops)} name a split and something more each. {_REMEDY}")
    if reason := _one_split_beside_others(parts, tops):
        return Layout(_plain(parts), reason)
    if all(len(way) > 2 and split_name(way[1]) for way in parts):
        return _within_sides(parts)
    return _checked(_plain(parts), [way[1:-1] for way in parts])


def own_side(folder: str) -> tuple[str, str] | None:
    """Split and side (A or B) of a folder such as trainA: ``("train", "A")``; None for other names."""
    match = _SIDES.fullmatch(folder)
    split = split_name(match[1]) if match else None
    return (split, match[2]) if match and split else None


def split_in(name: str) -> tuple[str, str] | None:
    """The split in the name of a folder or file, and the rest of the name: ``seg_train`` gives ``train`` and ``seg``.

    Numbers and words such as "set" and "images" are left out of the rest. None where the name has no split, or two.
    """
    if exact := split_name(name):
        return exact, ""
    words = re.split(r"[\W_]+", _TRAIN_AND_VALIDATION.sub("train", name).lower())
    said = [(split_name(word) or split_name(word.rstrip("0123456789")), word) for word in words if word]
    splits = {split for split, _ in said if split}
    if len(splits) != 1:
        return None
    rest = [word for split, word in said if not split and not _DIGEST.fullmatch(word)]
    return splits.pop(), " ".join(word for word in rest if word.rstrip("0123456789") not in {*_NEUTRAL, ""})


@dataclass(frozen=True)
class FileSplits:
    """Splits of files that hold many pictures each."""

    by_file: dict[str, str]
    """Empty for all files where there are no splits."""
    unclear: str = ""


def file_splits(files: Sequence[str], stems: Sequence[str]) -> FileSplits:
    """Splits by the folders and names of files that hold many pictures each.

    Args:
        files: paths with forward slashes.
        stems: of each its path without what follows the name proper (``data/train-00000-of-00002.parquet`` as it is,
            ``train-images-idx3-ubyte`` as ``train-``).

    Returns:
        The splits. They are unclear where a path names two, where some files name none, where there is no train split, or
        where each of several folders has splits of its own: those are several data sets (configurations, on the Hugging
        Face hub).
    """
    none = dict.fromkeys(files, "")
    found, data_sets = dict(none), dict(none)
    for file, way in zip(files, _unwrapped([stem.split("/") for stem in stems]), strict=True):
        said = {level: split for level, name in enumerate(way) if (split := split_in(name))}
        if len({split for split, _ in said.values()}) > 1:
            return FileSplits(none, f"{file} names two splits. Rename the file or its folder.")
        if said:
            level = min(said)
            found[file], rest = said[level]
            data_sets[file] = "/".join([*way[:level], *([rest] if rest else [])])
    splits = set(found.values())
    if len(splits) == 1 or splits == {"train", ""}:
        return FileSplits(none)
    if lost := [file for file in files if not found[file]]:
        told = "Other files name the split that they hold"
        return FileSplits(none, f"{told}, and {_few(lost)} does not. Rename it to train-..., or move it away.")
    if "train" not in splits:
        told = f"Its files are of the splits {', '.join(sorted(splits))}"
        return FileSplits(none, f"{told}, and none is of the train split. Add it.")
    several = [name or "those without a name of their own" for name in sorted(set(data_sets.values()))]
    if len(several) > 1:
        told = "It holds several data sets (configurations), each with splits of its own"
        return FileSplits(none, f"{told}: {_few(several)}. Give the folder or the files of one of them.")
    return FileSplits(found)


def _unwrapped(parts: list[list[str]]) -> list[list[str]]:
    """Paths without the folders that are common to all. trainA is kept, also where trainB is empty or missing."""
    while parts and all(len(way) > 1 for way in parts) and len({way[0] for way in parts}) == 1:
        if own_side(parts[0][0]):
            break
        parts = [way[1:] for way in parts]
    return parts


def _plain(parts: Sequence[list[str]], splits: Sequence[str] | None = None) -> list[Place]:
    return [
        Place(split, way[0] if len(way) > 1 else "", "/".join(way[1:] if len(way) > 1 else way))
        for way, split in zip(parts, splits or [""] * len(parts), strict=True)
    ]


def _below_splits(parts: list[list[str]], splits: dict[str, str]) -> Layout:
    of = [splits[way[0]] for way in parts]
    tops = [way[0] for way in parts]
    ways = [way[1:] for way in parts]
    # train/images/cat: one folder in each split, of one name or of the split's own, is no class.
    while all(len(way) > 1 for way in ways):
        firsts = {(top, way[0]) for top, way in zip(tops, ways, strict=True)}
        if len(firsts) > len(set(tops)) or not (
            len({first for _, first in firsts}) == 1 or all(first == top for top, first in firsts)
        ):
            break
        ways = [way[1:] for way in ways]
    return _checked(_plain(ways, of), [way[:-1] for way in ways])


def _within_sides(parts: list[list[str]]) -> Layout:
    splits = [split_name(way[1]) or "" for way in parts]
    sides = sorted({way[0] for way in parts})
    without = sorted(set(sides) - {way[0] for way, split in zip(parts, splits, strict=True) if split == "train"})
    if len(set(splits)) == 1:
        # All pictures are of one split, so its folders mean nothing.
        return Layout(_plain([[way[0], *way[2:]] for way in parts]))
    places = [Place(split, way[0], "/".join(way[2:])) for way, split in zip(parts, splits, strict=True)]
    if without:
        return Layout(_plain(parts), f"{_few(without)} holds no folder train, and others do. {_REMEDY}")
    classes = {side: {way[2] for way in parts if way[0] == side and len(way) > 3} for side in sides}
    several = len(sides) > 1 and all(len(found) > 1 for found in classes.values())
    configurations = (
        f"{_few(sides)} each hold splits with folders of their own, and may be several data sets. Give one of them alone, "
        "or set ingest.kind to domains, unpaired or paired where they belong together."
    )
    checked = _checked(places, [way[2:-1] for way in parts])
    return Layout(checked.places, checked.unclear, configurations if several else "")


def _checked(places: list[Place], folders: Iterable[Sequence[str]]) -> Layout:
    """``places``; unclear where a folder that was not read as a split has the name of one."""
    for way in folders:
        for name in way:
            if name.lower() in _TELLING:
                return Layout(places, f"a folder {'/'.join(way)} within others is called after a split. {_REMEDY}")
    return Layout(places)


def _one_split_beside_others(parts: Sequence[list[str]], tops: Sequence[str]) -> str:
    """Why the only folder with the name of a split is ambiguous: it may be a split or a class. Empty where it is a class."""
    exact = [top for top in tops if split_name(top)]
    others = [name for name in sorted({way[0] for way in parts}) if name not in exact]
    if not exact:
        return ""
    if not others:
        return f"{_few(exact)} are called after one and the same split. Make one folder of them."
    inside = {way[1] for way in parts if way[0] == exact[0] and len(way) > 2}
    if split_name(exact[0]) == "train" and len(inside) < 2:
        return ""  # the vehicle, beside bus and car
    return (
        f"{exact[0]} is called after a split, and {_few(others)} beside it is not. Rename it where it is a class. Otherwise: "
        f"{_REMEDY[0].lower()}{_REMEDY[1:]}"
    )


def _each_has(rests: set[str], named: Iterable[tuple[str, str] | None]) -> bool:
    """Whether each split has several names in common with the others: train_cat, train_dog, test_cat, test_dog."""
    by_split: dict[str, set[str]] = {}
    for split, rest in filter(None, named):
        by_split.setdefault(split, set()).add(rest)
    return len(set(chain.from_iterable(by_split.values()))) > 1 and bool(set.intersection(*by_split.values()))


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
