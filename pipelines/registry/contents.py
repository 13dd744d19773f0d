"""The files of a registered version: fetched, and compared with what was registered before anything is made of them."""

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
from gan_core.inference.generator import DESCRIPTION, generator_digest
from gan_core.inference.manifest import MANIFEST, check_manifest
from gan_core.metrics.protocol import Figure

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

MANIFEST_TAG = "gantry.manifest"
"""Tag of a version: SHA-256 of its manifest."""
METRICS = "metrics.json"
"""File of a version: the figure that versions are compared by (``fid``) and everything that was measured (``figures``)."""
FIGURE, VALUE, LOW, HIGH = "gantry.figure", "gantry.value", "gantry.low", "gantry.high"
PROTOCOL, PROTOCOL_DIGEST = "gantry.protocol", "gantry.protocol_digest"
"""Tags of a version that show its figure; LOW and HIGH, the ends of its 95 % interval, may be missing."""
_LARGEST_METRICS = 1 << 26
_LOG = logging.getLogger(__name__)


@contextmanager
def version_files(version: "ModelVersion", tracking_uri: str) -> Iterator[Path]:
    """The folder of a version's files for the length of the block, compared with its manifest.

    A version of an edition that wrote no manifest is taken as it is, and that is logged.

    Raises:
        CheckpointError: a file is not what was registered; names it.
        TrackingError: the files are gone.
    """
    with TemporaryDirectory(prefix="gantry-version-") as temporary:
        folder = fetch(version, tracking_uri, Path(temporary))
        digest = version.tags.get(MANIFEST_TAG)
        if digest or (folder / MANIFEST).is_file():
            check_manifest(folder, digest)
        else:
            _LOG.warning(
                "%s version %s keeps no sums of its files (an earlier edition registered it), so nothing shows whether they "
                "were changed.",
                version.name,
                version.version,
            )
        yield folder


def fetch(version: "ModelVersion", tracking_uri: str, place: Path) -> Path:
    """Download a version's files to ``place`` where they are not local; returns the folder where they lie.

    Raises:
        TrackingError: they are gone.
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
    if not found.is_dir():
        raise TrackingError(f"{gone}: {version.source} is no folder.")
    return found


def generator_below(folder: Path, version: "ModelVersion") -> Path:
    """The exported generator among a version's files; raises TrackingError where there is none."""
    found = sorted(folder.rglob(DESCRIPTION))
    if not found:
        raise TrackingError(f"Version {version.version} of '{version.name}' holds no generator; was it made by Gantry?")
    return found[0].parent


def read_figure(folder: Path, version: "ModelVersion") -> tuple[Figure, str]:
    """The figure that a version is compared by, from the ``metrics.json`` among its files, and the SHA-256 of that file.

    Tags are not asked: whoever may comment on a version may write them.

    Raises:
        TrackingError: there is no such file, it is damaged, it has no finite figure with its protocol, or the figure was
            measured of another generator.
    """
    path, what = folder / METRICS, f"Version {version.version} of '{version.name}'"
    if not path.is_file():
        raise TrackingError(
            f"{what} has no {METRICS} among its files, so it carries no measured figure that can be checked: an earlier "
            "edition of Gantry registered it, or none did."
        )
    try:
        if path.stat().st_size > _LARGEST_METRICS:
            raise ValueError("it is too large")
        values = read_json(path)["fid"]
        known = {name: value for name, value in values.items() if name not in ("protocol_digest", "stamp")}
        figure = build(Figure, known, where="fid")
    except SettingsError as error:
        raise TrackingError(
            f"{METRICS} of version {version.version} of '{version.name}' holds no figure that this edition of Gantry can "
            f"read: {error} Register the generator anew."
        ) from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise TrackingError(
            f"{METRICS} of version {version.version} of '{version.name}' is damaged ({error}). Register the generator anew."
        ) from error
    try:
        made_by = generator_digest(generator_below(folder, version))
    except CheckpointError as error:
        raise TrackingError(f"{what}: {error}") from error
    if figure.generator_digest != made_by:
        raise TrackingError(
            f"{what}: {METRICS} has the figure of another generator ({figure.generator_digest[:12]}) than the one among its "
            f"files ({made_by[:12]}). Evaluate and register it again."
        )
    return figure, sha256_file(path)


def contradiction(version: "ModelVersion", figure: Figure) -> str:
    """What the tags of a version say otherwise than its figure, for people who read tags; empty where they agree."""
    for tag, value in figure_tags(figure).items():
        said = version.tags.get(tag)
        if said is not None and said != value:
            return f"its tag {tag} says {said[:80]!r}, {METRICS} says {value[:80]!r}"
    return ""


def figure_tags(figure: Figure) -> dict[str, str]:
    """Tags that show a figure on MLflow's pages, where versions are sorted and searched by them."""
    tags = {
        FIGURE: figure.name,
        VALUE: repr(float(figure.value)),
        PROTOCOL: json.dumps(as_dict(figure.protocol), sort_keys=True),
        PROTOCOL_DIGEST: figure.protocol.digest,
    }
    if figure.low is not None and figure.high is not None:
        tags |= {LOW: repr(float(figure.low)), HIGH: repr(float(figure.high))}
    return tags
