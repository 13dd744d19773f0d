"""Write small prepared datasets for tests, without ingestion."""

import hashlib
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from gan_core.files import write_json


def write_prepared(
    directory: Path,
    pixels: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    split: str = "train",
    kind: str | None = None,
    conditions: np.ndarray | None = None,
    derived: str = "",
    shards: int = 1,
    row_group: int | None = None,
) -> Path:
    """Write a prepared dataset, and return its folder.

    Args:
        directory: the folder to write.
        pixels: uint8 (N, C, H, W) with 1, 3 or 4 channels.
        labels: classes or domains (N,), or attributes (N, k).
        split: name of the split.
        kind: labelled, unpaired or domains, for labels (N,); None means labelled.
        conditions: uint8 (N, C', H, W); the dataset is then paired.
        derived: how the conditions are derived.
        shards: number of shards.
        row_group: pictures in a row group, which is then written as ingestion does; None for all of a shard.
    """
    directory.mkdir(parents=True, exist_ok=True)
    n, channels, height, width = pixels.shape
    columns = {"image": _pictures(pixels)}
    attributes = labels is not None and labels.ndim == 2
    if conditions is not None:
        columns["condition"] = _pictures(conditions)
    if attributes:
        columns["attributes"] = pa.array(labels.tolist(), pa.list_(pa.int8()))
    elif labels is not None:
        columns["label"] = pa.array(labels, pa.int64())
    natural = "paired" if conditions is not None else "domains" if attributes else "labelled"
    table, size = pa.table(columns), -(-n // shards)
    for shard in range(shards):
        path = directory / f"{split}-{shard:05d}-of-{shards:05d}.parquet"
        part = table.slice(shard * size, size)
        if row_group is None:
            pq.write_table(part, path, write_page_checksum=True)
        else:
            plain = {"use_dictionary": False, "compression": "none", "write_statistics": False}
            pq.write_table(part, path, row_group_size=row_group, write_page_checksum=True, **plain)
    digest = hashlib.sha256(pixels.tobytes() + (b"" if conditions is None else conditions.tobytes()))
    write_json(
        directory / "dataset.json",
        {
            "format": 1,
            "name": "test",
            "kind": kind or ("unlabelled" if labels is None and conditions is None else natural),
            "channels": channels,
            "height": height,
            "width": width,
            "classes": [] if labels is None or attributes else [str(c) for c in range(int(labels.max()) + 1)],
            "attributes": [f"attribute {a}" for a in range(labels.shape[1])] if attributes else [],
            "condition_channels": 0 if conditions is None else conditions.shape[1],
            "derived": derived,
            "splits": {split: n},
            "mean": [0.5] * channels,
            "std": [0.2] * channels,
            "digest": digest.hexdigest(),
            "code_version": "test",
            "rejects": {},
        },
    )
    return directory


def _pictures(pixels: np.ndarray) -> pa.Array:
    images = []
    for index, picture in enumerate(pixels):
        buffer = io.BytesIO()
        Image.fromarray(picture[0] if len(picture) == 1 else picture.transpose(1, 2, 0)).save(buffer, "PNG")
        images.append({"bytes": buffer.getvalue(), "path": f"{index}.png"})
    return pa.array(images, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))


def blobs(count: int, size: int = 16, channels: int = 1, seed: int = 0) -> np.ndarray:
    """Pictures of a smooth blob at a random place, uint8 (count, channels, size, size): easy to learn, all different."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:size, 0:size] / size
    centres = rng.uniform(0.3, 0.7, (count, 2, 1, 1))
    radii = rng.uniform(0.08, 0.2, (count, 1, 1))
    bumps = np.exp(-((y - centres[:, 0]) ** 2 + (x - centres[:, 1]) ** 2) / (2 * radii**2))
    return (bumps[:, None].repeat(channels, axis=1) * 255).astype(np.uint8)
