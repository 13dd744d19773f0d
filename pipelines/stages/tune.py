"""The tune stage: prepared data in; the best settings, a leaderboard and a plot of the search out."""

from pathlib import Path

import pandas as pd

from gan_core.data import PreparedDataset, user_cache_dir
from gan_core.families import FAMILIES
from gan_core.families.noise import NoiseFamily
from gan_core.files import write_json
from pipelines.runtime.checkout import BEST, LEADERBOARD, SEARCH_PLOT
from pipelines.runtime.cluster import cluster
from pipelines.runtime.progress import say
from pipelines.settings.schema import Settings
from pipelines.stages.auto import resolve_auto
from pipelines.stages.context import StageContext
from pipelines.stages.tracked import stage_run
from pipelines.tuning.plot import plot_search


def run(context: StageContext, settings: Settings) -> dict[str, Path]:
    """Search, and give what was found; with ``tune.trials: 0`` the settings of params.yaml stand."""
    best, board, plot = (context.work / name for name in ("best.json", "leaderboard.csv", "search.png"))
    if settings.tune.trials == 0 or not settings.tune.space:
        say("tune", "no search asked for: the settings of params.yaml stand")
        write_json(best, {"parameters": {}, "fid": None})
        pd.DataFrame({"trial": [], "fid": [], "step": []}).to_csv(board, index=False)
        plot_search(pd.read_csv(board), {}, plot)
    else:
        _search(context, settings, best, board, plot)
    return {BEST: best, LEADERBOARD: board, SEARCH_PLOT: plot}


def _search(context: StageContext, settings: Settings, best: Path, board: Path, plot: Path) -> None:
    from pipelines.tuning.search import search
    from pipelines.tuning.trial import TrialJob, trial_extractor

    data = context.checkout.prepared
    settings = resolve_auto("tune", settings, data)
    info = PreparedDataset(data).info
    settings.check_data(PreparedDataset(data))
    decoded = user_cache_dir() / "decoded"
    with stage_run(context, settings) as run:
        run.log_params({"tune": settings.as_dict()["tune"]})
        dataset = PreparedDataset(data, cache_dir=decoded)
        dataset.pixels("train")  # decoded once here, mapped by every trial
        dataset.conditions("train")
        statistics = user_cache_dir() / "statistics"
        if FAMILIES[settings.model.family].can(NoiseFamily) or info.kind == "paired":
            say("tune", "measuring the real pictures that every trial is compared with")
            from gan_core.metrics.evaluate import real_moments

            count = min(settings.tune.samples, info.splits["train"])
            real_moments(dataset, "train", trial_extractor(settings), count=count, cache_dir=statistics)
        job = TrialJob(
            settings=settings.for_workers(),
            data=str(data.resolve()),
            work=str(context.work.resolve()),
            decoded=str(decoded.resolve()),
            statistics=str(statistics.resolve()),
            track=str(run.folder.parent.resolve()),
            run_key=run.key,
        )
        with cluster(context.checkout, log_to_driver=False):
            found = search(context.work, settings, job)
        found.table.to_csv(board, index=False)
        plot_search(found.table, settings.tune.space, plot)
        run.log_metrics({"fid": found.fid}, 0)
        run.log_artifact(board)
        run.log_artifact(plot)
        say("tune", f"best: FID-{settings.tune.samples} {found.fid:.1f} with {found.parameters}")
        write_json(best, {"parameters": found.parameters, "fid": found.fid})
        run.log_artifact(best)
