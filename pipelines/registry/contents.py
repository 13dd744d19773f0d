"""Files of a registered version: download them, and check them against the registration before use."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from gan_core.config import as_dict, build
from gan_core.errors import CheckpointError, SettingsError, TrackingError
from gan_core.files import read_json, sha256_file
from gan_core.inference.description import DESCRIPTION, generator_digest
from gan_core.inference.manifest import MANIFEST, check_manifest
from gan_core.metrics.protocol import Figure

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

CHALLENGER = "challenger"
"""Alias of the version that was registered last."""
STAGE_KEY = "gantry.stage_key"
"""Tag of a version and of its logged model: the key of the register stage that made it."""
MANIFEST_TAG = "gantry.manifest"
"""Tag of a version: SHA-256 of its manifest."""
METRICS = "metrics.json"
"""File of a version: the figure that versions are compared by (``objective``, or ``fid`` where that is missing), and all
measured figures (``figures``)."""
FIGURE, VALUE, LOW, HIGH = "gantry.figure", "gantry.value", "gantry.low", "gantry.high"
PROTOCOL, PROTOCOL_DIGEST = "gantry.protocol", "gantry.protocol_digest"
"""Tags of a version that show its figure. LOW and HIGH, the ends of its 95 % interval, are optional."""
_LARGEST_METRICS = 1 << 26
_LOG = logging.getLogger(__name__)


@contextmanager
def version_files(version: "ModelVersion", tracking_uri: str) -> Iterator[Path]:
    """Context manager that gives the folder of a version's files, checked against the manifest.

    A version without a manifest, from an older version of Gantry, is accepted with a warning.

    Raises:
        CheckpointError: a file does not match the registration; names the file.
        TrackingError: the files are gone.
    """
    with TemporaryDirectory(prefix="gantry-version-") as temporary:
        folder = download_files(version, tracking_uri, Path(temporary))
        if not check_files(folder, version):
            _LOG.warning(
                "%s version %s has no checksums of its files (an older version of Gantry registered it), so changes to them "
                "cannot be detected.",
                version.name,
                version.version,
            )
        yield folder


def check_files(folder: Path, version: "ModelVersion") -> bool:
    """Check the files of a version, which were copied to ``folder``, against its manifest; returns False if it has none.

    Raises:
        CheckpointError: a file does not match the registration; names the version and the file.
    """
    digest = version.tags.get(MANIFEST_TAG)
    if digest is None and not (folder / MANIFEST).is_file():
        return False
    try:
        check_manifest(folder, digest)
    except CheckpointError as error:  # it names the copy, which nobody can look at
        found = str(error).replace(f"{folder}/", "")
        raise CheckpointError(f"Version {version.version} of '{version.name}' ({version.source}): {found}") from error
    return True


def download_files(version: "ModelVersion", tracking_uri: str, place: Path) -> Path:
    """Copy a version's files to ``place``, from this machine or a server; returns their folder.

    Raises:
        TrackingError: the files are gone.
    """
    import mlflow

    gone = f"The files of version {version.version} of '{version.name}' are gone"
    try:
        found = Path(
            mlflow.artifacts.download_artifacts(
                artifact_uri=version.source, dst_path=str(place), tracking_uri=tracking_uri
            )
        )
    except FileNotFoundError as error:
        raise TrackingError(f"{gone}: {error}.") from error
    except mlflow.exceptions.MlflowException as error:
        # Of a folder on this machine that does not exist, MLflow says that downloads failed.
        if error.error_code not in ("NOT_FOUND", "RESOURCE_DOES_NOT_EXIST"):
            raise
        raise TrackingError(f"{gone}: there is no file at {version.source}.") from error
    if not found.is_dir():
        raise TrackingError(f"{gone}: {version.source} is not a folder.")
    if not any(found.iterdir()):  # MLflow finds nothing to download from a store or server, and does not say so
        raise TrackingError(f"{gone}: there is no file at {version.source}.")
    return found


def find_generator(folder: Path, version: "ModelVersion") -> Path:
    """The folder of the exported generator in a version's files; raises TrackingError if there is none."""
    found = sorted(folder.rglob(DESCRIPTION))
    if not found:
        raise TrackingError(
            f"Version {version.version} of '{version.name}' contains no generator. Choose a version that gantry run registered."
        )
    return found[0].parent


def read_figure(folder: Path, version: "ModelVersion") -> tuple[Figure, str]:
    """The figure that a version is compared by, from its ``metrics.json``, and the SHA-256 of that file.

    Tags are ignored, because anyone who can comment on a version can write them.

    Raises:
        TrackingError: the file is missing or damaged, it has no finite figure with a protocol, or its figure was measured
            on another generator.
    """
    path, what = folder / METRICS, f"Version {version.version} of '{version.name}'"
    if not path.is_file():
        raise TrackingError(
            f"{what} has no {METRICS}, so it has no figure that can be checked: it was registered by an older version of "
            "Gantry, or not by Gantry."
        )
    try:
        if path.stat().st_size > _LARGEST_METRICS:
            raise ValueError(f"it is larger than {_LARGEST_METRICS >> 20} MiB")
        content = read_json(path)
        values = content.get("objective", content["fid"])
        known = {name: value for name, value in values.items() if name not in ("protocol_digest", "stamp")}
        figure = build(Figure, known, where="fid")
    except SettingsError as error:
        raise TrackingError(
            f"{METRICS} of version {version.version} of '{version.name}' has no figure that this version of Gantry can "
            f"read: {error} Register the generator again."
        ) from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise TrackingError(
            f"{METRICS} of version {version.version} of '{version.name}' is damaged ({error}). Register the generator again."
        ) from error
    try:
        made_by = generator_digest(find_generator(folder, version))
    except CheckpointError as error:
        raise TrackingError(f"{what}: {error}") from error
    if figure.generator_digest != made_by:
        raise TrackingError(
            f"{what}: the figure in {METRICS} was measured on another generator ({figure.generator_digest[:12]}) than the one "
            f"in its files ({made_by[:12]}). Evaluate and register the generator again."
        )
    return figure, sha256_file(path)


def find_tag_mismatch(version: "ModelVersion", figure: Figure) -> str:
    """The first tag of a version that contradicts its figure, as text for people; empty if all agree."""
    for tag, value in figure_tags(figure).items():
        said = version.tags.get(tag)
        if said is not None and said != value:
            return f"its tag {tag} says {said[:80]!r}, {METRICS} says {value[:80]!r}"
    return ""


def figure_tags(figure: Figure) -> dict[str, str]:
    """Tags that show a figure in the MLflow UI, where versions can be sorted and searched by them."""
    tags = {
        FIGURE: figure.name,
        VALUE: repr(float(figure.value)),
        PROTOCOL: json.dumps(as_dict(figure.protocol), sort_keys=True),
        PROTOCOL_DIGEST: figure.protocol.digest,
    }
    if figure.low is not None and figure.high is not None:
        tags |= {LOW: repr(float(figure.low)), HIGH: repr(float(figure.high))}
    return tags
