"""params.yaml as plain values, and the one thing in it that the environment may overrule. Imports nothing heavy."""

import os
import re
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import yaml

from gan_core.errors import SettingsError
from pipelines.redaction import has_secret
from pipelines.tracking.store import URI_VARIABLES, resolve_uri

_URI = re.compile(r"https?://[^/]|sqlite:///.|(postgresql|mysql|mssql)(\+\w+)?://.|databricks(-uc)?(://.|$)|uc:.")


def read_params(path: Path | str) -> dict[str, Any]:
    """The sections of a parameters file; none for an empty one.

    Raises:
        SettingsError: not UTF-8, not YAML, not a mapping, or a name that stands twice; says where.
    """
    path = Path(path)
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}). Save it as UTF-8.") from None
    except yaml.YAMLError as error:
        raise SettingsError(f"{path} is not YAML: {error}") from None
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise SettingsError(f"{path}: expected sections (data:, model:, train: ...), got {values!r}.")
    return values


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
    known = _URI.match(uri) or uri.partition(":")[0] in {e.name for e in entry_points(group="mlflow.tracking_store")}
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


class _Loader(yaml.SafeLoader):
    """YAML in which a name that stands twice in one mapping is an error: of two values, one would be lost unseen."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        first: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                line = key.start_mark.line + 1
                if key.value in first:
                    raise SettingsError(
                        f"'{key.value}' stands twice, in line {first[key.value]} and in line {line}. Keep one of them."
                    )
                first[key.value] = line
        return node
