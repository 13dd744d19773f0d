"""Find the split and the class folder of each picture from its path.

Split folders are at the top (``train/cat/1.png``) or within each class (``cat/train/1.png``). An ambiguous layout is refused:
test pictures in the training data would make every metric wrong without notice.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import overload

import numpy as np

from pipelines.data.readers.base import canonical_split

# trainA, testB: the layout of CycleGAN's datasets (Zhu et al. 2017).
_SIDES = re.compile(r"([A-Za-z]+)[-_ ]?([AB])")
# Words without meaning beside the name of a split: train_images, test set.
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
_NAMED = 6
"""Names in a message."""
_DIGEST = re.compile(r"(?=.*[0-9])[0-9a-f]{6,}")  # "facade" is a word
_TRAIN_AND_VALIDATION = re.compile(r"train[-_ ]?val(id|idation)?", re.IGNORECASE)
# A folder with such a name holds a split, at any depth; "dev" and "eval" may be classes.
_ALWAYS_SPLITS = {"test", "testing", "val", "valid", "validation"}
_REMEDY = "Arrange the pictures as train/CLASS/ and test/CLASS/, or remove those that are not to be used."


@dataclass(frozen=True, slots=True)
class Place:
    """The split and folder of one picture."""

    split: str
    """train, test or validation; empty without a split."""
    folder: str
    """Folder of its class or domain; empty if it is in none."""
    name: str
    """Path within that folder."""


@dataclass(frozen=True, slots=True)
class _Folder:
    """What all pictures in one folder have in common."""

    split: str
    folder: str
    skipped: int
    """Characters of a path before the path within the folder of the class."""


class Places(Sequence[Place]):
    """The places of pictures, kept once for each folder of pictures."""

    def __init__(self, files: Sequence[str], folders: dict[str, _Folder]) -> None:
        self._files, self._folders = files, folders

    @property
    def folders(self) -> set[tuple[str, str]]:
        """Split and folder of all pictures."""
        return {(folder.split, folder.folder) for folder in self._folders.values()}

    def map(self, value: Callable[[str, str], int]) -> np.ndarray:
        """A number for each picture, int64 (n,), from its split and folder."""
        of = {directory: value(folder.split, folder.folder) for directory, folder in self._folders.items()}
        return np.fromiter((of[_directory(file)] for file in self._files), np.int64, len(self._files))

    def __len__(self) -> int:
        return len(self._files)

    @overload
    def __getitem__(self, at: int) -> Place: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Place]: ...
    def __getitem__(self, at: int | slice) -> Place | Sequence[Place]:
        return self._place(self._files[at]) if isinstance(at, int) else Places(self._files[at], self._folders)

    def __iter__(self) -> Iterator[Place]:
        return map(self._place, self._files)

    def _place(self, file: str) -> Place:
        folder = self._folders[_directory(file)]
        return Place(folder.split, folder.folder, file[folder.skipped :])


@dataclass(frozen=True)
class Layout:
    """The places of all pictures, in the order of the pictures."""

    places: Sequence[Place] = ()
    ambiguity: str = ""
    """Why the layout is ambiguous, and the remedy; empty if it is not."""
    configurations: str = ""
    """Why the folders may be several datasets and not domains of one, and the remedy; empty if they are not."""


@dataclass(frozen=True)
class FilesLayout(Layout):
    """A layout whose places are kept by folder."""

    places: Places


def read_layout(files: Sequence[str]) -> FilesLayout:
    """Find the places of pictures from their paths (with forward slashes); folders that wrap all of them are ignored.

    The place of a picture depends on its folder alone: a few pictures of each folder, which messages may name, are enough.
    """
    some: dict[str, list[str]] = {}
    for file in files:
        here = some.setdefault(_directory(file), [])
        if len(here) <= _NAMED:
            here.append(file)
        elif file < (last := max(here)):
            here[here.index(last)] = file
    shown = [file for here in some.values() for file in here]
    layout = _read_layout(shown)
    folders = {
        _directory(file): _Folder(place.split, place.folder, len(file) - len(place.name))
        for file, place in zip(shown, layout.places, strict=True)
    }
    return FilesLayout(Places(files, folders), layout.ambiguity, layout.configurations)


def _read_layout(files: Sequence[str]) -> Layout:
    parts = _unwrapped([file.split("/") for file in files])
    tops = sorted({path[0] for path in parts if len(path) > 1})
    if not tops or {side[1] for top in tops if (side := split_and_domain(top))} == {"A", "B"}:
        return Layout(_places(parts))
    named = {top: find_split(top) for top in tops}
    splits = {found[0] for found in named.values() if found}
    rests = {found[1] for found in named.values() if found}
    outside = sorted({path[0] for path in parts if len(path) == 1 or named[path[0]] is None})
    if len(splits) > 1 and len(rests) == 1:
        there = ", ".join(top for top in tops if named[top])
        if outside:
            return Layout(
                _places(parts),
                f"{there} are splits, but {_join_names(outside)} beside them is not in a split. {_REMEDY}",
            )
        if "train" not in splits:
            return Layout(_places(parts), f"{there} are splits, but the train split is missing. {_REMEDY}")
        return _folders_within_splits(parts, {top: found[0] for top, found in named.items() if found})
    if len(splits) > 1 and not outside and _share_a_name(rests, named.values()):
        return Layout(
            _places(parts), f"the folders {_join_names(tops)} each name a split and something else. {_REMEDY}"
        )
    if reason := _one_split_beside_others(parts, tops):
        return Layout(_places(parts), reason)
    if all(len(path) > 2 and canonical_split(path[1]) for path in parts):
        return _splits_within_folders(parts)
    return _checked(_places(parts), [path[1:-1] for path in parts])


def split_and_domain(folder: str) -> tuple[str, str] | None:
    """Split and domain (A or B) of a folder such as trainA: ``("train", "A")``; None for other names."""
    match = _SIDES.fullmatch(folder)
    split = canonical_split(match[1]) if match else None
    return (split, match[2]) if match and split else None


def find_split(name: str) -> tuple[str, str] | None:
    """Find the split in the name of a folder or file, and the rest of the name: ``seg_train`` gives ``train``, ``seg``.

    The rest omits numbers and words such as "set" and "images". None if the name has no split, or more than one.
    """
    if exact := canonical_split(name):
        return exact, ""
    words = re.split(r"[\W_]+", _TRAIN_AND_VALIDATION.sub("train", name).lower())
    said = [(canonical_split(word) or canonical_split(word.rstrip("0123456789")), word) for word in words if word]
    splits = {split for split, _ in said if split}
    if len(splits) != 1:
        return None
    rest = [word for split, word in said if not split and not _DIGEST.fullmatch(word)]
    return splits.pop(), " ".join(word for word in rest if word.rstrip("0123456789") not in {*_NEUTRAL, ""})


@dataclass(frozen=True)
class FileSplits:
    """Splits of files that hold many pictures each."""

    by_file: dict[str, str]
    """The split of each file; empty texts if there are no splits."""
    ambiguity: str = ""
    """Why the splits are ambiguous, and the remedy; empty if they are not."""


def file_splits(files: Sequence[str], stems: Sequence[str]) -> FileSplits:
    """Find the splits of files that hold many pictures each, from their folders and names.

    Args:
        files: paths with forward slashes.
        stems: path of each file without the part that does not name it (``train-`` for ``train-images-idx3-ubyte``).

    Returns:
        The splits. They are ambiguous if a path names two splits, if some files name none, if the train split is missing, or
        if several folders have their own splits: these are several datasets (configurations on the Hugging Face hub).
    """
    none = dict.fromkeys(files, "")
    found, data_sets = dict(none), dict(none)
    for file, path in zip(files, _unwrapped([stem.split("/") for stem in stems]), strict=True):
        said = {level: split for level, name in enumerate(path) if (split := find_split(name))}
        if len({split for split, _ in said.values()}) > 1:
            return FileSplits(none, f"{file} names two splits. Rename the file or its folder.")
        if said:
            level = min(said)
            found[file], rest = said[level]
            data_sets[file] = "/".join([*path[:level], *([rest] if rest else [])])
    splits = set(found.values())
    if len(splits) == 1 or splits == {"train", ""}:
        return FileSplits(none)
    if lost := [file for file in files if not found[file]]:
        return FileSplits(
            none, f"{_join_names(lost)} names no split, but other files do. Rename it to train-..., or remove it."
        )
    if "train" not in splits:
        found_splits = ", ".join(sorted(splits))
        return FileSplits(none, f"the files have the splits {found_splits}, but the train split is missing. Add it.")
    several = [name or "files without a name" for name in sorted(set(data_sets.values()))]
    if len(several) > 1:
        reason = "there are several datasets (configurations), each with its own splits"
        return FileSplits(none, f"{reason}: {_join_names(several)}. Give the folder or the files of one of them.")
    return FileSplits(found)


def _unwrapped(parts: list[list[str]]) -> list[list[str]]:
    """Remove the folders that all paths have in common, except trainA, which may lack its trainB."""
    while parts and all(len(path) > 1 for path in parts) and len({path[0] for path in parts}) == 1:
        if split_and_domain(parts[0][0]):
            break
        parts = [path[1:] for path in parts]
    return parts


def _places(parts: Sequence[list[str]], splits: Sequence[str] | None = None) -> list[Place]:
    return [
        Place(split, path[0] if len(path) > 1 else "", "/".join(path[1:] if len(path) > 1 else path))
        for path, split in zip(parts, splits or [""] * len(parts), strict=True)
    ]


def _folders_within_splits(parts: list[list[str]], splits: dict[str, str]) -> Layout:
    of = [splits[path[0]] for path in parts]
    tops = [path[0] for path in parts]
    paths = [path[1:] for path in parts]
    # train/images/cat: a single folder in each split, with equal names or the name of the split, is not a class.
    while all(len(path) > 1 for path in paths):
        firsts = {(top, path[0]) for top, path in zip(tops, paths, strict=True)}
        if len(firsts) > len(set(tops)) or not (
            len({first for _, first in firsts}) == 1 or all(first == top for top, first in firsts)
        ):
            break
        paths = [path[1:] for path in paths]
    return _checked(_places(paths, of), [path[:-1] for path in paths])


def _splits_within_folders(parts: list[list[str]]) -> Layout:
    splits = [canonical_split(path[1]) or "" for path in parts]
    sides = sorted({path[0] for path in parts})
    without = sorted(set(sides) - {path[0] for path, split in zip(parts, splits, strict=True) if split == "train"})
    if len(set(splits)) == 1:
        # All pictures are in one split: its folders have no meaning.
        return Layout(_places([[path[0], *path[2:]] for path in parts]))
    places = [Place(split, path[0], "/".join(path[2:])) for path, split in zip(parts, splits, strict=True)]
    if without:
        return Layout(
            _places(parts), f"{_join_names(without)} has no folder train, but other folders have one. {_REMEDY}"
        )
    classes = {side: {path[2] for path in parts if path[0] == side and len(path) > 3} for side in sides}
    several = len(sides) > 1 and all(len(found) > 1 for found in classes.values())
    configurations = (
        f"{_join_names(sides)} each contain splits with class folders, and may be several datasets. Give one of them, or set "
        "ingest.kind to domains, unpaired or paired if they belong together."
    )
    checked = _checked(places, [path[2:-1] for path in parts])
    return Layout(checked.places, checked.ambiguity, configurations if several else "")


def _checked(places: list[Place], folders: Iterable[Sequence[str]]) -> Layout:
    """The layout with ``places``; ambiguous if a folder has the name of a split but was not read as one."""
    for path in folders:
        for name in path:
            if name.lower() in _ALWAYS_SPLITS:
                return Layout(places, f"the nested folder {'/'.join(path)} has the name of a split. {_REMEDY}")
    return Layout(places)


def _one_split_beside_others(parts: Sequence[list[str]], tops: Sequence[str]) -> str:
    """Why a single folder with the name of a split is ambiguous: split or class. Empty if it is a class."""
    exact = [top for top in tops if canonical_split(top)]
    others = [name for name in sorted({path[0] for path in parts}) if name not in exact]
    if not exact:
        return ""
    if not others:
        return f"{_join_names(exact)} have the name of the same split. Merge them into one folder."
    inside = {path[1] for path in parts if path[0] == exact[0] and len(path) > 2}
    if canonical_split(exact[0]) == "train" and len(inside) < 2:
        return ""  # the vehicle, beside bus and car
    return (
        f"{exact[0]} has the name of a split, but {_join_names(others)} beside it does not. If it is a class, rename it. "
        f"Otherwise, {_REMEDY[0].lower()}{_REMEDY[1:]}"
    )


def _share_a_name(rests: set[str], named: Iterable[tuple[str, str] | None]) -> bool:
    """Whether all splits share a name, and there are several: train_cat, train_dog, test_cat, test_dog."""
    by_split: dict[str, set[str]] = {}
    for split, rest in filter(None, named):
        by_split.setdefault(split, set()).add(rest)
    return len(set(chain.from_iterable(by_split.values()))) > 1 and bool(set.intersection(*by_split.values()))


def _join_names(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")


def _directory(file: str) -> str:
    return file.rpartition("/")[0]
