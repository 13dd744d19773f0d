"""Make broken inputs from valid ones: random changes of bytes, and well-formed structures with wrong content.

Every function draws from the generator ``random``, so input ``n`` is always the same.
"""

import io
import json
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq

_NUMBERS = (0, 1, 2, 127, 128, 255, 256, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_NAMES = (
    *(
        "a.png",
        "b.png",
        "../outside/x.png",
        "/etc/x",
        "..",
        ".",
        "",
        "a/../../outside/x",
        "a//b",
        "a/./b.png",
        "a\\b.png",
    ),
    *(
        "..\\outside\\x",
        "C:\\x.png",
        "\0.png",
        "a\n.png",
        "x" * 300,
        "/".join(["d"] * 200),
        "a.png/b.png",
        "~/x",
        "-rf",
    ),
    *(
        "\udcff.png",
        "é.png",
        "e\u0301.png",
        "\u202egnp.a",
        "con",
        "a.png ",
        " ",
        "__MACOSX/a.png",
        "A.PNG",
        "train/a.png",
    ),
)
_CELLS = (
    *(
        "a.png",
        "b.png",
        "c.png",
        "cat",
        "dog",
        "0",
        "1",
        "-1",
        "1.0",
        "10",
        "True",
        "nan",
        "inf",
        "1e999",
        "",
        " ",
        "null",
    ),
    *(
        "../a.png",
        "/a.png",
        "file",
        "label",
        "split",
        "train",
        "test",
        "x" * 70000,
        "\0",
        '"',
        "'",
        "\n",
        "\r",
        ";",
        "é",
    ),
    *("9" * 400, "[1]", "{}", "\ufeff", "image", "image_id", "class"),
)


def blind(content: bytes, others: Sequence[bytes], random: Random) -> bytes:
    """Make one to four random changes to ``content``, regardless of its format."""
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        content = random.choice(_BLIND)(bytearray(content), others, random)
    return content


def _flip(content: bytearray, others: Sequence[bytes], random: Random) -> bytes:
    for _ in range(random.choice((1, 1, 2, 8))):
        if content:
            content[random.randrange(len(content))] ^= 1 << random.randrange(8)
    return bytes(content)


def _overwrite(content: bytearray, others: Sequence[bytes], random: Random) -> bytes:
    """Overwrite a number of 1, 2 or 4 bytes in either byte order, like a length, offset or count."""
    form = random.choice(("B", "<H", ">H", "<I", ">I"))
    size = struct.calcsize(form)
    number = random.choice(_NUMBERS) & (256**size - 1)
    if len(content) >= size:
        # Prefer the header at the beginning.
        place = random.choice((random.randrange(len(content)), random.randrange(min(len(content), 64))))
        place = min(place, len(content) - size)
        content[place : place + size] = struct.pack(form, number)
    return bytes(content)


def _truncate(content: bytearray, others: Sequence[bytes], random: Random) -> bytes:
    return bytes(content[: random.randrange(len(content) + 1)])


def _cut(content: bytearray, others: Sequence[bytes], random: Random) -> bytes:
    start = random.randrange(len(content) + 1)
    del content[start : start + random.choice((1, 2, 4, 16, 64))]
    return bytes(content)


def _repeat(content: bytearray, others: Sequence[bytes], random: Random) -> bytes:
    start = random.randrange(len(content) + 1)
    return bytes(content[:start] + content[start : start + 64] * random.choice((2, 3, 50)) + content[start:])


def _splice(content: bytearray, others: Sequence[bytes], random: Random) -> bytes:
    other = random.choice(others)
    return bytes(content[: random.randrange(len(content) + 1)] + other[random.randrange(len(other) + 1) :])


_BLIND: tuple[Callable[[bytearray, Sequence[bytes], Random], bytes], ...] = (
    *(_flip, _flip, _overwrite, _overwrite, _truncate, _cut, _repeat, _splice),
)


# -- pictures --------------------------------------------------------------------------------------------------------


def png_chunks(content: bytes, random: Random) -> bytes:
    """Change chunks of a PNG and correct their checksums, so that the changes reach the decoder."""
    chunks, at = [], 8
    while at + 12 <= len(content):
        (length,) = struct.unpack(">I", content[at : at + 4])
        chunks.append([content[at + 4 : at + 8], content[at + 8 : at + 8 + length]])
        at += 12 + length
    for _ in range(random.choice((1, 1, 2, 3))):
        place = random.randrange(len(chunks))
        change = random.randrange(6)
        if change < 3:
            chunks[place][1] = _overwrite(bytearray(chunks[place][1]), (), random)
        elif change == 3:
            kind = random.choice(
                (b"PLTE", b"tRNS", b"gAMA", b"iCCP", b"eXIf", b"acTL", b"fcTL", b"zTXt", b"IDAT", b"IEND")
            )
            chunks.insert(place, [kind, random.randbytes(random.choice((0, 1, 2, 3, 26, 300)))])
        elif change == 4 and len(chunks) > 1:
            del chunks[place]
        else:
            chunks.insert(place, list(random.choice(chunks)))
    whole = content[:8]
    for kind, data in chunks:
        whole += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return whole


def tiff_tags(content: bytes, random: Random) -> bytes:
    """Change one or two entries in the directory of a TIFF."""
    order = "<" if content[:2] == b"II" else ">"
    (at,) = struct.unpack(f"{order}I", content[4:8])
    (count,) = struct.unpack(f"{order}H", content[at : at + 2])
    changed = bytearray(content)
    for _ in range(random.choice((1, 1, 2))):
        entry = at + 2 + 12 * random.randrange(count)
        offset, form = random.choice(((0, "H"), (2, "H"), (4, "I"), (8, "I"), (8, "H")))
        value = random.choice((*_NUMBERS, *range(254, 348), *range(14)))
        size = struct.calcsize(form)
        struct.pack_into(f"{order}{form}", changed, entry + offset, value & (256**size - 1))
    return bytes(changed)


# -- archives --------------------------------------------------------------------------------------------------------


def hostile_zip(content: bytes, random: Random) -> bytes:
    """A zip of members with hostile names, types and sizes, most of them with ``content``."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as zipped:
        for _ in range(random.choice((1, 2, 5))):
            info = zipfile.ZipInfo("x")
            info.filename = random.choice(_NAMES).encode("utf-8", "replace").decode()
            info.external_attr = random.choice((0, 0o120777, 0o40755, 0o10644, 0o60644, 0o100000)) << 16
            held = random.choice((content, random.choice(_NAMES).encode("utf-8", "replace"), b"", b"\0" * 100_000))
            zipped.writestr(info, held)
    whole = bytearray(buffer.getvalue())
    # The directory at the end repeats sizes and offsets.
    directory = whole.find(b"PK\1\2")
    if directory >= 0 and random.random() < 0.5:
        offset, form = random.choice(
            ((8, "<H"), (10, "<H"), (16, "<I"), (20, "<I"), (24, "<I"), (28, "<H"), (30, "<H"), (42, "<I"))
        )
        value = random.choice(_NUMBERS) & (256 ** struct.calcsize(form) - 1)
        struct.pack_into(form, whole, directory + offset, value)
    return bytes(whole)


def hostile_tar(content: bytes, random: Random) -> bytes:
    """A tar of members with hostile names, types, links and sizes, and ``content``."""
    buffer = io.BytesIO()
    form = random.choice((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT))
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for _ in range(random.choice((1, 2, 5))):
            info = tarfile.TarInfo(random.choice(_NAMES))
            kinds = (tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE)
            info.type = random.choice((*kinds, tarfile.CHRTYPE, tarfile.GNUTYPE_SPARSE, tarfile.CONTTYPE, b"?"))
            info.linkname = random.choice(_NAMES)
            info.mode = random.choice((0o644, 0, 0o4777))
            info.size = len(content) if info.isreg() else 0
            if form == tarfile.PAX_FORMAT and random.random() < 0.3:
                headers = ("path", "size", "linkpath", "mtime", "GNU.sparse.map", "GNU.sparse.size", "GNU.sparse.major")
                info.pax_headers = {
                    random.choice(headers): random.choice(("1", "-1", "9" * 30, "x", "../outside/x", "nan"))
                }
            try:
                tar.addfile(info, io.BytesIO(content) if info.size else None)
            except (ValueError, UnicodeError):
                continue  # a name that this tar format cannot hold
    whole = bytearray(buffer.getvalue())
    if len(whole) >= 512 and random.random() < 0.3:
        # Change the size in the first header, and correct its checksum.
        whole[124:136] = random.choice(
            (b"77777777777\0", b"00000000001\0", b"\x80" + b"\xff" * 11, b"-0000000001\0", b"x" * 12)
        )
        whole[148:156] = b" " * 8
        whole[148:156] = f"{sum(whole[:512]):06o}\0 ".encode()
    return bytes(whole)


# -- tables ----------------------------------------------------------------------------------------------------------


def strange_csv(random: Random) -> bytes:
    """A CSV with unusual cells, rows of different lengths, and any separator and encoding."""
    separator, end = random.choice((",", ",", ",", ";", "\t", "|")), random.choice(("\n", "\n", "\r\n", "\r"))
    first = random.choice(
        (["file", "label"], ["file", "label"], ["file", "label", "split"], ["image_id", "Smiling"], None)
    )
    rows = [first] if first else []
    for _ in range(random.choice((0, 1, 3, 3, 20))):
        width = random.choice((2, 2, 2, len(first or "12"), 1, 3, 0))
        rows.append([random.choice(_CELLS) for _ in range(width)])
        if random.random() < 0.7 and rows[-1]:
            rows[-1][0] = random.choice(("a.png", "b.png", "c.png"))
    quoted = random.random() < 0.5
    text = end.join(
        separator.join('"' + cell.replace('"', '""') + '"' if quoted else cell for cell in row) for row in rows
    )
    return text.encode(random.choice(("utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1")), "replace")


def strange_json(random: Random) -> bytes:
    """JSON lines with unusual content, or a StyleGAN label file of them."""
    values = (*_CELLS[:30], 0, -1, 1.5, 2**70, None, True, [], [1], {}, {"a": 1}, float("nan"), [["a.png", 1]])
    lines = []
    for _ in range(random.choice((0, 1, 3, 10))):
        row = {random.choice(("file_name", "label", "split", "x", "")): random.choice(values) for _ in range(3)}
        row.setdefault("file_name", random.choice(("a.png", "b.png")))
        lines.append(random.choice((row, row, row, random.choice(values))))
    if random.random() < 0.3:
        labels = [[random.choice(("a.png", "b.png", *values)), random.choice(values)] for _ in range(3)]
        return json.dumps({"labels": random.choice((labels, lines, random.choice(values)))}).encode()
    if random.random() < 0.05:
        return b"[" * 100_000
    return "\n".join(json.dumps(line) for line in lines).encode()


# -- Parquet ---------------------------------------------------------------------------------------------------------


def strange_parquet(contents: Sequence[bytes], random: Random) -> bytes:
    """A Parquet file with unusual columns: types, nulls, nesting, names, splits."""
    n = random.choice((0, 1, 3, 3, 3))
    images = {
        "structs": lambda: pa.array([{"bytes": random.choice(contents), "path": "x"} for _ in range(n)]),
        "nulls": lambda: pa.array([None if random.random() < 0.5 else {"bytes": None, "path": None} for _ in range(n)],
                                  pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        "bytes": lambda: pa.array([random.choice((*contents, b"", None)) for _ in range(n)], pa.binary()),
        "large": lambda: pa.array([random.choice(contents) for _ in range(n)], pa.large_binary()),
        "fixed": lambda: pa.array([b"12345678"] * n, pa.binary(8)),
        "texts": lambda: pa.array(["a.png"] * n),
        "lists": lambda: pa.array([[1, 2]] * n),
        "views": lambda: pa.array([random.choice(contents) for _ in range(n)], pa.binary_view()),
        "dictionary": lambda: pa.array([random.choice(contents) for _ in range(n)], pa.binary()).dictionary_encode(),
    }  # fmt: skip
    labels = {
        "whole": lambda: pa.array([random.choice((0, 1, -1, 2**62, None)) for _ in range(n)], pa.int64()),
        "floats": lambda: pa.array(
            [random.choice((0.0, 1.5, float("nan"), float("inf"), -1.0)) for _ in range(n)], pa.float64()
        ),
        "texts": lambda: pa.array([random.choice(_CELLS) for _ in range(n)], pa.string()),
        "bytes": lambda: pa.array([b"\xff"] * n, pa.binary()),
        "lists": lambda: pa.array([[0]] * n),
        "structs": lambda: pa.array([{"a": 1}] * n),
        "nothing": lambda: pa.nulls(n),
        "times": lambda: pa.array([2**62] * n, pa.timestamp("us")),
        "decimals": lambda: pa.array([1] * n).cast(pa.decimal128(38, 2)),
        "bools": lambda: pa.array([True] * n),
        "dictionary": lambda: pa.array(["cat"] * n).dictionary_encode(),
    }
    columns = [(random.choice(("image", "image", "img", "")), random.choice(list(images.values()))())]
    if random.random() < 0.8:
        columns.append((random.choice(("label", "label", "class", "image")), random.choice(list(labels.values()))()))
    if random.random() < 0.4:
        columns.append(
            ("split", random.choice((labels["texts"], lambda: pa.array(["train"] * n), labels["nothing"]))())
        )
    table = pa.Table.from_arrays([column for _, column in columns], [name for name, _ in columns])
    if random.random() < 0.3:
        info = random.choice(
            (b"{}", b"[", b'{"info": {"features": {"label": {"names": ["a", 1, null]}}}}', b"\xff", b"null")
        )
        table = table.replace_schema_metadata({b"huggingface": info})
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()
