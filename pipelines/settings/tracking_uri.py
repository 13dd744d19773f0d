"""Find the MLflow tracking URI: in the environment, otherwise in params.yaml."""

import os
import re
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path

from gan_core.errors import SettingsError
from pipelines.settings.params import read_params
from pipelines.settings.secrets import has_secret

SQLITE = "sqlite:///"
URI_VARIABLES = ("GANTRY_TRACKING_URI", "MLFLOW_TRACKING_URI")
"""Environment variables with the tracking URI. The first that is set takes precedence, also over params.yaml."""


def resolve_uri(uri: str, base: Path | None = None) -> str:
    """Make a relative SQLite path in ``uri`` absolute against ``base``, by default the current directory.

    Workers run in other directories, where a relative path would mean another file.

    Raises:
        SettingsError: the path has a question mark.
    """
    if not uri.startswith(SQLITE) or uri.removeprefix(SQLITE) in ("", ":memory:"):
        return uri
    path = str((base or Path.cwd()) / uri.removeprefix(SQLITE))
    if "?" in path:
        raise SettingsError(
            f"The path of the tracking database, {path}, must not contain '?': MLflow cuts the path there. Rename the folder "
            "or file, or set GANTRY_TRACKING_URI to a database elsewhere."
        )
    return SQLITE + path


_URI = re.compile(
    r"https?://[^/\s].*|sqlite:///(?s:.*)[^\n]|(postgresql|mysql|mssql)(\+\w+)?://.+|databricks(-uc)?(://.+)?|uc:.+"
)  # a path may contain a line break


def tracking_uri(configured: str, base: Path) -> str:
    """Return the MLflow tracking URI: from the first of URI_VARIABLES that is set, otherwise ``configured`` (track.uri).

    A relative SQLite path is made absolute against ``base``, the checkout.

    Raises:
        SettingsError: the URI from the environment is not one that MLflow supports, or ``configured`` holds a password.
    """
    if has_secret(configured):
        raise SettingsError(
            "track.uri in params.yaml contains a password. DVC copies it into dvc.lock, which is committed to git. Remove the "
            f"password from params.yaml, change it, and set the environment variable {URI_VARIABLES[0]} to the whole URI "
            "(for an MLflow server, set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD)."
        )
    named = next(filter(os.environ.get, URI_VARIABLES), None)
    if named is None:
        return resolve_uri(configured, base.resolve())
    check_uri(os.environ[named], f"environment variable {named}")
    return resolve_uri(os.environ[named], base.resolve())


def check_uri(uri: str, what: str) -> None:
    """Raise SettingsError unless MLflow supports ``uri`` as a tracking URI; the message begins with ``what``.

    A plain folder is refused: MLflow no longer supports file stores.
    """
    known = _URI.fullmatch(uri) or uri.partition(":")[0] in {
        e.name for e in entry_points(group="mlflow.tracking_store")
    }
    if not known:
        raise SettingsError(
            f"{what}: '{uri}' is not a tracking URI. Use sqlite:///var/mlflow.db, http://server:5000 or a database's URI."
        )


def project_tracking_uri(root: Path, base: Path | None = None) -> str | None:
    """Return the tracking URI of the project at ``root``; None if neither the environment nor its params.yaml has one.

    A relative path is relative to ``base``, by default ``root``: a worktree tracks to the store of its main checkout. Other
    settings are not checked: they may belong to another version, or to another project that uses Gantry's flow.
    """
    path = root / "params.yaml"
    track = read_params(path).get("track") if path.is_file() else None
    uri = track.get("uri") if isinstance(track, Mapping) else None
    return tracking_uri(uri if isinstance(uri, str) else "", base or root) or None
