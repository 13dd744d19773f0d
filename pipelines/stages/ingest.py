"""The ingest stage: convert the raw data of ``data.name`` to a prepared dataset."""

import contextlib
import os
from functools import partial
from pathlib import Path

from pipelines.data.exchange import exchange_through
from pipelines.data.ingest import ingest
from pipelines.data.mapping import mapper_for
from pipelines.data.readers import read_note
from pipelines.runtime.checkout import PREPARED
from pipelines.runtime.cluster import ray_cluster
from pipelines.runtime.progress import say, say_waiting
from pipelines.settings.schema import Settings
from pipelines.stages.context import StageContext
from pipelines.stages.tracked import stage_run
from pipelines.storage.work import work_name


def run(context: StageContext, settings: Settings) -> dict[str, Path]:
    """Ingest with Ray tasks, or in this process if one worker is set or suffices; returns the stage's outs.

    With a storage, tasks on any hosts prepare pictures that are in a bucket, or on this host if RAY_ADDRESS names a cluster;
    they exchange files through the storage alone.
    """
    prepared, workers = context.work / "prepared", settings.ingest.workers
    raw = context.checkout.raw_data(settings.data.name)
    with stage_run(context, settings) as run, contextlib.ExitStack() as stack:
        mapper = mapper_for(
            workers, connect=lambda: stack.enter_context(ray_cluster(context.checkout, log_to_driver=False))
        )
        uri, exchange = settings.storage.resolve_uri(), None
        on_cluster = workers > 1 and bool(os.environ.get("RAY_ADDRESS"))
        if uri and (on_cluster or read_note(raw).format == "bucket"):
            name, waiting = work_name("ingest", context.key), partial(say_waiting, "ingest")
            cache = settings.storage.cache_gib
            exchange = stack.enter_context(exchange_through(uri, name, waiting, cache_gib=cache))
        run.log_params({"ingest": settings.as_dict()["ingest"]})
        info = ingest(raw, prepared, settings.ingest, name=settings.data.name, mapper=mapper, exchange=exchange)
        counts = {f"data/{split}": float(count) for split, count in info.splits.items()}
        run.log_metrics({**counts, "data/rejects": float(sum(info.rejects.values()))}, 0)
        run.log_artifact(prepared / "dataset.json")
        run.log_artifact(prepared / "rejects.csv")
    splits = ", ".join(f"{count:,} {split}" for split, count in info.splits.items())
    say(
        "ingest",
        f"{info.name}: {splits} pictures of {info.height}x{info.width}x{info.channels}, rejects {info.rejects or 'none'}",
    )
    return {PREPARED: prepared}
