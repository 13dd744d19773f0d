"""The register stage: register the measured generator in MLflow with the alias ``challenger``."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import mlflow  # noqa: F401  imported before the shipper's thread does: two threads importing it at once break it

from gan_core.errors import StageError
from gan_core.files import write_json
from gan_core.inference.generator import load_generator
from pipelines.registry.example import example_picture
from pipelines.registry.inputs import check_curves, objective_of, read_measured
from pipelines.registry.parent import START_FILE
from pipelines.registry.register import TRAIN_MINUTES, TRAIN_STEPS, register_generator
from pipelines.registry.trace import COMMIT, TRAIN_COMMIT
from pipelines.runtime.checkout import CURVES, DVC_LOCK, FID_CURVE, REGISTERED, START_DESCRIPTION
from pipelines.runtime.dvc_yaml import parse_as_dvc
from pipelines.runtime.git import Commit, current_commit
from pipelines.runtime.progress import say
from pipelines.settings.schema import Settings
from pipelines.stages.context import StageContext, check_inputs
from pipelines.stages.results import CHECKED, check_recorded_settings, record_results
from pipelines.stages.tracked import stage_run
from pipelines.tracking import find_run, sync
from pipelines.training.curves import last_step
from pipelines.training.run_tags import parent_tags


def length_tags(settings: Settings, curves: Path) -> dict[str, str]:
    """Tags that say which time budget training had, and how many steps that was; empty if the user gave the steps.

    Raises:
        StageError: ``curves`` does not say how many steps that was.
    """
    if settings.train.minutes is None:
        return {}
    if not (steps := last_step(curves)):
        raise StageError(
            f"{curves} is missing or has no rows, so the number of steps of train.minutes is not known, and the version "
            f"could not be made again. Restore it: dvc checkout {curves}, or dvc pull {curves}."
        )
    return {TRAIN_MINUTES: f"{settings.train.minutes:g}", TRAIN_STEPS: str(steps)}


def commit_tags(here: Commit, made_with: Mapping[str, str]) -> dict[str, str]:
    """Tags that name the commit of the checkout and, if it is another one, that of the training; the latter is said, too.

    Only the training of a commit without changes is not told apart from the same commit with changes: a stage before the
    registration changes dvc.lock.

    Args:
        here: the commit of the checkout.
        made_with: tags of the run that trained the generator.
    """
    trained = made_with.get(COMMIT, here.name)
    if trained in (here.name, here.name.removesuffix("+changes")):
        return here.tags
    say(
        "register",
        f"the generator was trained at commit {trained} and is registered at {here.name}; it has both as tags",
    )
    return {**here.tags, TRAIN_COMMIT: trained}


def check_lock(context: StageContext) -> None:
    """Check that dvc.lock, which the version gets as its lineage, is about the files that are registered.

    It is not if a stage ran without DVC, which keeps dvc.lock. A file that dvc.lock does not name is accepted.

    Raises:
        StageError: it records another content of a file; names the file.
    """
    path = context.checkout.dvc_lock
    if not path.is_file():
        return
    recorded: dict[str, set[str]] = {}
    for stage in (parse_as_dvc(path.read_text(encoding="utf-8"), DVC_LOCK).get("stages") or {}).values():
        for out in stage.get("outs") or ():
            if "md5" in out:
                recorded.setdefault(out["path"], set()).add(str(out["md5"]))
    others = sorted(
        place
        for place, digest in context.definition.dependencies.items()
        if digest not in recorded.get(place, {digest})
    )
    if others:
        raise StageError(
            f"{path} records another content of {', '.join(others)}: the version would name data and settings that did not "
            "make it. Run the stages through DVC (gantry run, or dvc repro)."
        )


def run(context: StageContext, settings: Settings) -> dict[str, Path]:
    """Register the generator of the train stage with the figures of the evaluate stage; returns the stage's outs."""
    checkout, result = context.checkout, context.work / "registered.json"
    check_lock(context)
    check_recorded_settings(checkout, CHECKED)
    measured = read_measured(checkout.metrics)
    check_curves(checkout.out(CURVES), checkout.out(FID_CURVE))
    description = load_generator(checkout.generator).info
    lock = checkout.dvc_lock
    with stage_run(context, settings) as run:
        if lock.is_file():
            run.log_artifact(lock)
        # The version links to the run of the pipeline, which must be on the server first, with all that it is compared by.
        made_with = record_results(checkout, settings, context.pipeline_run)
        sync(
            checkout.events,
            tracking_uri=settings.track.uri,
            experiment=settings.track.experiment,
            retry_command="gantry run (nothing is registered yet; the earlier stages do not run again)",
        )
        check_inputs(context)
        pipeline = find_run(settings.track.uri, settings.track.experiment, context.pipeline_run)
        registered = register_generator(
            generator_dir=checkout.generator,
            name=settings.register.name,
            tracking_uri=settings.track.uri,
            experiment=settings.track.experiment,
            run_id=pipeline.run_id if pipeline else None,
            figure=objective_of(measured),
            figures=measured.get("figures", ()),
            example=example_picture(checkout.prepared),
            tags={
                "gantry.stage_key": context.key,
                "gantry.pipeline_run": context.pipeline_run,
                "gantry.dataset": description.get("dataset", "unknown"),
                "gantry.data": settings.data.name,
                **parent_tags(description.get("parent")),
                **length_tags(settings, checkout.out(CURVES)),
                **commit_tags(current_commit(checkout.root), made_with),
                "gantry.dvc_lock": hashlib.sha256(lock.read_bytes()).hexdigest() if lock.is_file() else "none",
            },
            notes={
                "data_licence": settings.register.data_licence,
                "intended_use": settings.register.intended_use,
            },
            card={
                "samples.png": checkout.samples,
                **({"neighbours.png": checkout.neighbours} if checkout.neighbours.is_file() else {}),
                **({"dvc.lock": lock} if lock.is_file() else {}),
                # A later run finds by these two what it needs to start from this version; the weights stay in DVC.
                **({START_FILE: start} if (start := checkout.out(START_DESCRIPTION)).is_file() else {}),
            },
        )
        run.set_tags({"gantry.version": f"{registered.name}/{registered.version}"})
    write_json(result, asdict(registered))
    say("register", f"{registered.name} version {registered.version}, alias {registered.alias}")
    return {REGISTERED: result}
