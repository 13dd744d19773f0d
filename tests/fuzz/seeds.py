"""Small valid inputs of every kind, to make broken ones from."""

import functools
import io
import json
import tarfile
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

_FORMATS: dict[str, tuple[dict[str, object], ...]] = {
    "PNG": ({}, {"optimize": True}),
    "JPEG": ({"quality": 60}, {"quality": 60, "progressive": True}),
    "GIF": ({},),
    "WEBP": ({}, {"lossless": True}),
    "BMP": ({},),
    "TIFF": ({}, {"compression": "tiff_lzw"}, {"compression": "tiff_deflate"}, {"compression": "jpeg"}),
    "PPM": ({},),
    "TGA": ({}, {"compression": "tga_rle"}),
    "ICO": ({},),
    "PCX": ({},),
    "SGI": ({},),
    "DDS": ({},),
    "JPEG2000": ({},),
    "AVIF": ({},),
}
_MODES = ("RGB", "L", "RGBA", "P", "1", "I;16", "LA", "CMYK")


def noise(mode: str, side: int = 12) -> Image.Image:
    """A noise picture, always the same."""
    pixels = np.random.default_rng(len(mode)).integers(0, 256, (side, side + 1, 4), dtype=np.uint8)
    if mode == "I;16":
        return Image.fromarray(pixels[..., :2].copy().view(np.uint16)[..., 0])
    return Image.fromarray(pixels, "RGBA").convert(mode)


@functools.cache
def pictures() -> dict[str, bytes]:
    """Files of all supported formats that Pillow can write, by format, mode and options."""
    found = {}
    for name, choices in _FORMATS.items():
        for number, options in enumerate(choices):
            for mode in _MODES:
                buffer = io.BytesIO()
                try:
                    noise(mode).save(buffer, name, **options)
                except (OSError, ValueError, KeyError):
                    continue  # a mode that the format does not have
                found[f"{name} {mode} {number}"] = buffer.getvalue()
    frames = [noise("P"), noise("P", 10), noise("P")]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    return {**found, "GIF frames": buffer.getvalue()}


@functools.cache
def archives() -> dict[str, bytes]:
    """Zips and tars of two classes of pictures."""
    picture = pictures()["PNG RGB 0"]
    files = {"cat/1.png": picture, "cat/2.png": picture[:-1] + b"\0", "dog/Hündchen.png": picture, "notes.txt": b"x"}
    found = {}
    for name, method in (("stored", zipfile.ZIP_STORED), ("deflated", zipfile.ZIP_DEFLATED)):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as zipped:
            for path, content in files.items():
                zipped.writestr(zipfile.ZipInfo(path), content, method)
        found[f"zip {name}"] = buffer.getvalue()
    for mode, form in (
        ("", tarfile.PAX_FORMAT),
        ("", tarfile.GNU_FORMAT),
        ("gz", tarfile.USTAR_FORMAT),
        ("xz", 1),
        ("bz2", 1),
    ):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode=f"w:{mode}", format=form) as tar:
            for path, content in files.items():
                info = tarfile.TarInfo(path)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        found[f"tar {mode} {form}"] = buffer.getvalue()
    return found


@functools.cache
def tables() -> dict[str, bytes]:
    """Tables of labels and attributes of a.png, b.png and c.png, by file name."""
    rows = [("a.png", "cat"), ("b.png", "dog"), ("c.png", "cat")]
    lines = "".join(json.dumps({"file_name": file, "label": label}) + "\n" for file, label in rows)
    stylegan = {"labels": [[file, number] for number, (file, _) in enumerate(rows)]}
    return {
        "labels.csv": b"file,label\n" + b"".join(f"{file},{label}\n".encode() for file, label in rows),
        "labels.tsv": b"file\tlabel\tsplit\n" + b"".join(f"{file}\t{label}\ttrain\n".encode() for file, label in rows),
        "quoted.csv": b'\xef\xbb\xbf"image";"class"\r\n"a.png";"a ""cat"""\r\n"b.png";"dog"\r\n',
        "metadata.jsonl": lines.encode(),
        "list_attr.txt": b"3\nSmiling Young\na.png 1 -1\nb.png -1 -1\nc.png 1 1\n",
        "attributes.csv": b"image_id,Smiling,Young\na.png,1,0\nb.png,0,0\nc.png,1,1\n",
        "dataset.json": json.dumps(stylegan).encode(),
    }


@functools.cache
def parquets() -> dict[str, bytes]:
    """Parquet files of pictures, as bytes and as in Hugging Face's format, with labels of several types."""
    content = [pictures()["PNG RGB 0"], pictures()["PNG L 0"], pictures()["JPEG RGB 0"]]
    structs = pa.array([{"bytes": picture, "path": None} for picture in content])
    plain = pa.array(content)
    tables = {
        "hub": pa.table({"image": structs, "label": pa.array([0, 1, 0])}),
        "plain": pa.table({"image": plain, "label": pa.array(["cat", "dog", "cat"])}),
        "splits": pa.table({"image": plain, "split": ["train", "train", "test"], "label": [1.0, 2.0, None]}),
        "bare": pa.table({"image": structs}),
    }
    found = {}
    for name, table in tables.items():
        for compression in ("none", "snappy", "zstd"):
            buffer = io.BytesIO()
            pq.write_table(table, buffer, compression=compression)
            found[f"{name} {compression}"] = buffer.getvalue()
    return found
