"""Write a small prepared dataset for the experiments of the guides, without ingestion."""

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from gan_core.data import PreparedDataset
from gan_core.files import atomic_write, write_json

_PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write_prepared(folder: Path, name: str, splits: Mapping[str, np.ndarray]) -> PreparedDataset:
    """Write the pictures of ``splits``, uint8 (N, H, W) or (N, H, W, 3), by name of the split, and open them.

    There must be a train split.
    """
    train = splits["train"]
    channels = 1 if train.ndim == 3 else 3
    by_channel = np.moveaxis(train.reshape(*train.shape[:3], channels), -1, 0)
    with atomic_write(folder) as temporary:
        temporary.mkdir()
        for split, pictures in splits.items():
            rows = [{"bytes": _png(picture), "path": f"{index}.png"} for index, picture in enumerate(pictures)]
            table = pa.table({"image": pa.array(rows, _PICTURE)})
            pq.write_table(table, temporary / f"{split}-00000-of-00001.parquet", write_page_checksum=True)
        described = {
            "format": 1,
            "name": name,
            "kind": "unlabelled",
            "channels": channels,
            "height": train.shape[1],
            "width": train.shape[2],
            "classes": [],
            "splits": {split: len(pictures) for split, pictures in splits.items()},
            "mean": [float(one.mean() / 255) for one in by_channel],
            "std": [float(one.std() / 255) for one in by_channel],
            "digest": hashlib.sha256(train.tobytes()).hexdigest(),
            "code_version": "docs",
            "rejects": {},
        }
        write_json(temporary / "dataset.json", described)
    return PreparedDataset(folder, folder.parent / "decoded")


def _png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()
