"""The registered model as MLflow runs it ("models from code"): rows that ask for pictures in, PNGs out.

MLflow copies this file and the ``gan_core`` package beside the weights, so a version is used where Gantry is not
installed. Nothing here is pickled.
"""

import base64
import binascii
import io
import logging
import math
import threading
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, TEMPORARILY_UNAVAILABLE
from mlflow.pyfunc import PythonModel, PythonModelContext
from PIL import Image

LIMIT = 1024
"""Pictures in one request, over all its rows."""
MOST_PIXELS = 2**24
"""Width times height of a picture to translate: a larger one could take all of a server's memory."""
MOST_IN_ALL = 2**26
"""Pixels in one request, of all pictures that are drawn or given: 1024 of 256x256, 64 of 1024x1024."""
PATIENCE = 60.0
"""Seconds that a request waits for those before it; MLflow's server gives none more than that to be answered."""
_LONGEST_MESSAGE = 1000
_LOG = logging.getLogger(__name__)


class GeneratorModel(PythonModel):
    """A generator behind rows of a frame: what makes images from noise draws them, what translates is given some."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the generator, on the GPU when there is one.

        Raises:
            CheckpointError: a file of the model is not what was registered. That of a script that was changed too is for
                Gantry's own commands to find: they compare with the registry, and run nothing of the model's.
            MlflowException: the process has imported the code of an earlier version, which this one cannot run by.
        """
        import torch

        try:
            from gan_core.inference.generator import load_generator
            from gan_core.inference.manifest import check_manifest
        except ModuleNotFoundError as error:
            import gan_core

            raise MlflowException(
                f"This process has imported another version's code, {gan_core.__file__}, and it has no {error.name}. Load "
                "this version in a process of its own, or before the other.",
                error_code=INTERNAL_ERROR,
            ) from error

        check_manifest(Path(context.artifacts["generator"]).parents[1])
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.generator = load_generator(context.artifacts["generator"], device)
        # The server calls from many threads, and the memory that one request may take is bounded: one at a time.
        self._turn = threading.Lock()
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
            MlflowException: (HTTP 400) a value that the generator cannot take, or more than one request may ask for; names
            the row. (503) others are served. (500) anything else, which is in the server's log.
        """
        if not self._turn.acquire(timeout=PATIENCE):
            raise MlflowException("Too many requests at once; try again later.", error_code=TEMPORARILY_UNAVAILABLE)
        try:
            return self._answered(model_input.to_dict("records"))
        except MlflowException:
            raise
        except Exception:  # of any kind: MLflow would answer with the traceback, which is for nobody but the owner
            _LOG.exception("A request failed.")
            raise MlflowException(
                "The model failed at this request; the log of the server says why.", error_code=INTERNAL_ERROR
            ) from None
        finally:
            self._turn.release()

    def _answered(self, rows: list[dict[str, Any]]) -> pd.DataFrame:
        if not rows:  # MLflow drops the columns that it does not know, and a row that is left with none
            known = "image or pixels" if self.generator.translates else "n"
            raise _invalid(f"the request has no row with a known column; give {known}.")
        return self._translated(rows) if self.generator.translates else self._drawn(rows)

    # -- image to image ------------------------------------------------------------------------------------------------

    def _translated(self, rows: list[dict[str, Any]]) -> pd.DataFrame:
        if len(rows) > LIMIT:
            raise _invalid(f"the request has {len(rows)} pictures; the most at once is {LIMIT}.")
        made, left = [], MOST_IN_ALL
        for number, row in enumerate(rows):
            picture = _picture(row, number)
            styled = not _missing(row.get("reference"))
            reference = _file(row, "reference", number) if styled else None
            left -= sum(_pixels_of(content) for content in (picture, reference) if content is not None)
            if left < 0:
                raise _invalid(
                    f"row {number}: the pictures up to here have more than {MOST_IN_ALL} pixels; send several requests."
                )
            made.append({"png": self._translation(row, picture, reference, number), "row": number})
        return pd.DataFrame(made, columns=["png", "row"])

    def _translation(
        self, row: dict[str, Any], picture: bytes | np.ndarray, reference: bytes | None, number: int
    ) -> bytes:
        """The PNG of one row's picture. Each goes alone: what it becomes does not depend on the others."""
        import torch

        from gan_core.errors import GantryError
        from gan_core.families import ImageShape
        from gan_core.inference.conditions import encode, read_condition, target_index, with_alpha

        seed, target = _integer(row, "seed", number) or 0, row.get("target")
        named = None if _missing(target) else str(target)
        try:
            chosen = target_index(self.generator, named)
            condition = read_condition(picture, ImageShape(**self.generator.info["shape"]))
            images = torch.from_numpy(condition.pixels[None])
            if reference is None:
                made = self.generator.translate(images, chosen, seed)
            else:
                made = self._translation_like(images, reference, chosen, number)
        except GantryError as error:
            raise _invalid(f"row {number}: {error}") from error
        return encode(with_alpha(made[0].numpy(), condition.alpha))

    def _translation_like(self, images: Any, reference: bytes, target: int | None, number: int) -> Any:
        """A row's picture, uint8 (1, C, H, W), in the style of its reference."""
        import torch

        from gan_core.images.pictures import PictureError
        from gan_core.inference.conditions import read_reference

        try:
            style = torch.from_numpy(read_reference(reference, self.generator)[None])
        except PictureError as error:
            raise _invalid(f"row {number}: reference: {error}") from error
        assert target is not None, "who takes a style translates to several domains"
        return self.generator.translate_like(images, style, target)

    # -- noise to image ------------------------------------------------------------------------------------------------

    def _drawn(self, rows: list[dict[str, Any]]) -> pd.DataFrame:
        from gan_core.errors import GantryError
        from gan_core.inference.conditions import encode, with_alpha

        counts = []
        for number, row in enumerate(rows):
            n = _integer(row, "n", number)
            if n is None or n < 1:
                raise _invalid(f"row {number}: n is {n}; ask for 1 or more pictures.")
            counts.append(n)
        shape = self.generator.info["shape"]
        most = max(min(LIMIT, MOST_IN_ALL // (shape["height"] * shape["width"])), 1)
        if sum(counts) > most:
            raise _invalid(f"the request asks for {sum(counts)} pictures; the most at once is {most}.")
        made: list[dict[str, Any]] = []
        for number, row in enumerate(rows):
            n, seed, label = counts[number], _integer(row, "seed", number) or 0, _integer(row, "label", number)
            self._check_label(label, number)
            truncation = _number(row, "truncation", number)
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
    _check_size(_pixels_of(bytes(content)), number)
    return bytes(content)


def _pixels_of(content: bytes | np.ndarray) -> int:
    """Width times height of a picture: a file, by its head, or pixels (C, H, W); 0 of a file that is no picture."""
    if isinstance(content, np.ndarray):
        return content.shape[1] * content.shape[2]
    from gan_core.images.pictures import FORMATS

    try:
        # The formats that are decoded: in another order of them a file may be another picture.
        with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
            return picture.width * picture.height
    except (
        Exception
    ):  # Pillow raises nearly anything at a broken file; reading it in earnest says what is wrong with it
        _LOG.debug("The head of a picture cannot be read.", exc_info=True)
        return 0


def _from_pixels(pixels: Any, number: int) -> np.ndarray:
    try:
        _check_size(len(pixels) * max((len(line) for line in pixels), default=0), number)
        # numpy hands MLflow's nested arrays on as arrays of arrays.
        values = np.array([[list(pixel) for pixel in line] for line in pixels], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise _invalid(f"row {number}: pixels are not rows of pixels of equal length ({error}).") from error
    if values.ndim != 3 or values.shape[2] not in (1, 3, 4) or not values.size:
        raise _invalid(f"row {number}: pixels have the shape {values.shape}; it must be (height, width, 1, 3 or 4).")
    if not ((values >= 0) & (values <= 255) & (values == np.floor(values))).all():
        raise _invalid(f"row {number}: pixels must be whole numbers from 0 to 255.")
    return np.ascontiguousarray(values.astype(np.uint8).transpose(2, 0, 1))


def _check_size(pixels: int, number: int) -> None:
    if pixels > MOST_PIXELS:
        raise _invalid(f"row {number}: the picture has {pixels} pixels; the most is {MOST_PIXELS}. Make it smaller.")


def _integer(row: dict[str, Any], name: str, number: int) -> int | None:
    value = _number(row, name, number)
    if value is not None and int(value) != value:
        raise _invalid(f"row {number}: {name} is {value}; it must be a whole number.")
    return None if value is None else int(row[name])


def _number(row: dict[str, Any], name: str, number: int) -> float | None:
    """A row's number in the column ``name``; None where it has none."""
    value: Any = row.get(name)
    if _missing(value):
        return None
    try:
        as_float = float(value)
    except (TypeError, ValueError, OverflowError):
        as_float = math.nan
    if not math.isfinite(as_float):
        raise _invalid(f"row {number}: {name} is {str(value)[:40]!r}; it must be a number.")
    return as_float


def _invalid(message: str) -> MlflowException:
    return MlflowException.invalid_parameter_value(message[:_LONGEST_MESSAGE])


mlflow.models.set_model(GeneratorModel())
