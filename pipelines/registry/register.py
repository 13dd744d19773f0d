"""Registering a measured generator: a version of a registered model, alias ``challenger``."""

import json
import logging
import math
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gan_core.config import build
from gan_core.errors import TrackingError
from gan_core.files import read_json
from gan_core.metrics.protocol import Figure
from pipelines.registry.card import version_description
from pipelines.registry.contents import MANIFEST_TAG, figure_tags
from pipelines.registry.model_folder import write_model
from pipelines.settings.tracking_uri import resolve_uri
from pipelines.tracking.store import KEY_TAG, connect, ensure_experiment, find_run_id, is_refusal, reaching, run_page

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

CHALLENGER = "challenger"
STAGE_KEY = "gantry.stage_key"
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Registered:
    """A version in the registry."""

    name: str
    version: str
    alias: str
    model_uri: str
    """What ``mlflow.pyfunc.load_model`` and ``mlflow models serve`` take."""
    run_url: str
    """Page of the MLflow run that it leads back to."""


def register_generator(
    *,
    generator_dir: Path,
    name: str,
    tracking_uri: str,
    run_id: str | None,
    figure: Mapping[str, Any],
    tags: Mapping[str, str],
    card: Mapping[str, Path] | None = None,
    figures: Sequence[Mapping[str, Any]] = (),
    example: bytes | None = None,
    experiment: str = "gantry",
) -> Registered:
    """Make the exported generator a version of the registered model ``name`` and give it the alias ``challenger``.

    One stage key registers once: called again with the same tag ``gantry.stage_key`` (after a kill, say) it finds the
    version that is there. Files of an attempt that was killed half-way are deleted.

    Args:
        generator_dir: folder with ``generator.json`` and ``generator.safetensors``.
        name: registered model; made when it is missing.
        tracking_uri: MLflow server or database.
        run_id: MLflow run that the version leads back to; one named ``register`` is made where there is none.
        figure: its measured quality as ``Figure.as_dict()`` gives it, protocol included.
        tags: lineage: ``gantry.stage_key`` is required; dataset digest, git commit, dvc.lock digest and others.
        card: files to keep beside the model card, by the name they get there.
        figures: everything that was measured, ``figure`` among it, for the card.
        example: a small picture file that shows how a generator which translates is called.
        experiment: MLflow experiment that the files belong to.

    Raises:
        TrackingError: the server cannot be reached or refuses; a name that the registry cannot take; a figure that is not
            a number, which no other could be compared with, or that was measured of another generator.
        CheckpointError: there is no whole generator in ``generator_dir``.
        SettingsError: the figure lacks a value or its protocol.
    """
    from gan_core.inference.generator import load_generator

    generator = load_generator(generator_dir)  # a damaged export must not get a version
    measured = _measured(figure, generator_dir)
    if measured.generator_digest != generator.digest:
        raise TrackingError(
            f"The {measured.name} to register was measured of another generator ({measured.generator_digest[:12]}) than that "
            f"in {generator_dir} ({generator.digest[:12]}). Run the evaluate stage again: gantry run."
        )
    with reaching(tracking_uri):
        client = connect(tracking_uri)
        experiment_id = ensure_experiment(client, resolve_uri(tracking_uri), experiment)
        _ensure_model(client, name)
        version = _find_version(client, name, tags[STAGE_KEY])
        if version is None:
            _delete_abandoned(client, experiment_id, tags[STAGE_KEY])
            run_id = run_id or _own_run(client, experiment_id, tags[STAGE_KEY])
            written = {"figures": figures, "card": dict(card or {}), "example": example}
            version = _create(client, experiment_id, generator_dir, name, run_id, figure, dict(tags), written)
        else:
            _LOG.info("%s version %s was registered by this stage before.", name, version.version)
        client.set_registered_model_alias(name, CHALLENGER, version.version)
        _link(client, experiment_id, version, figure)
    number = str(version.version)
    return Registered(
        name=name,
        version=number,
        alias=CHALLENGER,
        model_uri=f"models:/{name}/{number}",
        run_url=run_page(tracking_uri, experiment_id, str(version.run_id)),
    )


def _measured(figure: Mapping[str, Any], generator_dir: Path) -> Figure:
    """The figure, checked; raises TrackingError where its value is no number and SettingsError where it is no figure."""
    value = figure.get("value")
    if isinstance(value, float) and not math.isfinite(value):
        raise TrackingError(
            f"The {figure.get('name')} of {generator_dir} is {value}: nothing could be compared with it, so it is not "
            "registered. Look at the pictures (outputs/evaluate/samples.png): the generator makes none of use, or they are "
            "too few. Train longer or with other settings, or raise evaluate.samples."
        )
    known = {name: of for name, of in figure.items() if name not in ("protocol_digest", "stamp")}
    return build(Figure, known, where="figure")


def _ensure_model(client: "MlflowClient", name: str) -> None:
    try:
        client.create_registered_model(name, description="Generators trained by Gantry.")
    except Exception as error:
        if not is_refusal(error) or "already exists" not in str(error):
            raise


def _find_version(client: "MlflowClient", name: str, stage_key: str) -> "ModelVersion | None":
    found = client.search_model_versions(f"name = '{name}' and tags.`{STAGE_KEY}` = '{stage_key}'", max_results=1)
    return found[0] if found else None


def _delete_abandoned(client: "MlflowClient", experiment_id: str, stage_key: str) -> None:
    """Delete the files of attempts that were killed before they became a version."""
    for model in client.search_logged_models([experiment_id], f"tags.`{STAGE_KEY}` = '{stage_key}'"):
        _LOG.info("Deleting %s: an earlier attempt that did not become a version.", model.model_id)
        client.delete_logged_model(model.model_id)


def _create(
    client: "MlflowClient",
    experiment_id: str,
    generator_dir: Path,
    name: str,
    run_id: str,
    figure: Mapping[str, Any],
    tags: dict[str, str],
    written: dict[str, Any],
) -> "ModelVersion":
    lineage = {**tags, "gantry.run": run_id, "gantry.generator": str(figure["generator_digest"])}
    tags = {**lineage, **figure_tags(_measured(figure, generator_dir))}
    logged = client.create_logged_model(
        experiment_id, name=re.sub(r"[/:.%\"']", "-", name), source_run_id=run_id, tags=tags, model_type="generator"
    )
    with tempfile.TemporaryDirectory(prefix="gantry-model-") as temporary:
        folder = Path(temporary) / "model"
        tags[MANIFEST_TAG] = write_model(
            folder,
            generator_dir=generator_dir,
            name=name,
            figure=figure,
            tags=lineage,
            **written,
            model_id=logged.model_id,
            run_id=run_id,
        )
        client.log_model_artifacts(logged.model_id, str(folder))
    client.finalize_logged_model(logged.model_id, "READY")
    # The source is the folder itself: given "models:/ID", MLflow's registry looks the id up at its global tracking URI.
    info = read_json(generator_dir / "generator.json")
    return client.create_model_version(
        name,
        logged.artifact_location,
        run_id,
        tags=tags,
        description=version_description(info=info, figure=figure, tags=lineage),
        model_id=logged.model_id,
    )


def _link(client: "MlflowClient", experiment_id: str, version: "ModelVersion", figure: Mapping[str, Any]) -> None:
    """Have MLflow's pages lead from the run to the model and its figure, and from the model to the version.

    Done again it changes nothing: a registration that was cut short may lack it.
    """
    from mlflow.entities import LoggedModelOutput, Metric

    # A database does not keep which model a version was made of.
    models = client.search_logged_models([experiment_id], f"tags.`{STAGE_KEY}` = '{version.tags[STAGE_KEY]}'")
    model_id = next((model.model_id for model in models if model.artifact_location == version.source), None)
    run = _active_run(client, version.run_id)
    if run is None or model_id is None:  # the version stays, without this link
        _LOG.warning("%s version %s: a person has deleted its run or its model.", version.name, version.version)
        return
    outputs = run.outputs.model_outputs if run.outputs else ()
    if not any(output.model_id == model_id for output in outputs):
        client.log_outputs(run.info.run_id, [LoggedModelOutput(model_id, step=0)])
    key = re.sub(r"[^\w/. :-]", "-", str(figure["name"]))
    metric = Metric(key, float(figure["value"]), version.creation_timestamp, 0, model_id=model_id)
    client.log_batch(run.info.run_id, metrics=[metric])
    versions = json.dumps([{"name": version.name, "version": version.version}])
    client.set_logged_model_tags(model_id, {"mlflow.modelVersions": versions})


def _active_run(client: "MlflowClient", run_id: str | None) -> "Run | None":
    """The run, or None where there is none or it was deleted."""
    try:
        run = client.get_run(str(run_id))
    except Exception as error:
        if not is_refusal(error):
            raise
        return None
    return run if run.info.lifecycle_stage == "active" else None


def _own_run(client: "MlflowClient", experiment_id: str, stage_key: str) -> str:
    """A run to lead back to where the caller has none; found again by the stage key."""
    key = f"register/{stage_key}"
    run_id = find_run_id(client, experiment_id, key)
    if run_id is None:
        run_id = client.create_run(experiment_id, tags={KEY_TAG: key}, run_name="register").info.run_id
    client.set_terminated(run_id)
    return run_id
