"""What the gates know about a version: its figures and the record of its training, from its files or measured again."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gan_core.config import build
from gan_core.errors import CheckpointError, GantryError, SettingsError, TrackingError
from gan_core.families import FAMILIES
from gan_core.families.translation import TranslationFamily
from gan_core.files import read_json
from gan_core.inference.description import DESCRIPTION
from gan_core.metrics.assess import Assessment
from gan_core.metrics.protocol import Figure
from pipelines.registry.contents import METRICS, find_generator, read_figure, version_files

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A version as the gates see it."""

    name: str
    version: str
    objective: Figure | None
    """The figure that versions are compared by; None if the version has no valid one."""
    missing: str = ""
    """Why there is no objective."""
    figures: tuple[Figure, ...] = ()
    """All figures that can be read."""
    translates: bool = False
    """Whether the generator translates pictures."""
    rollbacks: tuple[str, ...] | None = None
    """The reason of each rollback of its training; None if this is not recorded."""
    metrics: str = ""
    """SHA-256 of its ``metrics.json``; empty if it has no valid objective in it."""
    again: bool = False
    """Whether the figures were measured again, on the data of a checkout."""
    damaged: bool = False
    """Whether its files are not those that were registered, or are gone, so that it cannot be measured again either."""

    def figures_named(self, name: str) -> dict[str, Figure]:
        """The figures called ``name``, by direction; empty text for pictures made from noise."""
        return {figure.protocol.direction: figure for figure in self.figures if figure.name == name}

    def measured_again(self, found: Assessment) -> "Measured":
        """The version with the figures ``found`` in place of its own."""
        return replace(
            self, objective=found.objective, figures=tuple(found.figures), missing="", again=True, damaged=False
        )


def read_version(version: "ModelVersion", tracking_uri: str, *, damaged: bool = False) -> Measured:
    """Read figures and training record of a version from its files.

    Args:
        version: the version.
        tracking_uri: MLflow server or database.
        damaged: whether damaged files give a version without figures instead of an error: a damaged champion must not block
            its replacement.

    Raises:
        CheckpointError: a file does not match the registration.
        TrackingError: the files are gone.
    """
    name, number = str(version.name), str(version.version)
    try:
        with version_files(version, tracking_uri) as folder:
            return _read(folder, version)
    except (CheckpointError, TrackingError) as error:
        if not damaged:
            raise
        return Measured(name=name, version=number, objective=None, missing=str(error), damaged=True)


def _read(folder: Path, version: "ModelVersion") -> Measured:
    objective, digest, missing = None, "", ""
    try:
        objective, digest = read_figure(folder, version)
    except TrackingError as error:
        missing = str(error)
    described = _description(folder, version)
    family, rollbacks = FAMILIES.get(str(described.get("family"))), described.get("rollbacks")
    return Measured(
        name=str(version.name),
        version=str(version.version),
        objective=objective,
        missing=missing,
        figures=_figures(folder, version, objective) if objective else (),
        translates=family is not None and family.can(TranslationFamily),
        rollbacks=tuple(map(str, rollbacks)) if isinstance(rollbacks, list) else None,
        metrics=digest,
    )


def _description(folder: Path, version: "ModelVersion") -> dict[str, Any]:
    """The generator's description; empty if it cannot be read."""
    try:
        described = read_json(find_generator(folder, version) / DESCRIPTION)
    except (GantryError, ValueError):
        return {}
    return described if isinstance(described, dict) else {}


def _figures(folder: Path, version: "ModelVersion", objective: Figure) -> tuple[Figure, ...]:
    """The figures in metrics.json that can be read and are of the same generator as ``objective``."""
    listed = read_json(folder / METRICS).get("figures")
    found = [objective]
    for place, values in enumerate(listed if isinstance(listed, Sequence) else ()):
        where = f"figures[{place}]"
        try:
            known = {key: of for key, of in dict(values).items() if key not in ("protocol_digest", "stamp")}
            figure = build(Figure, known, where=where)
            if figure.generator_digest != objective.generator_digest:
                raise SettingsError(f"{where} was measured on another generator")
        except (SettingsError, TypeError, ValueError) as error:
            _LOG.warning(
                "%s of version %s of '%s': %s is left out: %s",
                *(METRICS, version.version, version.name, where, error),
            )
        else:
            found += [figure] if figure != objective else []
    return tuple(found)
