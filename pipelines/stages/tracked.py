"""A stage's run: nested in the pipeline's run, with the data it used, shipped while the stage works."""

import datetime
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gan_core.data import DATASET_FILE
from pipelines.runtime.checkout import RAW, Checkout
from pipelines.runtime.git import current_commit
from pipelines.runtime.progress import say
from pipelines.settings.schema import Settings
from pipelines.stages.context import StageContext
from pipelines.tracking.runlog import STAGE_TAG, RunLog
from pipelines.tracking.shipper import Shipper


@contextmanager
def stage_run(context: StageContext, settings: Settings) -> Iterator[RunLog]:
    """Yield the run log of this stage; what is written to it reaches MLflow while the block runs, or later.

    The run is found by the stage key, so a stage that is killed and started again goes on in the same run. A block that raises
    leaves stage and pipeline runs marked as failed.
    """
    directory = context.checkout.events
    with Shipper(directory, tracking_uri=settings.track.uri, experiment=settings.track.experiment):
        started = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M")
        commit = current_commit(context.checkout.root)
        if commit.warning:
            say(context.name, commit.warning)
        tags = {**commit.tags, "gantry.data": settings.data.name}
        with (
            RunLog(directory, key=context.pipeline_run, name=f"{settings.data.name} {started}", tags=tags) as pipeline,
            RunLog(
                directory,
                key=context.key,
                name=context.name,
                parent_key=context.pipeline_run,
                tags={**tags, STAGE_TAG: context.name, "gantry.stage_key": context.key},
            ) as run,
        ):
            pipeline.log_params(
                {"data": settings.data.name, "model": settings.model.family, "train.steps": settings.train.steps}
            )
            for name, digest in dataset_inputs(context.checkout).items():
                run.log_dataset(name, source=f"{RAW}/{name}", digest=digest, context=context.name)
                pipeline.log_dataset(name, source=f"{RAW}/{name}", digest=digest, context="pipeline")
            yield run


def dataset_inputs(checkout: Checkout) -> dict[str, str]:
    """DVC's hash of the raw data behind the prepared data set, by its name; empty before ingestion."""
    import yaml

    described = checkout.prepared / DATASET_FILE
    if not described.is_file():
        return {}
    name = json.loads(described.read_text(encoding="utf-8"))["name"]
    pointer = checkout.raw_pointer(name)
    if not pointer.is_file():
        return {}
    outs: list[dict[str, Any]] = yaml.safe_load(pointer.read_text(encoding="utf-8"))["outs"]
    return {name: outs[0]["md5"]}
