"""The promotion gate: a version may become champion if its figure is lower than the champion's by the same protocol."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gan_core.errors import CheckpointError, TrackingError
from gan_core.metrics.protocol import Figure
from pipelines.registry.contents import read_figure, version_files

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion


class IncomparableError(TrackingError):
    """The figures of challenger and champion cannot be compared."""

    def __init__(self, message: str, version: str) -> None:
        super().__init__(message)
        self.version = version
        """Number of the version that must be measured again to make the figures comparable."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Comparison of a version that passed the gate with the champion."""

    found: str
    """Both figures, and whether the difference exceeds the noise; empty if nothing was compared."""
    within_noise: bool | None
    """Whether the 95 % intervals of both figures overlap; None if they were not compared or one has no interval."""
    metrics: str
    """SHA-256 of the version's ``metrics.json``; empty if it has none."""


def check_promotion(
    name: str,
    challenger: "ModelVersion",
    champion: "ModelVersion | None",
    *,
    tracking_uri: str,
    force: bool,
    remeasured: Mapping[str, Figure],
) -> Comparison:
    """Check that ``challenger`` may become champion, from the files of both versions.

    Args:
        name: registered model.
        challenger: the version to promote.
        champion: the current champion, or None.
        tracking_uri: MLflow server or database.
        force: skip the comparison. The challenger's files must match the registration even so.
        remeasured: figures measured again on the current data, by version number; they replace the versions' own figures.

    Raises:
        IncomparableError: the protocols differ, or a version has no valid figure.
        TrackingError: the challenger's figure is not lower.
        CheckpointError: a file of the challenger does not match the registration.
    """
    new, metrics, missing = _figure(challenger, tracking_uri)
    new = remeasured.get(str(challenger.version), new)
    if force or champion is None:
        if not force and new is None:
            raise _incomparable(name, challenger, challenger, missing)
        return Comparison(found="", within_noise=None, metrics=metrics)
    if new is None:
        raise _incomparable(name, challenger, challenger, missing)
    old = remeasured.get(str(champion.version))
    how = ", the champion measured again" if old else ""
    if old is None:
        try:
            old, _, missing = _figure(champion, tracking_uri)
        except (CheckpointError, TrackingError) as error:  # a damaged champion must not block its replacement
            raise _incomparable(name, challenger, champion, str(error)) from error
        if old is None:
            raise _incomparable(name, challenger, champion, missing)
    found, within_noise = _compare(name, challenger, champion, new, old, how)
    return Comparison(found=found, within_noise=within_noise, metrics=metrics)


def _figure(version: "ModelVersion", tracking_uri: str) -> tuple[Figure | None, str, str]:
    """A version's figure, the digest of its ``metrics.json``, and an empty text; without a valid figure None, "", why."""
    with version_files(version, tracking_uri) as folder:
        try:
            figure, digest = read_figure(folder, version)
        except TrackingError as error:
            return None, "", str(error)
        return figure, digest, ""


def _incomparable(name: str, challenger: "ModelVersion", which: "ModelVersion", missing: str) -> IncomparableError:
    promote = f"gantry promote {name} --version {challenger.version}"
    return IncomparableError(
        f"{missing} Measure it on the data of this checkout: {promote} --measure. Or promote without a comparison: "
        f'{promote} --force --reason "why".',
        str(which.version),
    )


def _compare(
    name: str, challenger: "ModelVersion", champion: "ModelVersion", new: Figure, old: Figure, how: str
) -> tuple[str, bool | None]:
    """Both figures in words, and whether their 95 % intervals overlap (None if one has no interval)."""
    promote = f"gantry promote {name} --version {challenger.version}"
    remedy = f"Measure the champion again, on the data and settings of this checkout: {promote} --measure"
    if how:
        remedy = (
            "The data or settings of this checkout (data/prepared, evaluate in params.yaml) are not those that the "
            "challenger was measured with"
        )
    gap = [f"figure: {new.name} against {old.name}"] if new.name != old.name else []
    gap += new.protocol.differences(old.protocol)
    if gap:
        raise IncomparableError(
            f"Version {challenger.version} of '{name}' cannot be compared with the champion, version {champion.version}: "
            f"they were measured by different protocols ({'; '.join(gap)}). {remedy}. Or promote without a comparison: "
            f'{promote} --force --reason "why".',
            str(champion.version),
        )
    if not new.value < old.value:
        raise TrackingError(
            f"Version {challenger.version} of '{name}' is not better than the champion, version {champion.version}: "
            f"{new.name} {new.value:.4f} against {old.value:.4f} (lower is better). To promote it anyway: {promote} "
            '--force --reason "why".'
        )
    found = f"{new.name} {new.value:.4f} against {old.value:.4f} by the same protocol{how}"
    if new.low is None or new.high is None or old.low is None or old.high is None:
        return found, None
    if new.high < old.low:
        return f"{found}, lower by more than the noise", False
    ends = " and ".join(f"{low:.4f} to {high:.4f}" for low, high in ((new.low, new.high), (old.low, old.high)))
    return f"{found}; lower, but within the noise: the 95 % intervals {ends} overlap", True
