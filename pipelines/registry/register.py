"""Register a measured generator as a version of a registered model, with the alias ``challenger``."""

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
from gan_core.metrics.protocol import Figure
from pipelines.registry import attempts
from pipelines.registry.card import version_description
from pipelines.registry.contents import CHALLENGER, MANIFEST_TAG, STAGE_KEY, figure_tags
from pipelines.registry.model_folder import write_model
from pipelines.settings.tracking_uri import resolve_uri
from pipelines.tracking.store import (
    KEY_TAG,
    connect,
    ensure_experiment,
    explain_server_errors,
    find_run_id,
    is_refusal,
    run_url,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

    from gan_core.inference.generator import Generator

TRAIN_MINUTES, TRAIN_STEPS = "gantry.train_minutes", "gantry.train_steps"
"""Tags of a version whose training had a time budget: ``train.minutes``, and the number of steps that it was turned into."""
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Registered:
    """A version in the registry."""

    name: str
    version: str
    alias: str
    model_uri: str
    """URI for ``mlflow.pyfunc.load_model`` and ``mlflow models serve``."""
    run_url: str
    """Page of the MLflow run that the version belongs to."""


def register_generator(
    *,
    generator_dir: Path,
    name: str,
    tracking_uri: str,
    run_id: str | None,
    figure: Mapping[str, Any],
    tags: Mapping[str, str],
    card: Mapping[str, Path] | None = None,
    notes: Mapping[str, str] | None = None,
    figures: Sequence[Mapping[str, Any]] = (),
    example: bytes | None = None,
    experiment: str = "gantry",
) -> Registered:
    """Register an exported generator as a version of ``name`` and give it the alias ``challenger``.

    A stage key registers one version: a second call with the same tag ``gantry.stage_key``, for example after a kill or on
    another host at the same time, returns the existing version. Files of interrupted attempts are deleted.

    Args:
        generator_dir: folder with ``generator.json`` and ``generator.safetensors``.
        name: registered model; created if missing.
        tracking_uri: MLflow server or database.
        run_id: MLflow run that the version belongs to; by default, a new run named ``register``.
        figure: measured quality with its protocol, from ``Figure.as_dict()``.
        tags: lineage, such as dataset digest, git commit and dvc.lock digest; ``gantry.stage_key`` is required.
        card: files to store beside the model card, by their name there.
        notes: for the model card; see :func:`pipelines.registry.card.model_card`.
        figures: all measured figures, including ``figure``, for the card.
        example: a small picture file as the input example of a generator that translates.
        experiment: MLflow experiment of the files.

    Raises:
        TrackingError: the server cannot be reached or refuses a request; the registry does not accept the name; the figure
            is not finite, or was measured on another generator.
        CheckpointError: ``generator_dir`` has no complete generator.
        SettingsError: the figure lacks a value or its protocol.
    """
    from gan_core.inference.generator import load_generator

    generator = load_generator(generator_dir)  # a damaged export must not become a version
    measured = _measured(figure, generator_dir)
    if measured.generator_digest != generator.digest:
        raise TrackingError(
            f"The {measured.name} to register was measured on another generator ({measured.generator_digest[:12]}) than the "
            f"one in {generator_dir} ({generator.digest[:12]}). Run the evaluate stage again: gantry run."
        )
    with explain_server_errors(tracking_uri):
        client = connect(tracking_uri)
        experiment_id = ensure_experiment(client, resolve_uri(tracking_uri), experiment)
        _ensure_model(client, name)
        key = tags[STAGE_KEY]
        version = attempts.find_version(client, name, key)
        if version is not None:
            _LOG.info("%s version %s is already registered for this stage; keeping it.", name, version.version)
        else:
            attempts.delete_abandoned(client, resolve_uri(tracking_uri), experiment_id, key)
            run_id = run_id or _own_run(client, experiment_id, key)
            written = {"figures": figures, "card": dict(card or {}), "notes": dict(notes or {}), "example": example}
            created = _create(
                client, experiment_id, generator, generator_dir, name, run_id, figure, dict(tags), written
            )
            version = attempts.find_version(client, name, key) or created
            if version.version != created.version:
                attempts.delete_abandoned(client, resolve_uri(tracking_uri), experiment_id, key)
        client.set_registered_model_alias(name, CHALLENGER, version.version)
        _link(client, experiment_id, version, figure)
    number = str(version.version)
    return Registered(
        name=name,
        version=number,
        alias=CHALLENGER,
        model_uri=f"models:/{name}/{number}",
        run_url=run_url(tracking_uri, experiment_id, str(version.run_id)),
    )


def _measured(figure: Mapping[str, Any], generator_dir: Path) -> Figure:
    """Validate the figure; raises TrackingError if its value is not finite, SettingsError if it is malformed."""
    value = figure.get("value")
    if isinstance(value, float) and not math.isfinite(value):
        raise TrackingError(
            f"The {figure.get('name')} of {generator_dir} is {value}. The generator is not registered, because its figure "
            "cannot be compared with others. Look at its pictures (outputs/evaluate/samples.png). If they are useless, train "
            "longer or with other settings; otherwise increase evaluate.samples."
        )
    known = {name: of for name, of in figure.items() if name not in ("protocol_digest", "stamp")}
    return build(Figure, known, where="figure")


def _ensure_model(client: "MlflowClient", name: str) -> None:
    try:
        client.create_registered_model(name, description="Generators trained by Gantry.")
    except Exception as error:
        if not is_refusal(error) or "already exists" not in str(error):
            raise


def _create(
    client: "MlflowClient",
    experiment_id: str,
    generator: "Generator",
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
        experiment_id,
        name=re.sub(r"[/:.%\"']", "-", name),
        source_run_id=run_id,
        tags={**tags, **attempts.begun()},
        model_type="generator",
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
    # Use the folder as the source: MLflow would look up "models:/ID" at its global tracking URI.
    shown = {key: written[key] for key in ("figures", "notes")}
    return client.create_model_version(
        name,
        logged.artifact_location,
        run_id,
        tags=tags,
        description=version_description(
            name=name,
            generator=generator,
            figure=figure,
            tags=lineage,
            files=written["card"],
            model_id=logged.model_id,
            **shown,
        ),
        model_id=logged.model_id,
    )


def _link(client: "MlflowClient", experiment_id: str, version: "ModelVersion", figure: Mapping[str, Any]) -> None:
    """Link the run to the model and its figure, and the model to the version, in the MLflow UI.

    Idempotent, so that it can complete an interrupted registration.
    """
    from mlflow.entities import LoggedModelOutput, Metric

    # A database store does not record the model of a version.
    models = client.search_logged_models([experiment_id], f"tags.`{STAGE_KEY}` = '{version.tags[STAGE_KEY]}'")
    model_id = next((model.model_id for model in models if model.artifact_location == version.source), None)
    run = _active_run(client, version.run_id)
    if run is None or model_id is None:
        _LOG.warning(
            "%s version %s is not linked in the MLflow UI, because its run or model was deleted.",
            version.name,
            version.version,
        )
        return
    outputs = run.outputs.model_outputs if run.outputs else ()
    if not any(output.model_id == model_id for output in outputs):
        client.log_outputs(run.info.run_id, [LoggedModelOutput(model_id, step=0)])
    key = re.sub(r"[^\w/. :-]", "-", str(figure["name"]))
    metric = Metric(key, float(figure["value"]), version.creation_timestamp, 0, model_id=model_id)
    client.log_batch(run.info.run_id, metrics=[metric])
    versions = json.dumps([{"name": version.name, "version": version.version}])
    client.set_logged_model_tags(model_id, {"mlflow.modelVersions": versions, **attempts.done()})


def _active_run(client: "MlflowClient", run_id: str | None) -> "Run | None":
    """The run, or None if it does not exist or was deleted."""
    try:
        run = client.get_run(str(run_id))
    except Exception as error:
        if not is_refusal(error):
            raise
        return None
    return run if run.info.lifecycle_stage == "active" else None


def _own_run(client: "MlflowClient", experiment_id: str, stage_key: str) -> str:
    """Id of the run ``register`` of this stage key, for a caller without a run; created on the first call."""
    key = f"register/{stage_key}"
    run_id = find_run_id(client, experiment_id, key)
    if run_id is None:
        run_id = client.create_run(experiment_id, tags={KEY_TAG: key}, run_name="register").info.run_id
    client.set_terminated(run_id)
    return run_id
