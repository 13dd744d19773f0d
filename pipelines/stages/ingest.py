"""The ingest stage: the raw data of ``data.name`` in; a prepared dataset out."""

import contextlib
from pathlib import Path

from pipelines.data.ingest import ingest
from pipelines.data.mapping import mapper_for
from pipelines.runtime.checkout import PREPARED
from pipelines.runtime.cluster import cluster
from pipelines.runtime.progress import say
from pipelines.settings.schema import Settings
from pipelines.stages.context import StageContext
from pipelines.stages.tracked import stage_run


def run(context: StageContext, settings: Settings) -> dict[str, Path]:
    """Ingest with Ray tasks, or in this process when one worker is asked for or is enough; gives the stage's outs."""
    prepared, workers = context.work / "prepared", settings.ingest.workers
    raw = context.checkout.raw_data(settings.data.name)
    with stage_run(context, settings) as run, contextlib.ExitStack() as stack:
        mapper = mapper_for(
            workers, connect=lambda: stack.enter_context(cluster(context.checkout, log_to_driver=False))
        )
        run.log_params({"ingest": settings.as_dict()["ingest"]})
        info = ingest(raw, prepared, settings.ingest, name=settings.data.name, map_shards=mapper)
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
