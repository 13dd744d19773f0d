"""The registered model as MLflow runs it ("models from code"): rows that ask for pictures in, PNGs out.

MLflow copies this file and the ``gan_core`` package beside the weights, so a version is used where Gantry is not
installed. Nothing here is pickled.
"""

import base64
import binascii
import io
import logging
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PythonModel, PythonModelContext
from PIL import Image

LIMIT = 1024
"""Pictures in one request, over all its rows."""
MOST_PIXELS = 2**24
"""Width times height of a picture to translate: a larger one could take all of a server's memory."""
_LOG = logging.getLogger(__name__)


class GeneratorModel(PythonModel):
    """A generator behind rows of a frame: what makes images from noise draws them, what translates is given some."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the generator, on the GPU when there is one.

        Raises:
            CheckpointError: a file of the model is not what was registered. That of a script that was changed too is for
                Gantry's own commands to find: they compare with the registry, and run nothing of the model's.
        """
        import torch

        from gan_core.generator import load_generator
        from gan_core.manifest import check_manifest

        check_manifest(Path(context.artifacts["generator"]).parents[1])
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.generator = load_generator(context.artifacts["generator"], device)
        _LOG.info("Generator %s on %s.", self.generator.digest[:12], device)

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> Any:
        """Make the pictures that the rows ask for; equal rows give equal pictures.

        Args:
            context: MLflow's; not used.
            model_input: to draw: ``n`` (pictures, at least 1), and where wanted ``seed`` (0 by default), ``label`` (class
                index) and ``truncation``. To translate: ``image`` (a picture file, or its base64 text) or ``pixels``
                (rows of pixels of 1, 3 or 4 numbers, 0 to 255), and where wanted ``target`` (domain, by name or number),
                ``seed`` and, of a model that takes one, ``reference``: a picture of that domain, given like ``image``,
                whose style is taken.
            params: MLflow's; not used.

        Returns:
            A frame with the columns ``png`` (bytes; base64 over HTTP) and ``row`` (of the request), and of pictures that
            were drawn ``seed`` and ``index`` (of the picture within its seed).

        Raises:
            MlflowException: (HTTP 400) a value that the generator cannot take; names the row.
        """
        rows = model_input.to_dict("records")
        if not rows:  # MLflow drops the columns that it does not know, and a row that is left with none
            known = "image or pixels" if self.generator.translates else "n"
            raise _invalid(f"the request has no row with a known column; give {known}.")
        if self.generator.translates:
            return self._translated(rows)
        return self._drawn(rows)

    # -- image to image ------------------------------------------------------------------------------------------------

    def _translated(self, rows: list[dict[str, Any]]) -> pd.DataFrame:
        if len(rows) > LIMIT:
            raise _invalid(f"the request has {len(rows)} pictures; the most at once is {LIMIT}.")
        made = [{"png": self._translation(row, number), "row": number} for number, row in enumerate(rows)]
        return pd.DataFrame(made, columns=["png", "row"])

    def _translation(self, row: dict[str, Any], number: int) -> bytes:
        """The PNG of one row's picture. Each goes alone: what it becomes does not depend on the others."""
        import torch

        from gan_core.conditions import encode, read_condition, target_index, with_alpha
        from gan_core.errors import GantryError
        from gan_core.families import ImageShape

        seed, target = _integer(row, "seed", number) or 0, row.get("target")
        named = None if _missing(target) else str(target)
        try:
            chosen = target_index(self.generator, named)
            condition = read_condition(_picture(row, number), ImageShape(**self.generator.info["shape"]))
            images = torch.from_numpy(condition.pixels[None])
            if _missing(row.get("reference")):
                made = self.generator.translate(images, chosen, seed)
            else:
                made = self._translation_like(images, _file(row, "reference", number), chosen, number)
        except GantryError as error:
            raise _invalid(f"row {number}: {error}") from error
        return encode(with_alpha(made[0].numpy(), condition.alpha))

    def _translation_like(self, images: Any, reference: bytes, target: int | None, number: int) -> Any:
        """A row's picture, uint8 (1, C, H, W), in the style of its reference."""
        import torch

        from gan_core.conditions import read_reference
        from gan_core.pictures import PictureError

        try:
            style = torch.from_numpy(read_reference(reference, self.generator)[None])
        except PictureError as error:
            raise _invalid(f"row {number}: reference: {error}") from error
        assert target is not None, "who takes a style translates to several domains"
        return self.generator.translate_like(images, style, target)

    # -- noise to image ------------------------------------------------------------------------------------------------

    def _drawn(self, rows: list[dict[str, Any]]) -> pd.DataFrame:
        from gan_core.conditions import encode, with_alpha
        from gan_core.errors import GantryError

        counts = [_integer(row, "n", number) for number, row in enumerate(rows)]
        if sum(count or 0 for count in counts) > LIMIT:
            raise _invalid(f"the request asks for {sum(c or 0 for c in counts)} pictures; the most at once is {LIMIT}.")
        made: list[dict[str, Any]] = []
        for number, row in enumerate(rows):
            n, seed, label = counts[number], _integer(row, "seed", number) or 0, _integer(row, "label", number)
            if n is None or n < 1:
                raise _invalid(f"row {number}: n is {n}; ask for 1 or more pictures.")
            self._check_label(label, number)
            truncation = row.get("truncation")
            truncation = None if truncation is None or pd.isna(truncation) else float(truncation)
            try:
                pictures = self.generator.sample(n, seed, label, truncation).numpy()
            except GantryError as error:
                raise _invalid(f"row {number}: {error}") from error
            made += [
                {"png": encode(with_alpha(picture)), "seed": seed, "index": index, "row": number}
                for index, picture in enumerate(pictures)
            ]
        return pd.DataFrame(made, columns=["png", "seed", "index", "row"])

    def _check_label(self, label: int | None, number: int) -> None:
        classes = self.generator.info["shape"]["classes"]
        if label is not None and not 0 <= label < classes:
            known = f"it takes 0 to {classes - 1}" if classes else "it was trained without labels, leave the column out"
            raise _invalid(f"row {number}: the generator has no label {label}; {known}.")


def _missing(value: Any) -> bool:
    """Whether a row has nothing in a column: pandas fills the gaps of mixed rows with NaN."""
    return value is None or (isinstance(value, float) and np.isnan(value)) or value is pd.NA


def _picture(row: dict[str, Any], number: int) -> bytes | np.ndarray:
    """A row's picture: the bytes of a file, or pixels (C, H, W)."""
    image, pixels = row.get("image"), row.get("pixels")
    if _missing(image) == _missing(pixels):
        raise _invalid(f"row {number}: give one picture, as image (a file's bytes, base64 in JSON) or as pixels.")
    return _from_pixels(pixels, number) if _missing(image) else _file(row, "image", number)


def _file(row: dict[str, Any], column: str, number: int) -> bytes:
    """The bytes of a picture file in a row's ``column``, of a size that may be read."""
    content = row[column]
    if isinstance(content, str):
        try:
            content = base64.b64decode(content, validate=True)
        except (binascii.Error, ValueError) as error:
            raise _invalid(f"row {number}: {column} is text, and not base64 ({error}).") from error
    if not isinstance(content, (bytes, bytearray)):
        raise _invalid(f"row {number}: {column} is {type(content).__name__}; it must be a picture file's bytes.")
    try:
        with Image.open(io.BytesIO(content)) as picture:
            _check_size(picture.width * picture.height, number)
    except MlflowException:
        raise
    except (
        Exception
    ):  # Pillow raises nearly anything at a broken file; reading it in earnest says what is wrong with it
        _LOG.debug("Row %d: the head of the picture cannot be read.", number)
    return bytes(content)


def _from_pixels(pixels: Any, number: int) -> np.ndarray:
    try:
        # numpy hands MLflow's nested arrays on as arrays of arrays.
        values = np.array([[list(pixel) for pixel in line] for line in pixels], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise _invalid(f"row {number}: pixels are not rows of pixels of equal length ({error}).") from error
    if values.ndim != 3 or values.shape[2] not in (1, 3, 4) or not values.size:
        raise _invalid(f"row {number}: pixels have the shape {values.shape}; it must be (height, width, 1, 3 or 4).")
    if not ((values >= 0) & (values <= 255) & (values == np.floor(values))).all():
        raise _invalid(f"row {number}: pixels must be whole numbers from 0 to 255.")
    _check_size(values.shape[0] * values.shape[1], number)
    return np.ascontiguousarray(values.astype(np.uint8).transpose(2, 0, 1))


def _check_size(pixels: int, number: int) -> None:
    if pixels > MOST_PIXELS:
        raise _invalid(f"row {number}: the picture has {pixels} pixels; the most is {MOST_PIXELS}. Make it smaller.")


def _integer(row: dict[str, Any], name: str, number: int) -> int | None:
    value = row.get(name)
    if value is None or pd.isna(value):
        return None
    if int(value) != value:
        raise _invalid(f"row {number}: {name} is {value}; it must be a whole number.")
    return int(value)


def _invalid(message: str) -> MlflowException:
    return MlflowException.invalid_parameter_value(message)


mlflow.models.set_model(GeneratorModel())
