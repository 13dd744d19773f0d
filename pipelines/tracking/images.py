"""The names of pictures with a step, as MLflow's client gives them (``MlflowClient.log_image``, MLflow 3.17).

MLflow's chart view finds pictures, their keys and their steps by these names.
"""

import re
import uuid
from dataclasses import dataclass

from gan_core.errors import TrackingError

IMAGES = "images"
"""Folder of the pictures among a run's artifacts."""
IMAGES_TAG = "mlflow.loggedImages"
"""Tag of a run that has such pictures; the chart view asks only these runs for them."""
PREVIEW_SIDE = 256
"""Longer side of the preview, in pixels."""
_KEY = re.compile(r"[A-Za-z0-9_\-./ ]+")
_PICTURE = re.compile(r"(?P<key>[^+]+)\+step\+(?P<step>\d+)\+timestamp\+\d+\+[0-9a-f-]+\.png")


@dataclass(frozen=True, kw_only=True)
class ImageNames:
    """The two files of a picture."""

    picture: str
    preview: str


def image_names(key: str, step: int, time: int) -> ImageNames:
    """The names of the files of the picture ``key`` at ``step``, logged at ``time`` (milliseconds since the epoch).

    Raises:
        TrackingError: the key has characters other than letters, digits and ``_-. /``.
    """
    if not _KEY.fullmatch(key):
        raise TrackingError(f"'{key}' is not a valid name of a picture: use letters, digits, spaces and _ - . /.")
    stem = f"{key.replace('/', '~')}+step+{step}+timestamp+{time}+{uuid.uuid4()}"
    return ImageNames(picture=f"{stem}.png", preview=f"{stem}+compressed.webp")


def parse_image_name(name: str) -> tuple[str, int] | None:
    """Key and step of the picture with the file name ``name``; None for previews and other files."""
    found = _PICTURE.fullmatch(name)
    return (found["key"].replace("~", "/"), int(found["step"])) if found else None


def preview_size(width: int, height: int) -> tuple[int, int]:
    """Width and height of the preview of a picture."""
    longer = max(width, height)
    return max(1, width * PREVIEW_SIDE // longer), max(1, height * PREVIEW_SIDE // longer)
