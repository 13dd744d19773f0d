"""Match the pictures of two folders as pairs by their names, in columns."""

import unicodedata
from pathlib import PurePosixPath

import numpy as np
import pyarrow.compute as pc

from pipelines.data.readers.entries import Texts

_BETWEEN = "\0"


def key(split: str, name: str) -> str:
    """The key of a picture: its split, and its path in its folder, equal for paths that look equal.

    macOS composes accents differently (NFD, not NFC).
    """
    return f"{split}{_BETWEEN}{unicodedata.normalize('NFC', name)}"


def shown(key: str) -> str:
    """A key as a path, for messages."""
    return key.replace(_BETWEEN, "/").removeprefix("/")


def find_equal(keys: Texts) -> tuple[int, int] | None:
    """Positions of two equal keys; None if all keys differ."""
    codes = _codes(keys)
    order = np.argsort(codes, kind="stable")
    equal = np.flatnonzero(codes[order[1:]] == codes[order[:-1]])
    return (int(order[equal[0]]), int(order[equal[0] + 1])) if len(equal) else None


def match(targets: Texts, conditions: Texts) -> np.ndarray:
    """Match different keys of targets to different keys of conditions.

    Returns:
        int64 (n,): for each target the position of its condition, -1 without. Keys match if they are equal, or equal without
        suffix if that is unambiguous.
    """
    found = _positions(targets, conditions)
    taken = np.zeros(len(conditions), dtype=bool)
    taken[found[found >= 0]] = True
    ours, theirs = np.flatnonzero(found < 0), np.flatnonzero(~taken)
    if not len(ours) or not len(theirs):
        return found
    our_stems, their_stems = (
        Texts.of(map(_stem, keys.take(at))) for keys, at in ((targets, ours), (conditions, theirs))
    )
    at = _positions(our_stems, their_stems)
    clear = (at >= 0) & _are_single(our_stems) & _are_single(their_stems)[at]
    found[ours[clear]] = theirs[at[clear]]
    return found


def _stem(key: str) -> str:
    split, _, name = key.partition(_BETWEEN)
    return f"{split}{_BETWEEN}{PurePosixPath(name).with_suffix('')}"


def _positions(keys: Texts, among: Texts) -> np.ndarray:
    found = pc.fill_null(pc.index_in(keys.values, value_set=among.values), -1)
    return found.to_numpy(zero_copy_only=False).astype(np.int64)


def _codes(keys: Texts) -> np.ndarray:
    return keys.values.dictionary_encode().indices.to_numpy(zero_copy_only=False)


def _are_single(keys: Texts) -> np.ndarray:
    codes = _codes(keys)
    return np.bincount(codes)[codes] == 1
