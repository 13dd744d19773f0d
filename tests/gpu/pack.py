"""The folder that the parts read, so that a machine with a card needs no network: data sets and weights in small pieces.

Each piece is a file of at most 60 MiB, so that it can be carried where only small files can. ``pack.json`` lists the pieces
with their SHA-256. A large file is split into parts ``NAME.0``, ``NAME.1``, ... and joined at its first use.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gan_core.data import PreparedDataset
from gan_core.download.weights import INCEPTION_FILE, INCEPTION_SHA256, inception_file
from gan_core.errors import DataError
from gan_core.files import atomic_write, read_json, sha256_file, sha256_json, write_json
from tests.datasets import write_prepared
from tests.gpu import drawn

PIECE = 60 * 2**20
"""Bytes of the largest piece."""
LIST = "pack.json"
DRAWN = {"train": 20_000, "test": 2_000}
SIDE = 64
SMALL = {"train": 48, "test": 16}
"""Drawn pictures of the small form, which are also its stand-in for CIFAR-10."""
Arrays = Mapping[str, Any]
"""Arguments of :func:`tests.datasets.write_prepared`: ``pixels`` and, for some kinds of data, others."""


def write_splits(directory: Path, splits: Mapping[str, Arrays], name: str) -> None:
    """Write a prepared data set with several splits."""
    infos = {}
    for split, arrays in splits.items():
        write_prepared(directory, split=split, **arrays)
        infos[split] = read_json(directory / "dataset.json")
    pixels = np.asarray(splits["train"]["pixels"])
    described = infos["train"] | {
        "name": name,
        "splits": {split: info["splits"][split] for split, info in infos.items()},
        "mean": (pixels.mean((0, 2, 3)) / 255).tolist(),
        "std": (pixels.std((0, 2, 3)) / 255).tolist(),
        "digest": sha256_json([info["digest"] for info in infos.values()]),
    }
    write_json(directory / "dataset.json", described)


def split_file(path: Path, directory: Path, size: int = PIECE) -> list[Path]:
    """Write the parts ``NAME.0``, ``NAME.1``, ... of a file, each of at most ``size`` bytes, into ``directory``."""
    parts = []
    with open(path, "rb") as file:
        while content := file.read(size):
            part = directory / f"{path.name}.{len(parts)}"
            with atomic_write(part) as temporary:
                temporary.write_bytes(content)
            parts.append(part)
    return parts


def join_file(directory: Path, target: Path, sha256: str) -> None:
    """Write ``target`` from its parts in ``directory``, unless it is there.

    Raises:
        DataError: parts are missing or damaged: together they do not have the SHA-256 sum ``sha256``.
    """
    if target.is_file() and sha256_file(target) == sha256:
        return
    with atomic_write(target) as temporary:
        with open(temporary, "wb") as file:
            for part in _parts(directory, target.name):
                file.write(part.read_bytes())
        if sha256_file(temporary) != sha256:
            raise DataError(
                f"{target.name}: its parts in {directory} are incomplete or damaged. Copy them again, or run "
                "python -m tests.gpu pack on a machine with a network."
            )


def _parts(directory: Path, name: str) -> Iterator[Path]:
    number = 0
    while (part := directory / f"{name}.{number}").is_file():
        yield part
        number += 1


class Pack:
    """The folder of pieces, and what is decoded from them in ``scratch``."""

    def __init__(self, folder: Path, scratch: Path) -> None:
        self.folder, self._scratch = folder, scratch

    def lacks(self, *sets: str) -> str:
        """Which of ``sets`` (names of folders in the pack) are missing or damaged, in words; empty if none is."""
        listed = read_json(self.folder / LIST) if (self.folder / LIST).is_file() else {}
        for name in sets:
            pieces = {piece: entry for piece, entry in listed.items() if Path(piece).parts[0] == name}
            if not pieces:
                return f"{name} is not in {self.folder}: python -m tests.gpu pack"
            for piece, entry in pieces.items():
                path = self.folder / piece
                if not path.is_file() or path.stat().st_size != entry["bytes"]:
                    return f"{path} is missing or incomplete: python -m tests.gpu pack, or copy it again"
        return ""

    def dataset(self, name: str) -> PreparedDataset:
        """The data set ``name``: cifar10, fashion-mnist or drawn."""
        return PreparedDataset(self.folder / name, self._scratch / "decoded")

    def use_weights(self) -> None:
        """Join the Inception weights, and let this process read them from there."""
        target = self._scratch / "weights" / INCEPTION_FILE
        join_file(self.folder / "weights", target, INCEPTION_SHA256)
        os.environ["GANTRY_WEIGHTS_DIR"] = str(target.parent)


def fill(folder: Path, *, small: bool = False) -> Iterator[str]:
    """Fill ``folder``; each step is told in words. What is there and undamaged stays.

    The small form has a few drawn pictures only, and needs no network.

    Raises:
        FetchError: a file cannot be fetched.
        DataError: a piece is too large.
    """
    listed = read_json(folder / LIST) if (folder / LIST).is_file() else {}
    makers = (
        {"drawn": _drawn_small}
        if small
        else {
            "drawn": _drawn,
            "cifar10": _cifar10,
            "fashion-mnist": _fashion_mnist,
            "weights": _weights,
        }
    )
    for name, make in makers.items():
        place = folder / name
        found = {piece: entry for piece, entry in listed.items() if Path(piece).parts[0] == name}
        if found and all(
            entry.get("small", False) == small
            and (folder / piece).is_file()
            and sha256_file(folder / piece) == entry["sha256"]
            for piece, entry in found.items()
        ):
            yield f"{name}: already there, {sum(entry['bytes'] for entry in found.values()) / 2**20:.1f} MiB"
            continue
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        make(place)
        pieces = sorted(path for path in place.rglob("*") if path.is_file())
        if large := next((path for path in pieces if path.stat().st_size > PIECE), None):
            raise DataError(
                f"{large} has {large.stat().st_size / 2**20:.0f} MiB, and a piece may have {PIECE >> 20}. Split it."
            )
        listed = {piece: entry for piece, entry in listed.items() if piece not in found} | {
            str(path.relative_to(folder)): {
                "bytes": path.stat().st_size,
                "sha256": sha256_file(path),
                "small": small,
            }
            for path in pieces
        }
        write_json(folder / LIST, listed)
        size = sum(path.stat().st_size for path in pieces)
        yield f"{name}: {len(pieces)} files, {size / 2**20:.1f} MiB"


def _drawn(place: Path) -> None:
    first, splits = 0, {}
    for split, count in DRAWN.items():
        splits[split] = {
            "pixels": drawn.faces(first, count, SIDE),
            "labels": drawn.hair_colours(first, count),
            "shards": 2,
        }
        first += count
    write_splits(place, splits, "drawn")


def _drawn_small(place: Path) -> None:
    first, splits = 0, {}
    for split, count in SMALL.items():
        splits[split] = {"pixels": drawn.faces(first, count, 16), "labels": drawn.hair_colours(first, count)}
        first += count
    write_splits(place, splits, "drawn")


def _cifar10(place: Path) -> None:
    with tempfile.TemporaryDirectory() as raw:
        _fetch("cifar10", Path(raw))
        batches = {"train": [f"data_batch_{number}.bin" for number in range(1, 6)], "test": ["test_batch.bin"]}
        splits = {}
        for split, names in batches.items():
            rows = np.concatenate([np.fromfile(Path(raw) / name, np.uint8) for name in names]).reshape(-1, 3073)
            splits[split] = {
                "pixels": rows[:, 1:].reshape(-1, 3, 32, 32),
                "labels": rows[:, 0].astype(np.int64),
                "shards": len(names),
            }
    write_splits(place, splits, "cifar10")


def _fashion_mnist(place: Path) -> None:
    with tempfile.TemporaryDirectory() as raw:
        _fetch("fashion-mnist", Path(raw))
        splits = {}
        for split, name in {"train": "train", "test": "t10k"}.items():
            pixels = np.fromfile(Path(raw) / f"{name}-images-idx3-ubyte", np.uint8)[16:].reshape(-1, 1, 28, 28)
            labels = np.fromfile(Path(raw) / f"{name}-labels-idx1-ubyte", np.uint8)[8:].astype(np.int64)
            # 28 pixels cannot be halved often enough for every family; the border is black.
            splits[split] = {"pixels": np.pad(pixels, ((0, 0), (0, 0), (2, 2), (2, 2))), "labels": labels}
    write_splits(place, splits, "fashion-mnist")


def _weights(place: Path) -> None:
    split_file(inception_file(), place)


def _fetch(name: str, folder: Path) -> None:
    # Here, because only this part may need the rest of Gantry.
    from gan_core.download.fetch import FileRequest, fetch_many
    from pipelines.data.sources import public_dataset

    dataset = public_dataset(name)
    fetch_many(
        [
            FileRequest(target=folder / file.name, sha256=file.sha256, addresses=file.addresses)
            for file in dataset.files
        ],
        label=name,
    )
