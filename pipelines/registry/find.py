"""Find a generator by name: a folder, a registered model, a version, an alias, or a run."""

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gan_core.checkpoint import STATE, list_checkpoints
from gan_core.errors import TrackingError
from gan_core.inference.description import DESCRIPTION
from pipelines.registry.champion import CHAMPION
from pipelines.registry.contents import CHALLENGER, find_generator, version_files
from pipelines.runtime.checkout import Checkout
from pipelines.runtime.redaction import redact_credentials
from pipelines.tracking.runlog import STAGE_TAG, TRIAL
from pipelines.tracking.store import connect, explain_server_errors, is_refusal

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

REGISTERED = "models:/"
"""Before the name of a registered model or version, as MLflow writes it: no folder, run or revision is meant."""
NOT_YET = ("has no alias", "has no version yet", "There is no generator", "does not exist. Run the pipeline first")
"""Parts of the errors about what the first run of a project does not find, because it makes it."""


@dataclass(frozen=True)
class FoundModel:
    """A generator that was found by name."""

    folder: Path
    """Folder of the exported generator or of checkpoints."""
    version: str | None
    """``NAME/VERSION`` of a registered model; None for a folder."""


@contextmanager
def generator_folder(model: str, *, tracking_uri: str | None) -> Iterator[Path]:
    """Context manager that gives the folder of an exported generator. See :func:`find_model`."""
    with find_model(model, tracking_uri=tracking_uri) as found:
        yield found.folder


@contextmanager
def find_model(model: str, *, tracking_uri: str | None) -> Iterator[FoundModel]:
    """Context manager that gives the folder of an exported generator, and its version if it is registered.

    Args:
        model: a folder with an exported generator (directly, or in its subfolder ``generator``) or with checkpoints; a
            registered model, as ``NAME`` (its champion, else its challenger, else its newest version), ``NAME/VERSION`` or
            ``NAME@ALIAS``; or the id of the MLflow run that a version was registered from.
        tracking_uri: MLflow server or database; None to accept only folders.

    Raises:
        TrackingError: there is no such generator. The message names what was searched for, and where.
        CheckpointError: a file of the registered version does not match the registration.
    """
    if not model.strip():
        raise TrackingError(
            "The name of the model is empty. If it comes from a shell variable, check that the variable is set."
        )
    place = Path(model)
    if (checkout := Checkout.at(place)).dvc_yaml.is_file():
        raise TrackingError(
            f"{model} is a checkout, not a generator. Name {checkout.generator}, or a registered model."
        )
    for folder in (place, place / "generator"):
        if (folder / DESCRIPTION).is_file():
            yield FoundModel(folder, None)
            return
    if place.is_dir():
        if not list_checkpoints(place) and not (place / STATE).is_file():
            raise TrackingError(
                f"{model} has no exported generator ({DESCRIPTION}, directly or in a subfolder 'generator') and no "
                "checkpoint. Name another folder, or a registered model."
            )
        yield FoundModel(place, None)
        return
    named = Path(model.removeprefix(REGISTERED))
    if len(named.parts) > 2 or named.is_absolute() or model.startswith("."):  # NAME/VERSION has two parts
        raise TrackingError(
            f"There is no folder '{model}'. Train first (gantry run), or name a registered model: NAME, NAME/VERSION, "
            "NAME@ALIAS or the id of its run."
        )
    if tracking_uri is None:
        raise TrackingError(
            f"There is no folder '{model}', and the address of the registry is unknown. Run this in the checkout, or set "
            "GANTRY_TRACKING_URI."
        )
    with ExitStack() as open_files:
        with explain_server_errors(tracking_uri):
            version = find_version(model, tracking_uri)
            files = open_files.enter_context(version_files(version, tracking_uri))
        yield FoundModel(find_generator(files, version), f"{version.name}/{version.version}")


def find_version(model: str, tracking_uri: str) -> "ModelVersion":
    """The version that ``model`` names: NAME, NAME/VERSION, NAME@ALIAS, or the id of a run; see :func:`generator_folder`.

    Raises:
        TrackingError: there is none; the message says where it was searched for.
    """
    client = connect(tracking_uri, create=False)
    version = lookup_version(client, model.removeprefix(REGISTERED))
    if version is None and _is_deleted_run(client, model):
        raise TrackingError(
            f"The run {model} was deleted in MLflow, and no version was registered from it. Name another run, or a registered "
            "model."
        )
    if version is None:
        raise TrackingError(
            f"There is no generator '{model}': neither a folder nor, at {redact_credentials(tracking_uri)}, a "
            "registered model or run. Give NAME, NAME/VERSION, NAME@ALIAS, the id of a run, or a folder."
        )
    return version


def get_version(name: str, number: str, *, tracking_uri: str) -> "ModelVersion | None":
    """A version by its number, or None if the registry does not have it; raises TrackingError if it cannot be reached."""
    from mlflow.exceptions import MlflowException

    with explain_server_errors(tracking_uri):
        try:
            return connect(tracking_uri, create=False).get_model_version(name, number)
        except MlflowException as error:
            if not is_refusal(error):
                raise
            return None


def _is_deleted_run(client: "MlflowClient", run: str) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        return bool(re.fullmatch(r"[0-9a-f]{32}", run)) and client.get_run(run).info.lifecycle_stage == "deleted"
    except MlflowException as error:
        if not is_refusal(error):
            raise
        return False


def lookup_version(client: "MlflowClient", model: str) -> "ModelVersion | None":
    """The version that ``model`` names, as :func:`generator_folder` takes it; None if there is none."""
    name, alias, version = (*model.partition("@")[::2], "") if "@" in model else (model, "", "")
    if not alias and "/" in model:
        name, _, version = model.rpartition("/")
    if re.fullmatch(r"[0-9a-f]{32}", model):
        return _of_run(client, model)
    if model.endswith("@"):
        raise TrackingError(f"'{model}' names no alias. Give NAME@ALIAS, or '{name}' alone.")
    # MLflow's filters have no escape sequence, so a name with both kinds of quotes cannot be searched for.
    if model.endswith("/") or ("'" in name and '"' in name):
        return None
    quoted = f'"{name}"' if "'" in name else f"'{name}'"
    known = client.search_registered_models(f"name = {quoted}", max_results=1)
    if not known:
        return None
    aliases = {key: str(value) for key, value in known[0].aliases.items()}
    if alias:
        version = aliases.get(alias, "")
        if not version:
            raise TrackingError(f"'{name}' has no alias '{alias}'; it has {', '.join(sorted(aliases)) or 'none'}.")
    version = version or aliases.get(CHAMPION) or aliases.get(CHALLENGER) or ""
    versions = client.search_model_versions(f"name = {quoted}", order_by=["version_number DESC"])
    chosen = [v for v in versions if not version or str(v.version) == version]
    if not versions:
        raise TrackingError(
            f"The registered model '{name}' has no version yet. Run the pipeline (gantry run), or name another model."
        )
    if not chosen:
        raise TrackingError(f"'{name}' has no version {version}; it has {', '.join(str(v.version) for v in versions)}.")
    return chosen[0]


def _of_run(client: "MlflowClient", run: str) -> "ModelVersion | None":
    """The version that was registered from ``run`` or from one of its parents; None if there is none.

    Raises:
        TrackingError: ``run`` is the run of a trial, whose generator is never registered.
    """
    from mlflow.exceptions import MlflowException

    while run:
        found = client.search_model_versions(f"run_id = '{run}'", max_results=1)
        if found:
            return found[0]
        try:
            tags = client.get_run(run).data.tags
        except MlflowException as error:
            if not is_refusal(error):
                raise
            return None
        if tags.get(STAGE_TAG) == TRIAL:
            raise TrackingError(
                f"{run} is the run of a trial; generators of trials are not kept. Name the run of the pipeline or of its "
                "train stage, or a registered model."
            )
        run = tags.get("mlflow.parentRunId", "")
    return None
