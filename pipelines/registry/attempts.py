"""Attempts to register a generator: those that were killed leave files, and simultaneous ones make a second version.

There is no lock that all hosts could hold, because MLflow has none and a shared storage is optional. So an attempt says who
makes it, and the version with the lowest number stays.
"""

import logging
import time
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

from pipelines.registry.contents import CHALLENGER, STAGE_KEY
from pipelines.runtime.guard import global_identity, is_running
from pipelines.tracking.store import error_summary, is_refusal

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion

_WRITER = "gantry.writer"
"""Tag of a logged model: the identity of the process that registers it; empty once it is the model of a version."""
_SILENT_SECONDS = 3600.0
"""An attempt in which nothing has happened for so long is taken to be dead, if its process cannot be asked from here."""
_LOG = logging.getLogger(__name__)


def begun() -> dict[str, str]:
    """Tag of a logged model that this process begins to register."""
    return {_WRITER: global_identity()}


def done() -> dict[str, str]:
    """Tag of a logged model that is the model of a version."""
    return {_WRITER: ""}


def find_version(client: "MlflowClient", name: str, stage_key: str) -> "ModelVersion | None":
    """The version of ``name`` that a stage key has registered, or None. Of several, the one with the lowest number stays.

    There are several if two hosts register the same generator at once. The other versions are deleted, unless someone has
    given them an alias; :func:`delete_abandoned` then finds their files.
    """
    found = client.search_model_versions(f"name = '{name}' and tags.`{STAGE_KEY}` = '{stage_key}'")
    if not found:
        return None
    first, *others = sorted(found, key=lambda version: int(version.version))
    for version in others:
        _delete_second(client, version, first)
    return first


def delete_abandoned(client: "MlflowClient", tracking_uri: str, experiment_id: str, stage_key: str) -> None:
    """Delete the files of attempts that were interrupted before they became a version: of ``stage_key``, and of other keys.

    An attempt whose process may still run is left alone.
    """
    for model in _attempts(client, experiment_id, stage_key):
        if _may_be_running(model):
            if model.tags[STAGE_KEY] == stage_key:
                _LOG.warning(
                    "Process %s registers the same generator at the moment. The version with the lower number will stay.",
                    model.tags[_WRITER].partition("@")[0],
                )
            continue
        _LOG.info("Deleting %s, left by an interrupted registration.", model.model_id)
        _delete_model(client, tracking_uri, model)


def _attempts(client: "MlflowClient", experiment_id: str, stage_key: str) -> Iterator["LoggedModel"]:
    """Logged models without a version: of this stage key, and those of other keys whose registration has not ended."""

    @cache
    def sources(key: str) -> list[str]:
        # Under any name, because registered models can be renamed.
        return [str(version.source) for version in client.search_model_versions(f"tags.`{STAGE_KEY}` = '{key}'")]

    for which in (
        f"tags.`{STAGE_KEY}` = '{stage_key}'",
        f"tags.`{STAGE_KEY}` != '{stage_key}' and tags.`{_WRITER}` != ''",
    ):
        for model in client.search_logged_models([experiment_id], which):
            if not any(model.model_id in source for source in sources(model.tags[STAGE_KEY])):
                yield model


def _may_be_running(model: "LoggedModel") -> bool:
    """Whether another process may still write the model."""
    writer = model.tags.get(_WRITER, "")  # earlier versions of Gantry have not written it
    if not writer or writer == global_identity():
        return False
    if (running := is_running(writer)) is not None:
        return running
    return time.time() - model.last_updated_timestamp / 1000 < _SILENT_SECONDS


def _delete_second(client: "MlflowClient", version: "ModelVersion", first: "ModelVersion") -> None:
    try:
        aliases = client.get_model_version(version.name, version.version).aliases
        if named := sorted(set(aliases) - {CHALLENGER}):
            _LOG.warning(
                "%s versions %s and %s are the same generator, registered by two hosts at once. Version %s stays, because it "
                "has the alias %s.",
                version.name,
                first.version,
                version.version,
                version.version,
                ", ".join(named),
            )
            return
        _LOG.info(
            "Deleting %s version %s: another host has registered the same generator as version %s.",
            version.name,
            version.version,
            first.version,
        )
        client.delete_model_version(version.name, version.version)
    except Exception as error:
        if not is_refusal(error):  # refused: the other host has deleted it
            raise


def _delete_model(client: "MlflowClient", tracking_uri: str, model: "LoggedModel") -> None:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    place = model.artifact_location
    try:  # the files first, because MLflow only marks a model as deleted, and then nothing would lead to them
        get_artifact_repository(place, tracking_uri=tracking_uri).delete_artifacts()
    except Exception as error:  # each of MLflow's stores raises its own
        _LOG.warning("Files of an interrupted registration stay in %s: %s", place, error_summary(error))
    client.delete_logged_model(model.model_id)
