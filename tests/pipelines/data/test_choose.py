"""Duplicates and splits are chosen by columns, as a loop over the pictures would choose them."""

import subprocess
import sys
from json import loads
from pathlib import Path

import numpy as np
import pytest

from gan_core.errors import DataError
from pipelines.data.choose import ConvertedPictures, choose
from pipelines.data.convert import ConvertedChunk
from pipelines.data.readers.base import Entries, Entry, printable_name
from pipelines.data.readers.layout import read_layout

CHUNK = 7


def converted(entries: Entries, pixels: np.ndarray, contents: np.ndarray, broken: set[int]) -> ConvertedPictures:
    """The first pass over ``entries``, whose digests repeat one number each."""
    found = ConvertedPictures(len(entries), CHUNK, 1, contents=True)
    for number, start in enumerate(range(0, len(entries), CHUNK)):
        here = np.array(
            [at for at in range(start, min(start + CHUNK, len(entries))) if at not in broken], dtype=np.int64
        )
        found.add(
            number,
            ConvertedChunk(
                positions=here - start,
                pixel_digests=np.repeat(pixels[here, None], 32, axis=1).astype(np.uint8),
                content_digests=np.repeat(contents[here, None], 32, axis=1).astype(np.uint8),
                sums=here[:, None],
                squares=here[:, None] ** 2,
                rejects=(),
            ),
        )
    return found


def straightforward(
    entries: list[Entry], pixels: np.ndarray, broken: set[int], by_domain: bool
) -> tuple[set[str], dict[str, str]]:
    """Sources of the pictures that are kept, and of each duplicate the picture that it equals."""
    groups: dict[tuple[str, int, int], list[Entry]] = {}
    for at, entry in enumerate(entries):
        if at not in broken:
            groups.setdefault((entry.split, entry.label if by_domain else 0, int(pixels[at])), []).append(entry)
    kept = [min(group, key=lambda entry: (entry.file, entry.row)) for group in groups.values()]
    of = {entry.source: one.source for one, group in zip(kept, groups.values(), strict=True) for entry in group}
    return {one.source for one in kept}, {source: one for source, one in of.items() if source != one}


@pytest.mark.parametrize("by_domain", [False, True])
def test_duplicates_are_those_of_a_loop_over_all_pictures(by_domain: bool) -> None:
    random = np.random.default_rng(5)
    plain = [
        Entry(f"{random.integers(40):03}.bin", int(row), int(random.integers(2)), ("train", "test")[int(row % 3 == 0)])
        for row in random.permutation(300)
    ]
    pixels, broken = random.integers(0, 90, 300), set(random.integers(0, 300, 20).tolist())
    entries = Entries.of(plain)
    assert list(entries) == plain
    found = converted(entries, pixels, pixels, broken)
    choice = choose(entries, found, by_domain=by_domain, test_share=None)
    kept, doubled = straightforward(plain, pixels, broken, by_domain)
    assert {entries.source(found.entries[at]) for some in choice.splits.values() for at in some} == kept
    assert {reject.source: reject.detail.split()[4].rstrip(",") for reject in choice.rejects} == doubled
    assert len(doubled) > 50


def test_the_held_out_share_is_decided_by_the_first_bytes_of_the_digest() -> None:
    entries = Entries.of(Entry(f"{at:03}.png") for at in range(256))
    numbers = np.arange(256)
    found = converted(entries, numbers, numbers, set())
    splits = choose(entries, found, by_domain=False, test_share=0.25).splits
    assert splits["test"].tolist() == [*range(64)]
    assert splits["train"].tolist() == [*range(64, 256)]
    assert found.totals(splits["test"]) == ([sum(range(64))], [sum(at * at for at in range(64))])
    assert set(choose(entries, found, by_domain=False, test_share=1 - 2**-60).splits) == {"test"}


def test_a_name_that_is_not_utf_8_is_refused() -> None:
    name = "caf\udce9.png"
    with pytest.raises(DataError, match=r"caf\\xe9.png is not UTF-8"):
        Entries.of([Entry("a.png"), Entry(name)])
    assert printable_name("a.png") == "a.png"


def test_a_layout_is_the_same_for_many_pictures_in_a_folder() -> None:
    few = [f"{split}/{side}/{at}.png" for split in ("train", "val") for side in ("cat", "dog") for at in range(2)]
    many = [f"{split}/{side}/{at}.png" for split in ("train", "val") for side in ("cat", "dog") for at in range(50)]
    assert {(place.split, place.folder) for place in read_layout(many).places} == read_layout(few).places.folders
    assert read_layout(many).places[120].name == "20.png"
    beside = read_layout([*many, *(f"{at}.png" for at in range(50))])
    assert "0.png, 1.png, 10.png, 11.png, 12.png, 13.png, ... beside them" in beside.ambiguity


def test_a_million_pictures_would_be_planned_in_less_than_a_gibibyte() -> None:
    few, many = 20_000, 200_000
    base = _peak_of(few)
    growth = _peak_of(many) - base  # what both sizes need alike drops out
    assert base + growth * 1_000_000 / (many - few) < 1024


def _peak_of(count: int) -> float:
    """MiB of the process that lists and plans ``count`` pictures of a folder."""
    command = [sys.executable, "-m", "tests.scale.ingest", "folder", str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3])
    return loads(done.stdout.splitlines()[-1])["MiB peak"]
