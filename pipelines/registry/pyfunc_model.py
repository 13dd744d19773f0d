"""The registered model as MLflow runs it ("models from code"): rows that ask for pictures in, PNGs out.

MLflow copies this file and the ``gan_core`` package beside the weights, so a version is used where Gantry is not
installed. Nothing here is pickled.
"""

import io
import logging
from typing import Any

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PythonModel, PythonModelContext
from PIL import Image

LIMIT = 1024
"""Pictures in one request, over all its rows."""
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
_LOG = logging.getLogger(__name__)


class GeneratorModel(PythonModel):
    """A generator behind the columns ``n``, ``seed``, ``label`` and ``truncation``; one row out for each picture."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the generator, on the GPU when there is one."""
        import torch

        from gan_core.generator import load_generator

        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.generator = load_generator(context.artifacts["generator"], device)
        _LOG.info("Generator %s on %s.", self.generator.digest[:12], device)

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> Any:
        """Make the pictures that the rows ask for.

        Args:
            context: MLflow's; not used.
            model_input: ``n`` (pictures, at least 1), and where wanted ``seed`` (0 by default), ``label`` (class index)
                and ``truncation``. Equal rows give equal pictures.
            params: MLflow's; not used.

        Returns:
            A frame with the columns ``png`` (bytes; base64 over HTTP), ``seed``, ``index`` (of the picture within its
            seed) and ``row`` (of the request).

        Raises:
            MlflowException: (HTTP 400) a value that the generator cannot take; names the row.
        """
        from gan_core.errors import GantryError

        counts = [_integer(row, "n", number) for number, row in enumerate(model_input.to_dict("records"))]
        if sum(count or 0 for count in counts) > LIMIT:
            raise _invalid(f"the request asks for {sum(c or 0 for c in counts)} pictures; the most at once is {LIMIT}.")
        made: list[dict[str, Any]] = []
        for number, row in enumerate(model_input.to_dict("records")):
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
                {"png": _png(picture), "seed": seed, "index": index, "row": number}
                for index, picture in enumerate(pictures)
            ]
        return pd.DataFrame(made, columns=["png", "seed", "index", "row"])

    def _check_label(self, label: int | None, number: int) -> None:
        classes = self.generator.info["shape"]["classes"]
        if label is not None and not 0 <= label < classes:
            known = f"it takes 0 to {classes - 1}" if classes else "it was trained without labels, leave the column out"
            raise _invalid(f"row {number}: the generator has no label {label}; {known}.")


def _integer(row: dict[str, Any], name: str, number: int) -> int | None:
    value = row.get(name)
    if value is None or pd.isna(value):
        return None
    if int(value) != value:
        raise _invalid(f"row {number}: {name} is {value}; it must be a whole number.")
    return int(value)


def _png(picture: Any) -> bytes:
    """PNG of a uint8 picture (C, H, W)."""
    rows = picture.transpose(1, 2, 0)
    content = io.BytesIO()
    Image.fromarray(rows[..., 0] if rows.shape[2] == 1 else rows, _MODES[rows.shape[2]]).save(content, format="PNG")
    return content.getvalue()


def _invalid(message: str) -> MlflowException:
    return MlflowException.invalid_parameter_value(message)


mlflow.models.set_model(GeneratorModel())
