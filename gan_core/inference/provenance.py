"""Where a picture comes from, in a text chunk of its PNG that viewers do not show: the generator's digest and the request."""

import json
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from gan_core.errors import DataError

CHUNK = "gantry"
"""Keyword of the text chunk; its value is a JSON object."""
_LARGEST = 1 << 16


def provenance(digest: str, **request: Any) -> PngImagePlugin.PngInfo:
    """The text chunk of a picture.

    Args:
        digest: digest of the generator that made it.
        request: how it was made, such as seed and label; values that are None are left out.
    """
    values = {"generator": digest, **{name: value for name, value in request.items() if value is not None}}
    chunk = PngImagePlugin.PngInfo()
    chunk.add_text(CHUNK, json.dumps(values, sort_keys=True))
    return chunk


def read_provenance(path: Path) -> dict[str, Any]:
    """The generator's digest (``generator``) and the request in the text chunk of a picture.

    Raises:
        DataError: the file is not a PNG, or has no such chunk.
    """
    remedy = "Only PNGs of gantry sample, gantry translate and a served model have one, until another program saves them again."
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            picture.load()  # the chunk may follow the pixels
            text = picture.info.get(CHUNK)
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path} is not a PNG that can be read ({error}). {remedy}") from error
    try:
        values = json.loads(text) if isinstance(text, str) and len(text) <= _LARGEST else None
    except ValueError:
        values = None
    if not isinstance(values, dict) or not isinstance(values.get("generator"), str):
        raise DataError(f"{path} does not say which generator made it: it has no text chunk '{CHUNK}'. {remedy}")
    return values
