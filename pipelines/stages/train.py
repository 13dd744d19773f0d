"""The train stage: prepared data and the search's best settings in; a generator, its curves and its grids out."""

from pathlib import Path
from typing import Any

from gan_core.errors import DataError
from gan_core.files import read_json
from pipelines.runtime.checkout import CURVES, FID_CURVE, GENERATOR, GRIDS
from pipelines.runtime.cluster import cluster
from pipelines.runtime.progress import say
from pipelines.settings.schema import Settings
from pipelines.stages.auto import resolve_auto
from pipelines.stages.context import StageContext
from pipelines.stages.tracked import stage_run
from pipelines.training import worker
from pipelines.training.curves import write_curves
from pipelines.training.fit import fit, is_exported


def run(context: StageContext, settings: Settings) -> dict[str, Path]:
    """Train with the settings of params.yaml, those that the search improved taken from its result; gives the stage's outs."""
    preset, settings = settings.model.preset, resolve_auto("train", settings, context.checkout.prepared)
    best = _read_best(context.checkout.best)
    settings = settings.with_values(best)
    for name, value in best.items():
        say("train", f"{name} = {value} (from the search)")
    with stage_run(context, settings) as run:
        run.log_params({"model": {**settings.model.as_dict(), "preset": preset}, "train": settings.as_dict()["train"]})
        if not is_exported(context.work):
            with cluster(context.checkout, log_to_driver=False):
                fit(
                    context.work,
                    context.checkout.prepared,
                    settings,
                    run_key=run.key,
                    run_name="train",
                    track=run.folder.parent,
                )
        curves, fid = context.work / "curves.csv", context.work / "fid.csv"
        write_curves(context.work / worker.CURVES, curves, fid)
        run.log_artifact(curves)
    generator, grids = context.work / worker.GENERATOR, context.work / worker.GRIDS
    return {GENERATOR: generator, GRIDS: grids, CURVES: curves, FID_CURVE: fid}


def _read_best(path: Path) -> dict[str, Any]:
    """The best settings of the search, by their dotted name in params.yaml.

    Raises:
        DataError: the file holds something else.
    """
    best = read_json(path)
    parameters = best.get("parameters") if isinstance(best, dict) else None
    if not isinstance(parameters, dict):
        raise DataError(f"{path} does not hold the result of a search. Run the search again: dvc repro --force tune.")
    return parameters
