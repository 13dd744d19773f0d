"""Reader of CIFAR-10's binary format: records of a label byte and 32 x 32 pixels in three planes (Krizhevsky 2009)."""

from collections import Counter
from pathlib import Path

import numpy as np

from gan_core.errors import DataError
from pipelines.data.readers.base import Entries, Entry, Listing, SourceNote, walk_files

_CLASSES = 10
_SHAPE = (3, 32, 32)
_RECORD = 1 + 3 * 32 * 32


def matches(root: Path) -> bool:
    """Whether the folder holds a batch with its usual name."""
    return bool(_batches(root))


def list_pictures(root: Path, note: SourceNote) -> Listing:
    """List every record of every batch; ``test_batch`` is the test split."""
    batches = _batches(root)
    own_splits = any(_is_test(file) for file in batches) and not all(_is_test(file) for file in batches)
    classes = note.classes or tuple(str(label) for label in range(_CLASSES))
    entries = []
    for file in batches:
        labels = _records(root / file)[:, 0]
        if len(labels) and labels.max() >= len(classes):
            raise DataError(
                f"{root / file} has the label {labels.max()}, but there are {len(classes)} classes. Download it again, or "
                "correct the classes in source.json."
            )
        split = ("test" if _is_test(file) else "train") if own_splits else ""
        entries += [Entry(file, row, int(label), split) for row, label in enumerate(labels)]
    doubled = [name for name, times in Counter(file.rsplit("/", 1)[-1] for file in batches).items() if times > 1]
    if doubled:
        raise DataError(
            f"{root} contains {doubled[0]} more than once, and its pictures would count twice. Keep one copy."
        )
    return Listing(Entries.of(entries), classes, ignored=[file for file in walk_files(root) if file not in batches])


class CifarReader:
    """Reads the pixels of records; maps each batch once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._batches: dict[str, np.ndarray] = {}

    def read(self, entry: Entry) -> np.ndarray:
        """Pixels of one record, uint8 (3, 32, 32)."""
        if entry.file not in self._batches:
            self._batches[entry.file] = _records(self.root / entry.file)
        return np.asarray(self._batches[entry.file][entry.row, 1:]).reshape(_SHAPE)


def open_reader(root: Path, note: SourceNote) -> CifarReader:
    """Open the reader of records."""
    return CifarReader(root)


def _batches(root: Path) -> list[str]:
    names = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]
    return [file for file in walk_files(root) if file.rsplit("/", 1)[-1] in names]


def _is_test(file: str) -> bool:
    return file.endswith("test_batch.bin")


def _records(path: Path) -> np.ndarray:
    size = path.stat().st_size
    if size == 0 or size % _RECORD:
        raise DataError(
            f"{path} has {size} bytes, which is not a multiple of {_RECORD}, the size of a CIFAR-10 record. Download it again."
        )
    return np.memmap(path, dtype=np.uint8, mode="r").reshape(-1, _RECORD)
