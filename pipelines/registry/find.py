"""Where the generator is that a person names: in the registry, behind a run, or in a folder."""

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from gan_core.checkpoint import STATE, list_checkpoints
from gan_core.errors import TrackingError
from gan_core.inference.generator import DESCRIPTION
from pipelines.registry.champion import CHAMPION
from pipelines.registry.contents import generator_below, version_files
from pipelines.registry.register import CHALLENGER
from pipelines.runtime.redaction import redact_credentials
from pipelines.tracking.runlog import STAGE_TAG, TRIAL
from pipelines.tracking.store import connect, is_refusal, reaching

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion


@contextmanager
def generator_folder(model: str, *, tracking_uri: str | None) -> Iterator[Path]:
    """The folder of an exported generator, for the length of the block.

    Args:
        model: a folder that holds one (itself, or below it as ``generator``), or checkpoints; a registered model, as
            ``NAME`` (its champion, else its challenger, else its newest version), ``NAME/VERSION`` or ``NAME@ALIAS``; or
            the id of the MLflow run that a version was registered from.
        tracking_uri: MLflow server or database; None where none is known, and a folder is all that can be meant.

    Raises:
        TrackingError: there is no such generator; says what was looked for and where.
        CheckpointError: a file of the registered version is not what was registered.
    """
    if not model.strip():
        raise TrackingError("The name of the model is empty; is a variable not set that it was to come from?")
    place = Path(model)
    if (place / "dvc.yaml").is_file():
        raise TrackingError(
            f"{model} is a checkout, and no generator. Name {place / 'outputs/train/generator'}, or a registered model."
        )
    for folder in (place, place / "generator"):
        if (folder / DESCRIPTION).is_file():
            yield folder
            return
    if place.is_dir():
        if not list_checkpoints(place) and not (place / STATE).is_file():
            raise TrackingError(
                f"{model} holds no exported generator ({DESCRIPTION}), no folder 'generator' with one, and no checkpoint."
            )
        yield place
        return
    named = Path(model.removeprefix("models:/"))
    if len(named.parts) > 2 or named.is_absolute() or model.startswith("."):  # NAME/VERSION has two parts
        raise TrackingError(
            f"There is no folder '{model}'. Train first, or name a registered model: NAME, NAME/VERSION, NAME@ALIAS or a "
            "run's id."
        )
    if tracking_uri is None:
        raise TrackingError(
            f"There is no folder '{model}', and nothing says where registered models are: run this in the checkout, or set "
            "GANTRY_TRACKING_URI."
        )
    with ExitStack() as open_files:
        with reaching(tracking_uri):
            client = connect(tracking_uri, make=False)
            version = _version(client, model.removeprefix("models:/"))
            if version is None:
                raise TrackingError(
                    f"There is no generator '{model}': no folder of that name, and at {redact_credentials(tracking_uri)} no "
                    "registered model, version, alias or run. Write NAME, NAME/VERSION, NAME@ALIAS, a run's id or a folder."
                )
            files = open_files.enter_context(version_files(version, tracking_uri))
        yield generator_below(files, version)


def is_registered(name: str, version: str, *, tracking_uri: str) -> bool:
    """Whether the registry at ``tracking_uri`` has this version; raises TrackingError when it cannot be reached."""
    from mlflow.exceptions import MlflowException

    with reaching(tracking_uri):
        try:
            connect(tracking_uri, make=False).get_model_version(name, version)
        except MlflowException as error:
            if not is_refusal(error):
                raise
            return False
    return True


def _version(client: "MlflowClient", model: str) -> "ModelVersion | None":
    name, alias, version = (*model.partition("@")[::2], "") if "@" in model else (model, "", "")
    if not alias and "/" in model:
        name, _, version = model.rpartition("/")
    if re.fullmatch(r"[0-9a-f]{32}", model):
        return _of_run(client, model)
    if model.endswith("@"):
        raise TrackingError(f"'{model}' names no alias: write NAME@ALIAS, or '{name}' alone.")
    # MLflow's filters know no escape: a name may hold one kind of quote, and none of Gantry's holds any.
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
    if not chosen:
        raise TrackingError(f"'{name}' has no version {version}; it has {', '.join(str(v.version) for v in versions)}.")
    return chosen[0]


def _of_run(client: "MlflowClient", run: str) -> "ModelVersion | None":
    """The version that was registered from ``run`` or, when it is a stage's, from the pipeline's run above.

    Raises:
        TrackingError: it is a trial's: its generator is none that was registered.
    """
    from mlflow.exceptions import MlflowException

    while run:
        found = client.search_model_versions(f"run_id = '{run}'", max_results=1)
        if found:
            return found[0]
        try:
            tags = client.get_run(run).data.tags
        except MlflowException:
            return None
        if tags.get(STAGE_TAG) == TRIAL:
            raise TrackingError(
                f"{run} is the run of a trial, whose generator is not kept. Name the run of the pipeline or of its train "
                "stage, or a registered model."
            )
        run = tags.get("mlflow.parentRunId", "")
    return None
