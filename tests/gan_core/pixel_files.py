"""Picture files of every bit depth, colour type, transparency and photometric interpretation, written by hand.

Nothing of Pillow is in them: the writers follow the specifications (PNG: ISO/IEC 15948; TIFF 6.0), so that a test does not ask
a library about itself.
"""

import struct
import zlib

import numpy as np

TIFF_TYPES = {"H": 3, "I": 4}
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, MASK, CMYK, YCBCR, LAB = 0, 1, 2, 3, 4, 5, 6, 8
UNSIGNED, SIGNED, FLOAT = 1, 2, 3
UNSPECIFIED, ASSOCIATED, UNASSOCIATED = 0, 1, 2


def png(
    samples: np.ndarray,
    bits: int,
    colour_type: int,
    *,
    transparent: tuple[int, ...] | None = None,
    palette: bytes = b"",
    chunks: tuple[tuple[bytes, bytes], ...] = (),
) -> bytes:
    """A PNG of samples (H, W) or (H, W, C), each below 2**bits; ``transparent`` is the tRNS chunk's 16-bit values."""
    height, width = samples.shape[:2]
    rows = b"".join(b"\0" + packed(row.reshape(-1), bits, ">") for row in samples)
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks]
    if palette:
        parts.append((b"PLTE", palette))
    if transparent is not None:
        parts.append((b"tRNS", struct.pack(f">{len(transparent)}H", *transparent)))
    parts += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )


def tiff(
    samples: np.ndarray,
    bits: int,
    photometric: int,
    *,
    order: str = "<",
    sample_format: int = UNSIGNED,
    planar: bool = False,
    extra: int | None = None,
    palette: np.ndarray | None = None,
    deflate: bool = False,
    big: bool = False,
    more: tuple[tuple[int, str, tuple[int, ...]], ...] = (),
) -> bytes:
    """A TIFF of one strip (one per plane if ``planar``) of samples (H, W) or (H, W, C); ``extra`` is the kind of a last
    channel that is not a colour; ``big`` makes it a BigTIFF."""
    if samples.ndim == 2:
        samples = samples[..., None]
    height, width, channels = samples.shape
    planes = [samples[..., [channel]] for channel in range(channels)] if planar else [samples]
    strips = [b"".join(packed(row.reshape(-1), bits, order) for row in plane) for plane in planes]
    if deflate:
        strips = [zlib.compress(strip) for strip in strips]
    tags: list[tuple[int, str, tuple[int, ...]]] = [
        (256, "I", (width,)),
        (257, "I", (height,)),
        (258, "H", (bits,) * channels),
        (259, "H", (8 if deflate else 1,)),
        (262, "H", (photometric,)),
        (277, "H", (channels,)),
        (278, "I", (height,)),
        (284, "H", (2 if planar else 1,)),
        *more,
    ]
    if sample_format != UNSIGNED:
        tags.append((339, "H", (sample_format,) * channels))
    if extra is not None:
        tags.append((338, "H", (extra,)))
    if palette is not None:
        tags.append((320, "H", tuple(palette.reshape(-1).tolist())))
    tags += [(273, "I", (0,) * len(strips)), (279, "I", tuple(map(len, strips)))]
    tags.sort()
    place_of, count_of, room = ("Q", "Q", 8) if big else ("I", "H", 4)
    head = 16 if big else 8
    start = head + struct.calcsize(count_of) + (4 + 2 * room) * len(tags) + room
    beside = b""
    places: list[int] = []
    # The offsets of strips depend on the size of what precedes them.
    length = sum(
        len(values) * struct.calcsize(kind) for _, kind, values in tags if len(values) * struct.calcsize(kind) > room
    )
    at = start + length
    for strip in strips:
        places.append(at)
        at += len(strip)
    entries = b""
    for tag, kind, values in tags:
        values = tuple(places) if tag == 273 else values
        content = struct.pack(f"{order}{len(values)}{kind}", *values)
        if len(content) > room:
            place = struct.pack(f"{order}{place_of}", start + len(beside))
            beside += content
        else:
            place = content.ljust(room, b"\0")
        entries += struct.pack(f"{order}HH{place_of}", tag, TIFF_TYPES[kind], len(values)) + place
    mark = b"II" if order == "<" else b"MM"
    begin = struct.pack(f"{order}HHHQ", 43, 8, 0, head) if big else struct.pack(f"{order}HI", 42, head)
    return (
        mark + begin + struct.pack(f"{order}{count_of}", len(tags)) + entries + bytes(room) + beside + b"".join(strips)
    )


def packed(values: np.ndarray, bits: int, order: str) -> bytes:
    """A row of samples as bytes: below 8 bits several in a byte, the first in its high bits."""
    if bits < 8:
        spread = (values[:, None].astype(np.uint8) >> np.arange(bits)[::-1]) & 1
        return np.packbits(spread.reshape(-1)).tobytes()
    return values.astype(values.dtype.newbyteorder(order)).tobytes()
