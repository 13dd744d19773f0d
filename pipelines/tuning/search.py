"""Search for settings with Optuna and ASHA, starting from the values in params.yaml; resumable."""

import logging
import math
import warnings
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from pyarrow.fs import LocalFileSystem

from gan_core.errors import StageError
from gan_core.metrics.objective import FID
from pipelines.runtime.progress import say
from pipelines.runtime.resources import allocate, cluster_nodes
from pipelines.runtime.shared_folder import share_lock_folder
from pipelines.settings.schema import Settings
from pipelines.storage.objects import Storage
from pipelines.tuning.places import MIRRORS, STATE, TrialFollower, TrialsInStorage
from pipelines.tuning.space import search_space

if TYPE_CHECKING:
    from pipelines.tuning.trial import TrialJob

log = logging.getLogger(__name__)

_TUNE = "search"
"""Name of the folder in which Tune keeps checkpoints of trials and a state of its own."""


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """Result of a search."""

    parameters: dict[str, Any]
    """Values of the best trial, by dotted name."""
    objective: str
    """Name of the figure that the search went by."""
    value: float
    """Its value for the best trial."""
    table: pd.DataFrame
    """The leaderboard: one row per trial, best first, with the columns trial, fid, step, the searched names and, if it is not
    the FID, the objective."""


def initial_values(settings: Settings) -> dict[str, Any]:
    """The values in params.yaml of all searched settings, for the first trial."""
    return {name: settings.value(name) for name in settings.tune.space}


def search(work: Path, settings: Settings, job: "TrialJob", events: Path) -> SearchResult:
    """Run a search in ``work``, or resume an interrupted one; no trial is lost or run twice.

    Args:
        work: the stage's work directory.
        settings: checked settings.
        job: parameters shared by all trials; the number of threads of a trial is set here.
        events: folder of the event logs on this host.

    Raises:
        SettingsError: the cluster has no GPU, or none that fits, for ``tune.gpus_per_trial``.
        StageError: no trial has a finite objective.
    """
    import optuna
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    from pipelines.tuning.progress import ProgressCallback
    from pipelines.tuning.state import KEPT, SavedASHA, SearchState, StateInStorage, StateOnDisk, StatePlace
    from pipelines.tuning.trial import DIVERGED_LOSS, LOSS, VALUE, Trial

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # A trial that was lost and begins again reports its first steps again; ProgressCallback says that it does.
    warnings.filterwarnings("ignore", message="The reported value is ignored because this `step=", category=UserWarning)
    share_lock_folder()
    tuned, objective = settings.tune, settings.evaluate.objective
    wanted = min(tuned.concurrent, tuned.trials)
    share = allocate(
        cluster_nodes(),
        1,
        wanted,
        setting="tune.concurrent",
        what="trials",
        share_gpus=True,
        gpu_share=tuned.gpus_per_trial,
        gpu_share_setting="tune.gpus_per_trial",
    )
    if share.processes < wanted:
        say(
            "tune",
            f"{share.processes} trial(s) run in parallel, not tune.concurrent ({wanted}): no more fit on the nodes",
        )
    if share.gpus:
        say("tune", f"each trial has {share.gpus:g} GPU(s) and {share.cpus} CPU core(s)")
    shared = job.place if isinstance(job.place, TrialsInStorage) else None
    # Parameters that are not in the search space: a resumed search takes those of the new driver.
    trainable = tune.with_resources(
        tune.with_parameters(Trial, job=replace(job, threads=share.cpus)), {"cpu": share.cpus, "gpu": share.gpus}
    )
    space = search_space(tuned.space)
    if shared:
        storage = Storage(shared.inputs.uri)
        filesystem, root = storage.filesystem()
        folder = f"{root}/{shared.name}"
        place: StatePlace = StateInStorage(storage, f"{shared.name}/state", shared.epoch)
    else:
        filesystem, folder = LocalFileSystem(), str(work.resolve())
        place = StateOnDisk(work / STATE)
    state = SearchState(place, f"{folder}/{_TUNE}", filesystem)
    iterations = math.ceil(tuned.steps / tuned.report_every)  # the last one may be shorter
    scheduler = SavedASHA(state, max_t=iterations, grace_period=1, reduction_factor=tuned.reduction)
    rungs = state.restore()
    if rungs is None and shared and (work / MIRRORS).exists():
        say("tune", "the storage no longer has the state of an interrupted search: it begins anew")
    if rungs is not None:
        log.info("Resuming the search in %s/%s.", folder, _TUNE)
        scheduler.load_rungs(rungs)
    resuming = tune.ResumeConfig(errored=tune.ResumeConfig.ResumeType.RESUME)  # type: ignore[arg-type]
    # Not tune.Tuner: a restored one takes ASHA and Optuna from a pickle of the first driver.
    with TrialFollower(shared, work / MIRRORS, events, job.run_key).running() if shared else nullcontext():
        analysis = tune.run(
            trainable,
            config=space,
            metric=LOSS,
            mode="min",
            num_samples=tuned.trials,
            max_concurrent_trials=share.processes,
            search_alg=OptunaSearch(points_to_evaluate=[initial_values(settings)], seed=tuned.seed),
            scheduler=scheduler,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: trial.trial_id,
            name=_TUNE,
            storage_path=folder,
            storage_filesystem=filesystem,
            verbose=0,
            callbacks=[ProgressCallback(tuned.trials, tuned.steps, objective)],
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=1, checkpoint_at_end=True, num_to_keep=KEPT),
            max_failures=2,
            raise_on_failed_trial=False,
            resume_config=resuming if rungs is not None else None,
        )
    results: Any = tune.ResultGrid(analysis)
    rows = []
    for result in results:
        metrics = result.metrics or {}
        if LOSS in metrics:
            values = {name: metrics["config"][name] for name in tuned.space}
            rows.append(
                {
                    "trial": metrics["trial_id"].rsplit("_", 1)[-1],
                    LOSS: metrics[LOSS],
                    "fid": metrics["fid"],
                    **({} if objective == FID else {objective: metrics[VALUE]}),
                    "step": metrics["step"],
                    **values,
                }
            )
    if not rows or min(row[LOSS] for row in rows) >= DIVERGED_LOSS:
        problems = "; ".join(str(error).strip().splitlines()[-1] for error in results.errors) or "every trial diverged"
        raise StageError(
            f"No trial of the search has a finite {objective}: {problems}. Fix the cause, or adjust the ranges in tune.space "
            f"of params.yaml. The state of the search is in {folder}/{_TUNE}."
        )
    table = rank(pd.DataFrame(rows), LOSS, DIVERGED_LOSS)
    best = table.iloc[0]
    chosen = next(
        result for result in results if result.metrics and result.metrics.get("trial_id", "").endswith(best["trial"])
    )
    return SearchResult(
        parameters={name: chosen.metrics["config"][name] for name in tuned.space},
        objective=objective,
        value=float(best[objective]),
        table=table.drop(columns=LOSS),
    )


def rank(table: pd.DataFrame, loss: str, diverged: float) -> pd.DataFrame:
    """Sort the trials of a search, best first.

    Figures after different numbers of steps are not comparable, so those that trained longest come first. A trial that diverged
    has no figure, and comes after all that have one.

    Args:
        table: a row for each trial, with the columns ``step`` and ``loss``.
        loss: name of the column with the loss.
        diverged: loss of a diverged trial.
    """
    failed = table[loss] >= diverged
    table = table.assign(failed=failed).sort_values(["failed", "step", loss], ascending=[True, False, True])
    return table.drop(columns="failed").reset_index(drop=True)
