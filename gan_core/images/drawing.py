"""SVG files as pixels, drawn from their own text alone."""

import base64
import binascii
import io
import re
import xml.etree.ElementTree as ET
from urllib.parse import unquote_to_bytes

import numpy as np
from PIL import Image

from gan_core.images import bounded, pictures
from gan_core.images.pictures import PictureError

SUFFIX = ".svg"
LONGER_SIDE = 256
"""Pixels along a drawing's longer side, whatever size it states: a drawing has no size of its own."""
MAX_BYTES = 32 * 2**20
"""Of a drawing's text, with the pictures embedded in it."""
MAX_DEPTH = 200
"""Elements within each other. The renderer calls itself for each, and a stack of 8 MiB ends between 225 and 250."""

_HREF = re.compile(r"^(\{.*\})?href$")
_DRAWN = frozenset(
    ("image", "feImage", "use", "pattern", "linearGradient", "radialGradient", "filter", "textPath", "tref", "mpath")
)
"""Elements whose reference changes what is drawn; any other's, such as a hyperlink's, is left out."""
_PICTURES = ("image", "feImage")
_EMBEDDED = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF8": "image/gif", b"RIFF": "image/webp"}
"""What the renderer draws of embedded pictures, by how they begin: others it leaves out without a word."""
_DATA = re.compile(r"data:(?P<kind>[^;,]*)(?P<coding>(;[^;,]*)*),(?P<content>.*)", re.DOTALL | re.IGNORECASE)


def draw(content: bytes) -> np.ndarray:
    """Draw an SVG file: uint8 (4, H, W), transparent where nothing is drawn.

    Texts are left out: their shapes would be those of the machine's fonts. Drawn from the file's own text alone, in a
    worker with limits on time and memory (:mod:`gan_core.images.bounded`) that cannot open a file meanwhile.

    Raises:
        PictureError: not-an-image, corrupt, external-reference (it shows something outside of its own text),
            too-many-bytes, too-many-pixels, too-slow, crashed.
    """
    return bounded.picture_of(_draw, content)


def _draw(content: bytes) -> np.ndarray:
    import resvg_py  # only drawings need it

    text = self_contained(content)
    try:
        # The text refers to nothing outside of it. Should the renderer see that otherwise, there are no files for it.
        with bounded.no_files():
            drawn = resvg_py.svg_to_bytes(
                svg_string=text, width=LONGER_SIDE, height=LONGER_SIDE, skip_system_fonts=True
            )
    except ValueError as error:
        raise PictureError("corrupt", " ".join(f"SVG: {error}".split())[:200]) from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # a bug of the renderer's, which Python does not call an Exception
            raise
        raise PictureError("corrupt", " ".join(f"SVG: {error}".split())[:200]) from error
    with Image.open(io.BytesIO(drawn), formats=["PNG"]) as picture:
        return pictures.to_array(picture.convert("RGBA"))


def self_contained(content: bytes) -> str:
    """The drawing as XML without a document type, in which every reference is to a part of it or to embedded data.

    The renderer reads this and never the file itself, whose text it might understand in another way than it was checked in.

    Raises:
        PictureError: as :func:`draw`.
    """
    return ET.tostring(_checked(content, embedded=False), encoding="unicode")


def _checked(content: bytes, *, embedded: bool) -> ET.Element:
    if len(content) > MAX_BYTES:
        raise PictureError("too-many-bytes", f"a drawing of more than {MAX_BYTES >> 20} MiB")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise PictureError("not-an-image", "an SVG file is text in UTF-8, and this is none") from None
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
        for attribute in [key for key in element.keys() if _HREF.match(key)]:  # noqa: SIM118  it is no dict
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
                    f"<{name}> shows {place[:100]}, which is not part of the file; embed it (data:), or take it out",
                )
    return root


def _embedded(uri: str, *, nested: bool) -> str:
    """The data URI of an embedded picture, checked, in the one spelling that the renderer is given."""
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
            raise PictureError("corrupt", "SVG: a drawing embedded in a drawing that is embedded in a third")
        content = ET.tostring(_checked(content, embedded=True), encoding="utf-8")
    else:
        pictures.size_of(content)  # raises for what is none, or too large
        # The renderer goes by what the text calls it, and draws nothing where that is wrong.
        named, kind = kind, next((kind for head, kind in _EMBEDDED.items() if content.startswith(head)), "")
        if not kind:
            raise PictureError(
                "unsupported",
                f"SVG: an embedded picture ({named[:40] or 'of no stated kind'}) that is no PNG, JPEG, GIF or WebP; convert it",
            )
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


class _Builder(ET.TreeBuilder):
    """Builds the tree with its comments, and refuses what lies too deep."""

    def __init__(self) -> None:
        super().__init__(insert_comments=True)
        self._depth = 0

    def start(self, tag: str, attrs: dict[str, str]) -> ET.Element:  # type: ignore[override]
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise PictureError("corrupt", f"SVG: more than {MAX_DEPTH} elements within each other")
        return super().start(tag, attrs)

    def end(self, tag: str) -> ET.Element:
        self._depth -= 1
        return super().end(tag)
