"""The address of the tracking server: from params.yaml or the environment."""

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
"""Where the environment names the tracking store; the first that is set wins, and wins over params.yaml."""


def resolve_uri(uri: str, base: Path | None = None) -> str:
    """The tracking URI with a relative SQLite path made absolute against ``base`` (the current directory by default).

    Workers run elsewhere: a relative path would mean another file there.

    Raises:
        SettingsError: the path has a question mark.
    """
    if not uri.startswith(SQLITE) or uri.removeprefix(SQLITE) in ("", ":memory:"):
        return uri
    path = str((base or Path.cwd()) / uri.removeprefix(SQLITE))
    if "?" in path:
        raise SettingsError(
            f"The tracking database cannot be at {path}: MLflow ends a file's name at '?'. Rename the folder or the file, or "
            "set GANTRY_TRACKING_URI to a database elsewhere."
        )
    return SQLITE + path


_URI = re.compile(
    r"https?://[^/\s].*|sqlite:///(?s:.*)[^\n]|(postgresql|mysql|mssql)(\+\w+)?://.+|databricks(-uc)?(://.+)?|uc:.+"
)  # the path of a file may have a line break


def tracking_uri(configured: str, base: Path) -> str:
    """The MLflow tracking URI: what the first of URI_VARIABLES that is set says, or else ``configured`` (track.uri).

    A relative SQLite path is made absolute against ``base``, the checkout: workers run elsewhere.

    Raises:
        SettingsError: the environment names no store that MLflow knows, or ``configured`` holds a password.
    """
    if has_secret(configured):
        raise SettingsError(
            "track.uri in params.yaml holds a password, and DVC copies it into dvc.lock, which belongs in git. Write the "
            f"address without it, change the password, and put the whole address in {URI_VARIABLES[0]} in the environment "
            "(for an MLflow server: MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD)."
        )
    named = next(filter(os.environ.get, URI_VARIABLES), None)
    if named is None:
        return resolve_uri(configured, base.resolve())
    check_uri(os.environ[named], f"{named} in the environment")
    return resolve_uri(os.environ[named], base.resolve())


def check_uri(uri: str, what: str) -> None:
    """Raise SettingsError, beginning with ``what``, unless ``uri`` names a tracking store that MLflow knows.

    A plain folder is none: MLflow has given up that kind of store.
    """
    known = _URI.fullmatch(uri) or uri.partition(":")[0] in {
        e.name for e in entry_points(group="mlflow.tracking_store")
    }
    if not known:
        raise SettingsError(
            f"{what}: '{uri}' names no tracking store. Write sqlite:///var/mlflow.db, http://server:5000 or a database's URI."
        )


def project_tracking_uri(root: Path, base: Path | None = None) -> str | None:
    """The tracking URI of the project at ``root``, or None where neither its params.yaml nor the environment has one.

    A relative path counts from ``base``, or else from ``root``: a worktree tracks to its main checkout's store. The other
    settings are not checked: they may be another version's, or those of another project that uses Gantry's flow.
    """
    path = root / "params.yaml"
    track = read_params(path).get("track") if path.is_file() else None
    uri = track.get("uri") if isinstance(track, Mapping) else None
    return tracking_uri(uri if isinstance(uri, str) else "", base or root) or None
