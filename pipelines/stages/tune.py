"""The tune stage: search hyperparameters."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from gan_core.cache import user_cache_dir
from gan_core.data import PreparedDataset
from gan_core.files import write_json
from gan_core.training.start import Start, open_start
from pipelines.runtime.checkout import BEST, LEADERBOARD, SEARCH_PLOT
from pipelines.runtime.cluster import ray_cluster
from pipelines.runtime.code import code_versions
from pipelines.runtime.progress import format_figure, say
from pipelines.settings.schema import Settings
from pipelines.stages.auto import resolve_auto
from pipelines.stages.context import StageContext
from pipelines.stages.parent import fetched_parent
from pipelines.stages.tracked import stage_run
from pipelines.training.kept import check_kept, note_kept
from pipelines.training.run_tags import parent_tags
from pipelines.tuning.parent import check_space
from pipelines.tuning.places import MIRRORS, STATE, TrialsInStorage, TrialsOnDisk, trials_in_storage
from pipelines.tuning.plot import plot_search


def run(context: StageContext, settings: Settings) -> dict[str, Path]:
    """Search hyperparameters; returns the stage's outs. With ``tune.trials: 0``, the settings of params.yaml are kept."""
    best, board, plot = (context.work / name for name in ("best.json", "leaderboard.csv", "search.png"))
    if not settings.tune.searches:
        say("tune", "no search (tune.trials is 0 or tune.space is empty): the settings of params.yaml are used")
        write_json(best, {"parameters": {}, "fid": None})
        pd.DataFrame({"trial": [], "fid": [], "step": []}).to_csv(board, index=False)
        plot_search(pd.read_csv(board), {}, plot)
    else:
        if settings.train.minutes is not None:
            steps = settings.tune.steps
            say("tune", f"trials train {steps} steps (tune.steps), whatever train.minutes says")
            settings = settings.with_steps(steps)
        _search(context, settings, best, board, plot)
    return {BEST: best, LEADERBOARD: board, SEARCH_PLOT: plot}


def _search(context: StageContext, settings: Settings, best: Path, board: Path, plot: Path) -> None:
    from pipelines.tuning.search import search

    data = context.checkout.prepared
    settings = resolve_auto("tune", settings, data)
    dataset = PreparedDataset(data)
    settings.check_data(dataset)
    uri = settings.storage.resolve_uri()
    versions = check_kept("tune", context.work, uri, on_disk=STATE, brought=MIRRORS)
    start = _start(context, settings)
    if start and start.folder:  # otherwise its files are in the storage, and an earlier driver has checked
        check_space(settings, dataset.info, start)
    record = start.record if start else None
    with stage_run(context, settings) as run:
        run.log_params({"tune": settings.as_dict()["tune"]})
        run.set_tags(parent_tags(record))
        events = run.folder.parent.resolve()
        with _place(context, settings, events, start) as place:
            note_kept(context.work, uri, versions)
            from pipelines.tuning.trial import DIVERGED_LOSS, TrialJob

            job = TrialJob(
                settings=settings.for_workers(),
                place=place,
                run_key=run.key,
                versions=code_versions("tune"),
                start=record,
            )
            with ray_cluster(context.checkout, log_to_driver=False):
                found = search(context.work, settings, job, events)
        found.table.to_csv(board, index=False)
        plot_search(found.table, settings.tune.space, plot, found.objective, diverged=DIVERGED_LOSS)
        run.log_metrics({found.objective: found.value}, 0)
        run.log_artifact(board)
        run.log_artifact(plot)
        name = f"FID-{settings.tune.samples}" if found.objective == "fid" else found.objective
        say("tune", f"best: {name} {format_figure(found.value)} with {found.parameters}")
        parent_of_trials = {"parent": record} if record else {}
        write_json(best, {"parameters": found.parameters, found.objective: found.value, **parent_of_trials})
        run.log_artifact(best)


def _start(context: StageContext, settings: Settings) -> Start | None:
    """The run that the trials start from, without a folder if its files are in the storage only; None for random weights."""
    if (found := fetched_parent(context, settings)) is None:
        return None
    parent, folder = found
    return open_start(folder, parent.name) if folder.is_dir() else parent.start


@contextmanager
def _place(
    context: StageContext, settings: Settings, events: Path, start: Start | None
) -> Iterator[TrialsOnDisk | TrialsInStorage]:
    """Where the trials work, with everything that they need in place."""
    data = context.checkout.prepared
    if uri := settings.storage.resolve_uri():
        cache_gib = settings.storage.cache_gib
        with trials_in_storage(uri, context.work.name, data, cache_gib=cache_gib, start=start) as trials:
            yield trials
        return
    from pipelines.tuning.trial import compares_with_real, measure_real, trial_extractor

    decoded, statistics = user_cache_dir() / "decoded", user_cache_dir() / "statistics"
    dataset = PreparedDataset(data, cache_dir=decoded)
    if compares_with_real(settings, dataset):
        say("tune", "measuring the real pictures with which every trial is compared")
    measure_real(settings, dataset, trial_extractor(settings), statistics)
    yield TrialsOnDisk(
        work=str(context.work.resolve()),
        data=str(data.resolve()),
        events=str(events),
        decoded=str(decoded.resolve()),
        statistics=str(statistics.resolve()),
        start=str(start.folder.resolve()) if start and start.folder else "",
    )
