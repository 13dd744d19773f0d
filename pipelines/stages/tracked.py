"""The MLflow run of a stage: nested in the run of the pipeline, with its datasets, sent while the stage works."""

import datetime
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from gan_core.data import DATASET_FILE
from pipelines.runtime.checkout import RAW, Checkout
from pipelines.runtime.dvc_cache import hash_of_dependency
from pipelines.runtime.git import current_commit
from pipelines.runtime.progress import say
from pipelines.runtime.versions import version_tags
from pipelines.settings.schema import Settings
from pipelines.stages.context import StageContext
from pipelines.tracking.facts import WALL, working_seconds
from pipelines.tracking.runlog import STAGE_TAG, RunLog
from pipelines.tracking.shipper import Shipper
from pipelines.tracking.tree import destination_name


@contextmanager
def stage_run(
    context: StageContext, settings: Settings, *, finally_record: Callable[[], None] = lambda: None
) -> Iterator[RunLog]:
    """Yield the run log of this stage. Its events reach MLflow during the block or later.

    The run is found by the stage key, so a stage that is killed and started again continues the same run. If the block raises,
    the runs of the stage and of the pipeline are marked as failed. Otherwise ``finally_record`` is called at the end, when the
    time that the stage took is recorded.
    """
    directory = context.checkout.events
    with Shipper(directory, tracking_uri=settings.track.uri, experiment=settings.track.experiment):
        started = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M")
        commit = current_commit(context.checkout.root)
        if commit.warning:
            say(context.name, commit.warning)
        tags = {**commit.tags, "gantry.data": settings.data.name}
        destination = destination_name(settings.track.uri, settings.track.experiment)
        with (
            RunLog(
                directory,
                key=context.pipeline_run,
                name=f"{settings.data.name} {started}",
                tags=tags,
                destination=destination,
            ) as pipeline,
            RunLog(
                directory,
                key=context.key,
                name=context.name,
                parent_key=context.pipeline_run,
                tags={**tags, **version_tags(), STAGE_TAG: context.name, "gantry.stage_key": context.key},
                destination=destination,
            ) as run,
        ):
            pipeline.log_params({"data": settings.data.name, "model.family": settings.model.family})
            for name, digest in dataset_inputs(context.checkout).items():
                run.log_dataset(name, source=f"{RAW}/{name}", digest=digest, context=context.name)
                pipeline.log_dataset(name, source=f"{RAW}/{name}", digest=digest, context="pipeline")
            yield run
            run.log_metrics({WALL: working_seconds(run.folder)}, 0)
            finally_record()


def dataset_inputs(checkout: Checkout) -> dict[str, str]:
    """DVC's hash of the raw data that the prepared dataset was made from, by the name of the data; empty before ingestion.

    It comes from dvc.lock, because the raw data may have changed since ingestion, for example while training ran. Only if
    dvc.lock does not say it, it is the hash of the raw data as it is now.
    """
    import yaml

    described = checkout.prepared / DATASET_FILE
    if not described.is_file():
        return {}
    name = json.loads(described.read_text(encoding="utf-8"))["name"]
    if checkout.dvc_lock.is_file():
        lock = checkout.dvc_lock.read_text(encoding="utf-8")
        if digest := hash_of_dependency(lock, "ingest", f"{RAW}/{name}"):
            return {name: digest}
    pointer = checkout.raw_pointer(name)
    if not pointer.is_file():
        return {}
    outs: list[dict[str, Any]] = yaml.safe_load(pointer.read_text(encoding="utf-8"))["outs"]
    return {name: outs[0]["md5"]}
