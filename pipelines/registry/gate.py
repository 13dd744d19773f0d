"""Whether a version may become champion: a lower figure than the champion's, by the same protocol."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gan_core.errors import CheckpointError, TrackingError
from gan_core.metrics.protocol import Figure
from pipelines.registry.contents import read_figure, version_files

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion


class IncomparableError(TrackingError):
    """The figures of challenger and champion do not compare."""

    def __init__(self, message: str, version: str) -> None:
        super().__init__(message)
        self.version = version
        """Number of the version that a measurement would help."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Why a version may become champion."""

    found: str
    """Both figures and whether they differ by more than noise; empty where there was nothing to compare with."""
    within_noise: bool | None
    """Whether the 95 % intervals of both overlap; None where they were not compared, or one has none."""
    metrics: str
    """SHA-256 of the version's ``metrics.json``; empty where it has none."""


def judge(
    name: str,
    challenger: "ModelVersion",
    champion: "ModelVersion | None",
    *,
    tracking_uri: str,
    force: bool,
    anew: Mapping[str, Figure],
) -> Verdict:
    """Look at the files of both versions.

    Args:
        name: registered model.
        challenger: the version that is to become champion.
        champion: the present one, or None.
        tracking_uri: MLflow server or database.
        force: whether to compare nothing. Files that are not what was registered are refused all the same.
        anew: figures of versions that were measured here and now, by number; they count in place of the versions' own.

    Raises:
        IncomparableError: another protocol, or a version without a figure that can be checked.
        TrackingError: the figure is not lower, or it is damaged.
        CheckpointError: a file of the challenger is not what was registered.
    """
    new, metrics, missing = _figure(challenger, tracking_uri)
    new = anew.get(str(challenger.version), new)
    if force or champion is None:
        if not force and new is None:
            raise _incomparable(name, challenger, challenger, missing)
        return Verdict(found="", within_noise=None, metrics=metrics)
    if new is None:
        raise _incomparable(name, challenger, challenger, missing)
    old = anew.get(str(champion.version))
    how = ", the champion measured anew" if old else ""
    if old is None:
        try:
            old, _, missing = _figure(champion, tracking_uri)
        except (CheckpointError, TrackingError) as error:  # the champion's files do not keep another one from its place
            raise _incomparable(name, challenger, champion, str(error)) from error
        if old is None:
            raise _incomparable(name, challenger, champion, missing)
    found, within_noise = _compare(name, challenger, champion, new, old, how)
    return Verdict(found=found, within_noise=within_noise, metrics=metrics)


def _figure(version: "ModelVersion", tracking_uri: str) -> tuple[Figure | None, str, str]:
    """A version's figure and the digest of its ``metrics.json``; None and why where it has none that can be trusted."""
    with version_files(version, tracking_uri) as folder:
        try:
            figure, digest = read_figure(folder, version)
        except TrackingError as error:
            return None, "", str(error)
        return figure, digest, ""


def _incomparable(name: str, challenger: "ModelVersion", which: "ModelVersion", missing: str) -> IncomparableError:
    promote = f"gantry promote {name} --version {challenger.version}"
    return IncomparableError(
        f"{missing} Measure it on the data of this checkout: {promote} --measure. Or: {promote} --force --reason "
        '"why".',
        str(which.version),
    )


def _compare(
    name: str, challenger: "ModelVersion", champion: "ModelVersion", new: Figure, old: Figure, how: str
) -> tuple[str, bool | None]:
    """Both figures in words and whether they are within the noise of each other, None where that is not known."""
    promote = f"gantry promote {name} --version {challenger.version}"
    remedy = f"Measure the champion as the challenger was, on the data of this checkout: {promote} --measure"
    if how:
        remedy = (
            "What is measured here (data/prepared, evaluate in params.yaml) is not what the challenger was measured by"
        )
    gap = [f"figure: {new.name} against {old.name}"] if new.name != old.name else []
    gap += new.protocol.differences(old.protocol)
    if gap:
        raise IncomparableError(
            f"Version {challenger.version} of '{name}' cannot be compared with the champion, version {champion.version}: "
            f"they were measured by different protocols ({'; '.join(gap)}). {remedy}. Or: {promote} --force "
            '--reason "why".',
            str(champion.version),
        )
    if not new.value < old.value:
        raise TrackingError(
            f"Version {challenger.version} of '{name}' is not better than the champion, version {champion.version}: "
            f"{new.name} {new.value:.4f} against {old.value:.4f} (lower is better). To promote it all the same: {promote} "
            '--force --reason "why".'
        )
    found = f"{new.name} {new.value:.4f} against {old.value:.4f} by the same protocol{how}"
    if new.low is None or new.high is None or old.low is None or old.high is None:
        return found, None
    if new.high < old.low:
        return f"{found}, lower by more than noise", False
    ends = " and ".join(f"{low:.4f} to {high:.4f}" for low, high in ((new.low, new.high), (old.low, old.high)))
    return f"{found}; lower, but within the noise: the 95 % intervals {ends} overlap", True
