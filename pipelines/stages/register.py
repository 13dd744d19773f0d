"""The register stage: a measured generator in; a version in the MLflow registry, alias ``challenger``, out."""

import hashlib
from dataclasses import asdict
from pathlib import Path

import mlflow  # noqa: F401  before the shipper does: two threads that import it at once leave it broken

from gan_core.files import write_json
from gan_core.inference.generator import load_generator
from pipelines.registry.example import example_picture
from pipelines.registry.inputs import check_curves, read_measured
from pipelines.registry.register import register_generator
from pipelines.runtime.checkout import CURVES, FID_CURVE, REGISTERED
from pipelines.runtime.git import current_commit
from pipelines.runtime.progress import say
from pipelines.settings.schema import Settings
from pipelines.stages.context import StageContext
from pipelines.stages.tracked import stage_run
from pipelines.tracking import find_run, sync


def run(context: StageContext, settings: Settings) -> dict[str, Path]:
    """Register the generator of the train stage with the figure of the evaluate stage."""
    checkout, result = context.checkout, context.work / "registered.json"
    measured = read_measured(checkout.metrics)
    check_curves(checkout.out(CURVES), checkout.out(FID_CURVE))
    description = load_generator(checkout.generator).info
    lock = checkout.dvc_lock
    with stage_run(context, settings) as run:
        if lock.is_file():
            run.log_artifact(lock)
        # The version leads back to the pipeline's run: that one has to be on the server first.
        sync(
            checkout.events,
            tracking_uri=settings.track.uri,
            experiment=settings.track.experiment,
            then="gantry run (nothing is registered yet; the stages before this one are not run again)",
        )
        pipeline = find_run(settings.track.uri, settings.track.experiment, context.pipeline_run)
        registered = register_generator(
            generator_dir=checkout.generator,
            name=settings.register.name,
            tracking_uri=settings.track.uri,
            experiment=settings.track.experiment,
            run_id=pipeline.run_id if pipeline else None,
            figure=measured["fid"],
            figures=measured.get("figures", ()),
            example=example_picture(checkout.prepared),
            tags={
                "gantry.stage_key": context.key,
                "gantry.pipeline_run": context.pipeline_run,
                "gantry.dataset": description.get("dataset", "unknown"),
                "gantry.data": settings.data.name,
                **current_commit(checkout.root).tags,
                "gantry.dvc_lock": hashlib.sha256(lock.read_bytes()).hexdigest() if lock.is_file() else "none",
            },
            card={
                "samples.png": checkout.samples,
                **({"dvc.lock": lock} if lock.is_file() else {}),
            },
        )
        run.set_tags({"gantry.version": f"{registered.name}/{registered.version}"})
    write_json(result, asdict(registered))
    say("register", f"{registered.name} version {registered.version}, alias {registered.alias}")
    return {REGISTERED: result}
