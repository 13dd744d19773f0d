"""The description of an exported generator, ``generator.json``: read and check it without loading the weights.

This module does not import torch, so that programs which only look at generators start quickly.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gan_core.errors import CheckpointError, DamagedFileError
from gan_core.files import read_json, sha256_file, sha256_json

DESCRIPTION, WEIGHTS = "generator.json", "generator.safetensors"
AGAIN = "export or download the generator again"
"""The remedy in messages about a damaged generator."""
_LARGEST_DESCRIPTION = 64 << 20


def generator_digest(directory: Path | str) -> str:
    """:attr:`gan_core.inference.generator.Generator.digest` of an exported generator, without loading it.

    Raises:
        CheckpointError: the folder has no exported generator, or its weights do not match the description.
    """
    info, weights = read_description(Path(directory))
    return identity(info, weights)


def read_description(directory: Path) -> tuple[dict[str, Any], str]:
    """The description of an exported generator, and the SHA-256 of its weights after comparing it with the description.

    Raises:
        CheckpointError: the folder has no exported generator, or its weights do not match the description.
    """
    described, weights = directory / DESCRIPTION, directory / WEIGHTS
    try:
        if described.stat().st_size > _LARGEST_DESCRIPTION:
            raise ValueError(f"it is larger than {_LARGEST_DESCRIPTION >> 20} MiB")
        info = read_json(described)
    except ValueError as error:
        reason = error.reason if isinstance(error, DamagedFileError) else error
        raise CheckpointError(f"{described} is damaged ({reason}); {AGAIN}.") from error
    if not isinstance(info, dict):
        raise CheckpointError(f"{described} is damaged (it is not a JSON object); {AGAIN}.")
    digest = sha256_file(weights) if weights.is_file() else None
    if digest is None or digest != info.get("weights_sha256"):
        raise CheckpointError(
            f"{weights} is missing or damaged, or {DESCRIPTION} belongs to different weights; {AGAIN}."
        )
    return info, digest


def identity(info: Mapping[str, Any], weights: str) -> str:
    """The digest that identifies a generator in protocols: SHA-256 of its weights, family, settings, shape and class shares.

    Args:
        info: the description.
        weights: SHA-256 of the weights.
    """
    made_by = {key: info[key] for key in ("family", "config", "shape", "class_shares", "generators") if key in info}
    return sha256_json({**made_by, "weights_sha256": weights})


def invalid_value(info: Mapping[str, Any]) -> str | None:
    """Describe the first value of a description that is missing or has the wrong type; None if there is none."""
    kinds: dict[str, type | tuple[type, ...]] = {
        "family": str,
        "config": dict,
        "shape": dict,
        "dataset": str,
        "step": int,
    }
    for name, kind in kinds.items():
        if name in ("family", "config", "shape") and name not in info:
            return f"it has no {name}"
        if name in info and (not isinstance(info[name], kind) or isinstance(info[name], bool)):
            return f"{name} is {_cut(info[name])}"
    for name in ("classes", "attributes", "class_shares", "generators"):
        of = (int, float) if name == "class_shares" else (str, int)
        values = info.get(name, [])
        if not isinstance(values, list) or not all(isinstance(value, of) for value in values):
            return f"{name} is {_cut(values)}, not a list of {'numbers' if name == 'class_shares' else 'names'}"
    return None


def _cut(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
