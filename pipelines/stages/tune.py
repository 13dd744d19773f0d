"""The tune stage: prepared data in; the best settings, a leaderboard and a plot of the search out."""

import os
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from gan_core.data import PreparedDataset, user_cache_dir
from gan_core.families import FAMILIES
from gan_core.families.noise import NoiseFamily
from gan_core.files import replacing, write_json
from pipelines.runtime.cluster import cluster
from pipelines.runtime.progress import say
from pipelines.settings.ranges import Range
from pipelines.settings.schema import Settings
from pipelines.stages.auto import resolve_auto
from pipelines.stages.context import StageContext
from pipelines.stages.tracked import stage_run

OUT = "outputs/tune"


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
    return {f"{OUT}/{path.name}": path for path in (best, board, plot)}


def _search(context: StageContext, settings: Settings, best: Path, board: Path, plot: Path) -> None:
    from pipelines.tuning.search import search

    data = context.root / "data/prepared"
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
            from pipelines.tuning.trial import trial_extractor

            count = min(settings.tune.samples, info.splits["train"])
            real_moments(dataset, "train", trial_extractor(settings), count=count, cache_dir=statistics)
        job = {
            "settings": settings.for_workers(),
            "data": str(data.resolve()),
            "work": str(context.work.resolve()),
            "decoded": str(decoded.resolve()),
            "statistics": str(statistics.resolve()),
            "track": str(run.folder.parent.resolve()),
            "key": run.key,
        }
        with cluster(root=context.root, log_to_driver=False):
            found = search(context.work, settings, job)
        found.table.to_csv(board, index=False)
        plot_search(found.table, settings.tune.space, plot)
        run.log_metrics({"fid": found.fid}, 0)
        run.log_artifact(board)
        run.log_artifact(plot)
        say("tune", f"best: FID-{settings.tune.samples} {found.fid:.1f} with {found.parameters}")
        write_json(best, {"parameters": found.parameters, "fid": found.fid})
        run.log_artifact(best)


def plot_search(table: pd.DataFrame, space: Mapping[str, Range], path: Path) -> None:
    """Scatter of the objective over each searched setting, coloured by how many steps a trial was given.

    A setting that is searched on a log scale is shown on one.
    """
    # Its list of fonts, which it otherwise keeps in two places of the home.
    os.environ.setdefault("MPLCONFIGDIR", str(user_cache_dir() / "matplotlib"))
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        1, max(len(space), 1), figsize=(4 * max(len(space), 1), 3.5), squeeze=False, sharey=True
    )
    for axis, (name, limits) in zip(axes[0], space.items(), strict=False):
        points = axis.scatter(table[name], table["fid"], c=table["step"], cmap="viridis", s=50)
        axis.scatter(
            table[name].iloc[:1], table["fid"].iloc[:1], s=180, facecolors="none", edgecolors="red", label="best"
        )
        if limits.type == "log":
            axis.set_xscale("log")
        axis.set_xlabel(name)
    axes[0][0].set_ylabel("FID")
    if space:
        axes[0][0].legend()
        figure.colorbar(points, ax=list(axes[0]), label="steps")
    else:
        axes[0][0].text(0.5, 0.5, "no search asked for", ha="center")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120, bbox_inches="tight")
    pyplot.close(figure)
