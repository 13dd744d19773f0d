"""The train stage: train a generator with the best settings of the search."""

from pathlib import Path
from typing import Any

from gan_core.errors import DataError
from gan_core.files import read_json
from pipelines.registry.parent import Parent
from pipelines.runtime.checkout import CURVES, FID_CURVE, GENERATOR, GRIDS, START
from pipelines.runtime.cluster import ray_cluster
from pipelines.runtime.progress import say
from pipelines.settings.schema import Settings
from pipelines.stages.auto import resolve_auto
from pipelines.stages.context import StageContext
from pipelines.stages.parent import fetched_parent
from pipelines.stages.tracked import stage_run
from pipelines.tracking.facts import read_facts
from pipelines.tracking.runlog import flatten
from pipelines.training import places
from pipelines.training.cost import training_cost
from pipelines.training.curves import last_step, write_curves
from pipelines.training.fit import fit, is_exported
from pipelines.training.kept import torch_tags
from pipelines.training.run_tags import WORKERS, parent_tags


def run(context: StageContext, settings: Settings) -> dict[str, Path]:
    """Train with the settings of params.yaml, overridden by the best settings of the search; returns the stage's outs."""
    preset, given = settings.model.preset, settings.given
    settings = resolve_auto("train", settings, context.checkout.prepared)
    best = _read_best(context.checkout.best)
    later = None
    if preset == "auto" and settings.train.minutes is not None:
        later = settings.length_choices(given | best.keys())
        for name in later.names:
            say("train", f"auto: {name} follows from the number of steps, which train.minutes decides")
    settings = settings.with_values(best)
    for name, value in best.items():
        say("train", f"{name} = {value} (from the search)")
    parent = fetched_parent(context, settings)
    if best and (other := _other_parent(context.checkout.best, parent[0] if parent else None)):
        say("train", other)
    with stage_run(context, settings) as run:
        params = flatten(
            {"model": {**settings.model.as_dict(), "preset": preset}, "train": settings.as_dict()["train"]}
        )
        # The workers log what they decide, and a parameter of MLflow never changes.
        undecided = {"train.steps", *(later.names if later else ())} if settings.train.minutes is not None else set()
        run.log_params({name: value for name, value in params.items() if name not in undecided})
        if parent:
            run.set_tags(parent_tags(parent[0].start.record))
        if not is_exported(context.work):
            with ray_cluster(context.checkout, log_to_driver=False):
                fit(
                    context.work,
                    context.checkout.prepared,
                    settings,
                    run_key=run.key,
                    run_name="train",
                    track=run.folder.parent,
                    start=parent[0].start if parent else None,
                    start_folder=parent[1] if parent else None,
                    later=later.values_at if later else None,
                )
        curves, fid = context.work / "curves.csv", context.work / "fid.csv"
        write_curves(context.work / places.CURVES, curves, fid)
        run.log_artifact(curves)
        if several := torch_tags(context.work):
            run.set_tags(several)
        workers = int(read_facts(run.folder).tags.get(WORKERS, settings.train.workers[1]))
        run.log_metrics(training_cost(context.work / places.CURVES, workers), last_step(curves))
    generator, grids = context.work / places.GENERATOR, context.work / places.GRIDS
    return {
        GENERATOR: generator,
        GRIDS: grids,
        CURVES: curves,
        FID_CURVE: fid,
        START: context.work / places.START,
    }


def _other_parent(best: Path, parent: Parent | None) -> str:
    """A line for people if the trials of the search started from another run than training does, else an empty one."""
    searched = read_json(best).get("parent") or {}
    if searched.get("digest") == (parent.digest if parent else None):
        return ""
    begun = [run or "random weights" for run in (searched.get("name"), parent.name if parent else None)]
    return f"the search started from {begun[0]}, training starts from {begun[1]}: the settings found may suit it less"


def _read_best(path: Path) -> dict[str, Any]:
    """The best settings of the search, by their dotted name in params.yaml.

    Raises:
        DataError: the file is not the result of a search.
    """
    best = read_json(path)
    parameters = best.get("parameters") if isinstance(best, dict) else None
    if not isinstance(parameters, dict):
        raise DataError(f"{path} is not the result of a search. Run the search again: dvc repro --force tune.")
    return parameters
