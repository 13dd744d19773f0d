"""Reader of IDX, the format of MNIST: pictures and labels in two files of big-endian arrays (LeCun et al. 1998)."""

import re
from pathlib import Path

import numpy as np

from gan_core.errors import DataError
from pipelines.data.readers.base import Entries, Entry, Listing, SourceNote, sort_labels, walk_files
from pipelines.data.readers.layout import file_splits

_IMAGES = re.compile(r"(?P<before>.*?)images(?P<gap>[-._]?)idx[34](?P<end>[-._]ubyte)?")
_UINT8 = 8


def matches(root: Path) -> bool:
    """Whether the folder holds IDX files of pictures."""
    return any(_IMAGES.fullmatch(file) for file in walk_files(root))


def list_pictures(root: Path, note: SourceNote) -> Listing:
    """List every row of every picture file, with labels from the label file beside it, if there is one."""
    found: list[tuple[str, int, np.ndarray | None]] = []
    stems, used = [], set()
    files = [*walk_files(root)]
    for file in files:
        if match := _IMAGES.fullmatch(file):
            count = len(read_idx(root / file))
            labels = None
            beside = f"{match['before']}labels{match['gap']}idx1{match['end'] or ''}"
            used |= {file, beside}
            if (root / beside).is_file():
                labels = read_idx(root / beside)
                if len(labels) != count:
                    raise DataError(
                        f"{root / beside} holds {len(labels)} labels, but {file} holds {count} pictures. Add matching files."
                    )
            stems.append(match["before"] or file)
            found.append((file, count, labels))
    # A source of one file has no splits, whatever the name of the file.
    splits = file_splits([file for file, *_ in found], stems)
    labelled = any(labels is not None for *_, labels in found)
    without = [file for file, _, labels in found if labels is None and splits.by_file[file] in ("", "train")]
    if labelled and without and not splits.ambiguity:
        raise DataError(
            f"{root}: {without[0]} has no label file, but other files have one. Add it, or remove the other label files."
        )
    if labelled:
        present = {int(value) for *_, labels in found if labels is not None for value in np.unique(labels)}
        if note.classes:
            if max(present) >= len(note.classes):
                raise DataError(
                    f"{root} has the label {max(present)}, but source.json names {len(note.classes)} classes. Correct "
                    "source.json."
                )
            ordered, names = list(range(len(note.classes))), note.classes
        else:
            values, names = sort_labels(present)
            ordered = [int(value) for value in values]
        place = {value: position for position, value in enumerate(ordered)}
    entries = [
        Entry(
            file,
            row,
            place[int(labels[row])] if labels is not None else -1,
            splits.by_file[file],
        )
        for file, count, labels in found
        for row in range(count)
    ]
    others = [file for file in files if file not in used]
    return Listing(Entries.of(entries), names if labelled else (), ignored=others, ambiguity=splits.ambiguity)


class IdxReader:
    """Reads the pixels of rows; maps each file once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._arrays: dict[str, np.ndarray] = {}

    def read(self, entry: Entry) -> np.ndarray:
        """Pixels of one row, uint8 (C, H, W)."""
        if entry.file not in self._arrays:
            self._arrays[entry.file] = read_idx(self.root / entry.file)
        row = np.asarray(self._arrays[entry.file][entry.row])
        if row.ndim == 2:
            return row[None]
        return row if row.shape[0] in (1, 3, 4) else row.transpose(2, 0, 1)


def open_reader(root: Path, note: SourceNote) -> IdxReader:
    """Open the reader of rows."""
    return IdxReader(root)


def read_idx(path: Path) -> np.ndarray:
    """Map an IDX file of uint8 into memory: (N,), (N, H, W), (N, C, H, W) or (N, H, W, C).

    Raises:
        DataError: not such a file, or its size does not match its header.
    """
    with open(path, "rb") as file:
        head = file.read(4)
        if len(head) < 4 or head[:2] != b"\0\0" or head[2] != _UINT8 or head[3] not in (1, 3, 4):
            raise DataError(
                f"{path} is not an IDX file of uint8 with 1, 3 or 4 dimensions: it starts with {head!r}. Replace it."
            )
        dimensions = head[3]
        sizes = np.frombuffer(file.read(4 * dimensions), dtype=">u4")
    offset = 4 + 4 * dimensions
    shape = tuple(int(size) for size in sizes)
    expected = offset + int(np.prod(shape, dtype=np.int64)) if len(shape) == dimensions else -1
    if path.stat().st_size != expected:
        raise DataError(
            f"{path} has {path.stat().st_size} bytes, but its header requires {expected}. Download it again."
        )
    if dimensions == 4 and shape[1] not in (1, 3, 4) and shape[3] not in (1, 3, 4):
        raise DataError(
            f"{path} has the shape {shape}; pictures need 1, 3 or 4 channels, as the second or the last dimension."
        )
    if 0 in shape:
        return np.zeros(shape, dtype=np.uint8)
    return np.memmap(path, dtype=np.uint8, mode="r", offset=offset, shape=shape)


def write_idx(array: np.ndarray, path: Path) -> None:
    """Write an array of integers in [0, 255], of any shape, as an IDX file."""
    header = bytes([0, 0, _UINT8, array.ndim]) + np.array(array.shape, dtype=">u4").tobytes()
    path.write_bytes(header + np.ascontiguousarray(array, dtype=np.uint8).tobytes())
