"""The registered model as an MLflow Python model ("models from code"): requests as rows in, PNGs out.

MLflow copies this file and the ``gan_core`` package beside the weights, so a version runs where Gantry is not installed.
Nothing is pickled.
"""

import base64
import binascii
import hashlib
import io
import logging
import math
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, TEMPORARILY_UNAVAILABLE
from mlflow.pyfunc import PythonModel, PythonModelContext
from PIL import Image

MAX_PICTURES = 1024
"""Maximum number of pictures in one request, over all its rows."""
MAX_PIXELS_PER_PICTURE = 2**24
"""Maximum width times height of a picture to translate; larger ones could exhaust the server's memory."""
MAX_PIXELS_PER_REQUEST = 2**26
"""Maximum number of pixels in one request, over all pictures: 1024 of 256x256, or 64 of 1024x1024."""
QUEUE_TIMEOUT = 60.0
"""Seconds that a request waits for earlier ones; MLflow's server allows no request more time than that."""
_LONGEST_MESSAGE = 1000
_COMPRESS_LEVEL = 1
"""zlib's level for PNGs: at 6, encoding takes several times as long, for files a sixth smaller."""
_LOG = logging.getLogger(__name__)


class GeneratorModel(PythonModel):
    """A generator that is called with a data frame: each row asks for samples, or for the translation of a picture."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the generator, on the GPU if there is one.

        Raises:
            CheckpointError: a file of the model does not match its manifest. A change to this script itself cannot be
                detected here; Gantry's commands detect it, because they check all files against the registry first.
            MlflowException: the process has already imported ``gan_core`` from another version, which lacks a module.
        """
        import torch

        try:
            from gan_core.inference.generator import load_generator
            from gan_core.inference.manifest import check_manifest
        except ModuleNotFoundError as error:
            import gan_core

            raise MlflowException(
                f"This process has already imported gan_core from another model version ({gan_core.__file__}), which has no "
                f"module {error.name}. Load this version in a separate process, or before the other.",
                error_code=INTERNAL_ERROR,
            ) from error

        folder = Path(context.artifacts["generator"]).parents[1]
        check_manifest(folder)
        if other := _other_code(folder):
            _LOG.warning(
                "This process imported gan_core from %s before, which is used in place of this version's own copy and differs "
                "from it. For the pictures of this version, load it in a separate process, or before the other.",
                other,
            )
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.generator = load_generator(context.artifacts["generator"], device)
        # The server calls from many threads. The limits bound the memory of one request, so answer one at a time.
        self._turn, self._queue = threading.Lock(), threading.Lock()
        self._waiting: list[_Job] = []
        self._encoders = ThreadPoolExecutor(os.cpu_count())
        _LOG.info("Generator %s on %s.", self.generator.digest[:12], device)

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> Any:
        """Make the requested pictures; equal rows give equal pictures, up to rounding for samples.

        Args:
            context: passed by MLflow; not used.
            model_input: to sample: ``n`` (number of pictures, at least 1) and optionally ``seed`` (default 0), ``label``
                (class, by name or number) and ``truncation``. To translate: ``image`` (a picture file, or its base64 text) or
                ``pixels`` (nested lists of rows, pixels and 1, 3 or 4 values from 0 to 255), and optionally ``target``
                (domain, by name or number), ``seed`` and, if the generator takes a style from a picture, ``reference``: a
                picture of the target domain, in the same form as ``image``.
            params: passed by MLflow; not used.

        Returns:
            A frame with the columns ``png`` (bytes; base64 over HTTP) and ``row`` (index of the row in the request). For
            samples, also ``seed`` and ``index`` (of the picture within its row).

        Raises:
            MlflowException: HTTP 400 for an invalid value (names the row) or a request beyond the limits; 503 if earlier
                requests take too long; 500 for any other failure, which is in the server's log.
        """
        try:
            return self._answered(model_input.to_dict("records"))
        except MlflowException:
            raise
        except Exception:  # MLflow would send the traceback to the client, who must not see it
            _LOG.exception("A request failed.")
            raise MlflowException(
                "The model failed on this request. The server's log has the cause.", error_code=INTERNAL_ERROR
            ) from None

    @contextmanager
    def _my_turn(self) -> Iterator[None]:
        """Wait until no other request uses the generator."""
        if not self._turn.acquire(timeout=QUEUE_TIMEOUT):
            raise MlflowException("The server is busy; try again later.", error_code=TEMPORARILY_UNAVAILABLE)
        try:
            yield
        finally:
            self._turn.release()

    def _answered(self, rows: list[dict[str, Any]]) -> pd.DataFrame:
        if not rows:  # MLflow drops unknown columns, and rows without a known column
            known = "image or pixels" if self.generator.translates else "n"
            raise _invalid(f"the request has no row with a known column; add the column {known}.")
        if not self.generator.translates:
            return self._drawn(rows)
        with self._my_turn():
            return self._translated(rows)

    # -- image to image ------------------------------------------------------------------------------------------------

    def _translated(self, rows: list[dict[str, Any]]) -> pd.DataFrame:
        if len(rows) > MAX_PICTURES:
            raise _invalid(f"the request has {len(rows)} pictures; the limit is {MAX_PICTURES}.")
        made, left = [], MAX_PIXELS_PER_REQUEST
        for number, row in enumerate(rows):
            picture = _picture(row, number)
            styled = not _missing(row.get("reference"))
            reference = _file(row, "reference", number) if styled else None
            left -= sum(_pixels_of(content) for content in (picture, reference) if content is not None)
            if left < 0:
                raise _invalid(
                    f"row {number}: the pictures up to this row have more than {MAX_PIXELS_PER_REQUEST} pixels, the limit of "
                    "a request; split it."
                )
            made.append({"png": self._translation(row, picture, reference, number), "row": number})
        return pd.DataFrame(made, columns=["png", "row"])

    def _translation(
        self, row: dict[str, Any], picture: bytes | np.ndarray, reference: bytes | None, number: int
    ) -> bytes:
        """The PNG of one row. Each picture is translated on its own, so that its result does not depend on the others."""
        import torch

        from gan_core.errors import GantryError
        from gan_core.families import ImageShape
        from gan_core.inference.conditions import encode, read_condition, target_index, with_alpha
        from gan_core.inference.provenance import provenance

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
        drawn = {"seed": seed} if reference is None else {"like": hashlib.sha256(reference).hexdigest()}
        chunk = provenance(self.generator.digest, target=chosen, **drawn)
        return encode(with_alpha(made[0].numpy(), condition.alpha), chunk=chunk, compress_level=_COMPRESS_LEVEL)

    def _translation_like(self, images: Any, reference: bytes, target: int | None, number: int) -> Any:
        """Translate ``images``, uint8 (1, C, H, W), in the style of the reference."""
        import torch

        from gan_core.images.pictures import PictureError
        from gan_core.inference.conditions import read_reference

        try:
            style = torch.from_numpy(read_reference(reference, self.generator)[None])
        except PictureError as error:
            raise _invalid(f"row {number}: reference: {error}") from error
        assert target is not None, "a generator that takes styles has several target domains"
        return self.generator.translate_like(images, style, target)

    # -- noise to image ------------------------------------------------------------------------------------------------

    def _drawn(self, rows: list[dict[str, Any]]) -> pd.DataFrame:
        from gan_core.errors import GantryError
        from gan_core.inference.together import draw

        counts = []
        for number, row in enumerate(rows):
            n = _integer(row, "n", number)
            if n is None or n < 1:
                raise _invalid(f"row {number}: n is {n}; it must be 1 or more.")
            counts.append(n)
        shape = self.generator.info["shape"]
        most = max(min(MAX_PICTURES, MAX_PIXELS_PER_REQUEST // (shape["height"] * shape["width"])), 1)
        if sum(counts) > most:
            raise _invalid(f"the request asks for {sum(counts)} pictures; the limit is {most}.")
        draws: list[Any] = []
        requests: list[dict[str, Any]] = []
        for number, row in enumerate(rows):
            seed, label = _integer(row, "seed", number) or 0, self._label(row, number)
            truncation = _number(row, "truncation", number)
            try:
                draws.append(draw(self.generator, counts[number], seed, label, truncation))
            except GantryError as error:
                raise _invalid(f"row {number}: {error}") from error
            requests.append({"seed": seed, "label": label, "truncation": truncation})
        job = _Job(draws, sum(counts))
        self._make(job, most)
        pictures = [
            (number, index, picture) for number, of in enumerate(job.made) for index, picture in enumerate(of.numpy())
        ]
        # The requests in the queue use the generator while this one encodes.
        files = self._encoders.map(lambda one: self._encode(one[2], {**requests[one[0]], "index": one[1]}), pictures)
        made = [
            {"png": file, "seed": requests[number]["seed"], "index": index, "row": number}
            for file, (number, index, _) in zip(files, pictures, strict=True)
        ]
        return pd.DataFrame(made, columns=["png", "seed", "index", "row"])

    def _encode(self, picture: np.ndarray, request: dict[str, Any]) -> bytes:
        """The PNG of a sample, which names the generator and the request."""
        from gan_core.inference.conditions import encode, with_alpha
        from gan_core.inference.provenance import provenance

        chunk = provenance(self.generator.digest, **request)
        return encode(with_alpha(picture), chunk=chunk, compress_level=_COMPRESS_LEVEL)

    def _make(self, job: "_Job", most: int) -> None:
        """Make the pictures of ``job``, together with those of the other requests that wait, ``most`` pictures at once.

        The request whose turn it is makes the pictures of all; when it is another's turn, its pictures may be there already.
        """
        from gan_core.inference.together import sample_together

        with self._queue:
            self._waiting.append(job)
        try:
            with self._my_turn():
                if not job.made and job.error is None:
                    with self._queue:
                        jobs, left = [job], most - job.count
                        for other in self._waiting:
                            if other is not job and other.count <= left:
                                jobs.append(other)
                                left -= other.count
                        self._waiting = [other for other in self._waiting if all(other is not one for one in jobs)]
                    try:
                        made = iter(sample_together(self.generator, [one for each in jobs for one in each.draws]))
                        for each in jobs:
                            each.made = [next(made) for _ in each.draws]
                    except Exception as error:
                        for each in jobs:
                            each.error = error
        finally:
            with self._queue:
                self._waiting = [other for other in self._waiting if other is not job]
        if job.error is not None:
            raise job.error

    def _label(self, row: dict[str, Any], number: int) -> int | None:
        """The class of a row, by name or number."""
        value = row.get("label")
        if _missing(value):
            return None
        names = [str(name) for name in self.generator.info.get("classes") or ()]
        if isinstance(value, str) and value in names:
            return names.index(value)
        classes = self.generator.info["shape"]["classes"] if self.generator.conditional else 0
        label = _whole(value)
        if label is None or not 0 <= label < classes:
            listed = ", ".join(f"{name} ({index})" for index, name in enumerate(names)) or f"0 to {classes - 1}"
            known = f"labels are {listed}" if classes else "it is not class-conditional, so omit the column label"
            raise _invalid(f"row {number}: the generator has no label {str(value)[:40]}; {known}.")
        return label


def _other_code(folder: Path) -> Path | None:
    """The folder of the imported ``gan_core`` if it differs from the copy in the model's folder; None if it does not."""
    import gan_core

    own, used = folder / "code" / "gan_core", Path(str(gan_core.__file__)).parent
    for file in own.rglob("*.py"):
        other = used / file.relative_to(own)
        if not other.is_file() or other.read_bytes() != file.read_bytes():
            return used
    return None


@dataclass(eq=False)
class _Job:
    """A request for samples that waits for its pictures."""

    draws: list[Any]
    count: int
    """Number of pictures."""
    made: list[Any] = field(default_factory=list)
    """The pictures of each draw, uint8 (n, C, H, W)."""
    error: Exception | None = None


def _whole(value: Any) -> int | None:
    """``value``, a number or its text, as a whole number; None if it is none."""
    try:
        return int(value) if float(value) == int(float(value)) else None
    except (TypeError, ValueError, OverflowError):
        return None


def _missing(value: Any) -> bool:
    """Whether a cell is empty. Pandas fills missing cells with NaN."""
    return value is None or (isinstance(value, float) and np.isnan(value)) or value is pd.NA


def _picture(row: dict[str, Any], number: int) -> bytes | np.ndarray:
    """The picture of a row: the bytes of a file, or pixels, uint8 (C, H, W)."""
    image, pixels = row.get("image"), row.get("pixels")
    if _missing(image) == _missing(pixels):
        raise _invalid(f"row {number}: give one picture, as image (bytes of a file, base64 in JSON) or as pixels.")
    return _from_pixels(pixels, number) if _missing(image) else _file(row, "image", number)


def _file(row: dict[str, Any], column: str, number: int) -> bytes:
    """The bytes of the picture file in ``column``, checked against the size limit."""
    content = row[column]
    if isinstance(content, str):
        try:
            content = base64.b64decode(content, validate=True)
        except (binascii.Error, ValueError) as error:
            raise _invalid(f"row {number}: {column} is text but not valid base64 ({error}).") from error
    if not isinstance(content, (bytes, bytearray)):
        raise _invalid(f"row {number}: {column} is {type(content).__name__}; it must be the bytes of a picture file.")
    _check_size(_pixels_of(bytes(content)), number)
    return bytes(content)


def _pixels_of(content: bytes | np.ndarray) -> int:
    """Width times height of a picture file, from its header, or of pixels (C, H, W); 0 if the file is not a picture."""
    if isinstance(content, np.ndarray):
        return content.shape[1] * content.shape[2]
    from gan_core.images.pictures import FORMATS

    try:
        # Use the formats of the decoder in the same order: a file may be valid in several formats.
        with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
            return picture.width * picture.height
    except Exception:  # Pillow raises nearly anything for a broken file; decoding it later gives the proper error
        _LOG.debug("The header of a picture cannot be read.", exc_info=True)
        return 0


def _from_pixels(pixels: Any, number: int) -> np.ndarray:
    try:
        _check_size(len(pixels) * max((len(line) for line in pixels), default=0), number)
        # MLflow passes nested lists as arrays of arrays.
        values = np.array([[list(pixel) for pixel in line] for line in pixels], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise _invalid(f"row {number}: pixels must be nested lists with rows of equal length ({error}).") from error
    if values.ndim != 3 or values.shape[2] not in (1, 3, 4) or not values.size:
        raise _invalid(f"row {number}: pixels have the shape {values.shape}; it must be (height, width, 1, 3 or 4).")
    if not ((values >= 0) & (values <= 255) & (values == np.floor(values))).all():
        raise _invalid(f"row {number}: pixels must be whole numbers from 0 to 255.")
    return np.ascontiguousarray(values.astype(np.uint8).transpose(2, 0, 1))


def _check_size(pixels: int, number: int) -> None:
    if pixels > MAX_PIXELS_PER_PICTURE:
        raise _invalid(f"row {number}: the picture has {pixels} pixels; the limit is {MAX_PIXELS_PER_PICTURE}.")


def _integer(row: dict[str, Any], name: str, number: int) -> int | None:
    """The whole number in column ``name`` of a row; None if the cell is empty."""
    if _number(row, name, number) is None:
        return None
    value = _whole(row[name])
    if value is None or abs(value) >= 2**63:
        raise _invalid(f"row {number}: {name} is {str(row[name])[:40]}; it must be a whole number from 0 to 2^63 - 1.")
    return value


def _number(row: dict[str, Any], name: str, number: int) -> float | None:
    """The number in column ``name`` of a row; None if the cell is empty."""
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
