"""Pictures are matched by name as a loop would match them."""

from pathlib import PurePosixPath

import numpy as np

from pipelines.data import partners
from pipelines.data.readers.entries import Texts


def straightforward(targets: list[str], conditions: list[str]) -> list[int]:
    """Equal keys first, then keys that are equal without suffix and alone in that on both sides."""
    found = {key: conditions.index(key) for key in targets if key in conditions}

    def by_stem(keys: list[str]) -> dict[str, list[str]]:
        stems: dict[str, list[str]] = {}
        for key in keys:
            if key not in found:
                split, name = key.split("\0")
                stems.setdefault(f"{split} {PurePosixPath(name).with_suffix('')}", []).append(key)
        return stems

    ours, theirs = by_stem(targets), by_stem(conditions)
    for stem, keys in ours.items():
        if len(keys) == 1 and len(theirs.get(stem, [])) == 1:
            found[keys[0]] = conditions.index(theirs[stem][0])
    return [found.get(key, -1) for key in targets]


def test_pairs_are_those_of_a_loop_over_all_names() -> None:
    random = np.random.default_rng(2)

    def some() -> list[str]:
        parts = zip(
            random.integers(2, size=200), random.integers(150, size=200), random.integers(3, size=200), strict=True
        )
        return sorted({partners.key(("", "train")[s], f"a.b/{n}{('', '.png', '.jpg')[e]}") for s, n, e in parts})

    targets, conditions = some(), some()
    random.shuffle(conditions)
    expected = straightforward(targets, conditions)
    assert partners.match(Texts.of(targets), Texts.of(conditions)).tolist() == expected
    exact = sum(conditions[at] == key for key, at in zip(targets, expected, strict=True) if at >= 0)
    assert 5 < exact < sum(at >= 0 for at in expected) < len(targets) - 5


def test_two_equal_keys_are_found() -> None:
    assert partners.find_equal(Texts.of(["a", "b", "c", "b", "c"])) == (1, 3)
    assert partners.find_equal(Texts.of(["a", "b"])) is None
    assert partners.find_equal(Texts.of([])) is None


def test_nothing_matches_an_empty_side() -> None:
    assert partners.match(Texts.of(["x\0a"]), Texts.of([])).tolist() == [-1]
    assert partners.match(Texts.of([]), Texts.of(["x\0a"])).tolist() == []


def test_a_key_is_shown_as_a_path() -> None:
    assert partners.shown(partners.key("", "cat/1.png")) == "cat/1.png"
    assert partners.shown(partners.key("test", "1.png")) == "test/1.png"
