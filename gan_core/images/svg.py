"""Render SVG files to pixels, using nothing outside the file."""

import base64
import binascii
import io
import re
import xml.etree.ElementTree as ET
from urllib.parse import unquote_to_bytes

import numpy as np
from PIL import Image

from gan_core.images import pictures, sandbox
from gan_core.images.pictures import PictureError

SUFFIX = ".svg"
LONGER_SIDE = 256
"""Pixels along the longer side of a rendered SVG. The size that the file states is ignored: vector graphics scale."""
MAX_BYTES = 32 * 2**20
"""Largest SVG file in bytes, including the pictures embedded in it."""
MAX_DEPTH = 200
"""Deepest nesting of elements. The renderer is recursive, and a stack of 8 MiB overflows between 225 and 250."""

_HREF = re.compile(r"^(\{.*\})?href$")
_DRAWN = frozenset(
    ("image", "feImage", "use", "pattern", "linearGradient", "radialGradient", "filter", "textPath", "tref", "mpath")
)
"""Elements whose references change what is rendered. Those of other elements, such as hyperlinks, are removed."""
_PICTURES = ("image", "feImage")
_DPI = 96
"""Pixels per inch, as CSS defines them, for sizes in pt, mm, cm or in. The renderer's own default makes such pictures empty."""
_EMBEDDED = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF8": "image/gif", b"RIFF": "image/webp"}
"""Formats of embedded pictures that the renderer reads, by their first bytes. It silently omits others."""
_DATA = re.compile(r"data:(?P<kind>[^;,]*)(?P<coding>(;[^;,]*)*),(?P<content>.*)", re.DOTALL | re.IGNORECASE)


def render(content: bytes) -> np.ndarray:
    """Render an SVG file: uint8 (4, H, W), transparent where nothing is drawn.

    Text elements are omitted, because their shapes would depend on the machine's fonts. Rendering uses nothing outside the
    file, and runs in a worker with limits on time and memory (:mod:`gan_core.images.sandbox`) that cannot open files.

    Raises:
        PictureError: not-an-image, corrupt, external-reference (it shows something outside the file),
            too-many-bytes, too-many-pixels, too-slow, crashed.
    """
    return sandbox.call_decoder(_render, content)


def _render(content: bytes) -> np.ndarray:
    import resvg_py  # imported here because only SVG files need it

    text = self_contained(content)
    try:
        # The text has no external references. If the renderer finds one anyway, it cannot open the file.
        with sandbox.no_files():
            drawn = resvg_py.svg_to_bytes(
                svg_string=text, width=LONGER_SIDE, height=LONGER_SIDE, dpi=_DPI, skip_system_fonts=True
            )
    except ValueError as error:
        raise PictureError("corrupt", " ".join(f"SVG: {error}".split())[:200]) from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # a bug in the renderer; derived from BaseException
            raise
        raise PictureError("corrupt", " ".join(f"SVG: {error}".split())[:200]) from error
    with Image.open(io.BytesIO(drawn), formats=["PNG"]) as picture:
        return pictures.to_array(picture.convert("RGBA"))


def self_contained(content: bytes) -> str:
    """Return the SVG as XML without a document type, in which all references point to its own parts or to embedded data.

    The renderer reads this text instead of the file, which it might parse differently from the check.

    Raises:
        PictureError: as :func:`render`.
    """
    return ET.tostring(_checked(content, embedded=False), encoding="unicode")


def _checked(content: bytes, *, embedded: bool) -> ET.Element:
    if len(content) > MAX_BYTES:
        raise PictureError("too-many-bytes", f"an SVG file of more than {MAX_BYTES >> 20} MiB")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise PictureError("not-an-image", "an SVG file must be text in UTF-8, and this is not") from None
    parser = ET.XMLParser(target=_Builder(), encoding="utf-8")
    try:
        parser.feed(text.encode())
        root: ET.Element = parser.close()
    except ET.ParseError as error:
        raise PictureError("corrupt", f"SVG: {error}"[:200]) from error
    for element in root.iter():
        if not isinstance(element.tag, str):  # a comment
            continue
        name = element.tag.rsplit("}", 1)[-1]
        for attribute in [key for key in element.keys() if _HREF.match(key)]:  # noqa: SIM118  not a dict
            place = element.get(attribute, "").strip()
            if place.startswith("#"):
                continue
            if name not in _DRAWN:
                del element.attrib[attribute]
            elif place and name in _PICTURES and place[:5].lower() == "data:":
                element.set(attribute, _embedded(place, nested=embedded))
            elif place:
                raise PictureError(
                    "external-reference",
                    f"<{name}> shows {place[:100]}, which is not part of the file; embed it (data:), or remove it",
                )
    return root


def _embedded(uri: str, *, nested: bool) -> str:
    """Check the data URI of an embedded picture, and return it in a normalised form for the renderer."""
    found = _DATA.fullmatch(uri)
    if found is None:
        raise PictureError("corrupt", "SVG: a data: URI without data")
    try:
        content = unquote_to_bytes(found["content"])
        if found["coding"].lower().endswith(";base64"):
            content = base64.b64decode(re.sub(rb"\s", b"", content) + b"==")
    except binascii.Error as error:
        raise PictureError("corrupt", f"SVG: a data: URI that is not base64 ({error})") from error
    kind = found["kind"].strip().lower()
    if kind == "image/svg+xml":
        if nested:
            raise PictureError("corrupt", "SVG: an SVG embedded in an SVG that is itself embedded")
        content = ET.tostring(_checked(content, embedded=True), encoding="utf-8")
    else:
        pictures.read_size(content)  # raises if it is no picture, or too large
        # The renderer trusts the stated type, and draws nothing if it is wrong.
        named, kind = kind, next((kind for head, kind in _EMBEDDED.items() if content.startswith(head)), "")
        if not kind:
            raise PictureError(
                "unsupported",
                f"SVG: an embedded picture ({named[:40] or 'no stated type'}) is not a PNG, JPEG, GIF or WebP; convert it",
            )
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


class _Builder(ET.TreeBuilder):
    """Build the tree with its comments, and refuse elements nested too deep."""

    def __init__(self) -> None:
        super().__init__(insert_comments=True)
        self._depth = 0

    def start(self, tag: str, attrs: dict[str, str]) -> ET.Element:  # type: ignore[override]
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise PictureError("corrupt", f"SVG: elements nested more than {MAX_DEPTH} deep")
        return super().start(tag, attrs)

    def end(self, tag: str) -> ET.Element:
        self._depth -= 1
        return super().end(tag)
