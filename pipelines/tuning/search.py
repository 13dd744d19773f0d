"""Search for settings with Optuna and ASHA, starting from the values in params.yaml; resumable."""

import logging
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from gan_core.errors import StageError
from pipelines.settings.schema import Settings
from pipelines.tuning.space import search_space

if TYPE_CHECKING:
    from pipelines.tuning.trial import TrialJob

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """Result of a search."""

    parameters: dict[str, Any]
    """Values of the best trial, by dotted name."""
    fid: float
    table: pd.DataFrame
    """The leaderboard: one row per trial, best first, with the columns trial, fid, step and the searched names."""


def initial_values(settings: Settings) -> dict[str, Any]:
    """The values in params.yaml of all searched settings, for the first trial."""
    return {name: settings.value(name) for name in settings.tune.space}


def search(work: Path, settings: Settings, job: "TrialJob") -> SearchResult:
    """Run a search in ``work``, or resume an interrupted one; no trial is lost or run twice.

    Args:
        work: the stage's work directory.
        settings: checked settings.
        job: parameters shared by all trials; the number of threads of a trial is set here.

    Raises:
        StageError: no trial has a finite FID.
    """
    # Hide Tune's tables and its warning about frequent snapshots, which resuming needs; ProgressCallback prints instead.
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")
    import optuna
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    from pipelines.tuning.progress import ProgressCallback
    from pipelines.tuning.trial import DIVERGED_FID, OBJECTIVE, Trial

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    tuned = settings.tune
    resources = ray.cluster_resources()
    concurrent = min(tuned.concurrent, tuned.trials)
    share = {
        "cpu": max(1, int(resources.get("CPU", 1)) // concurrent),
        "gpu": resources.get("GPU", 0) / concurrent,
    }
    trainable = tune.with_resources(Trial, share)
    space = {**search_space(tuned.space), "job": asdict(replace(job, threads=share["cpu"]))}
    state = work / "search"
    if tune.Tuner.can_restore(str(state)):
        log.info("Resuming the search in %s.", state)
        tuner = tune.Tuner.restore(str(state), trainable, resume_errored=True, param_space=space)
    else:
        iterations = max(1, tuned.steps // tuned.report_every)
        tuner = tune.Tuner(
            trainable,
            param_space=space,
            tune_config=tune.TuneConfig(
                metric=OBJECTIVE,
                mode="min",
                num_samples=tuned.trials,
                max_concurrent_trials=concurrent,
                search_alg=OptunaSearch(points_to_evaluate=[initial_values(settings)], seed=tuned.seed),
                scheduler=ASHAScheduler(max_t=iterations, grace_period=1, reduction_factor=tuned.reduction),
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name=state.name,
                storage_path=str(work.resolve()),
                verbose=0,
                callbacks=[ProgressCallback(tuned.trials, tuned.steps)],
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=1, num_to_keep=1),
                failure_config=tune.FailureConfig(max_failures=2),
            ),
        )
    results: Any = tuner.fit()
    rows = []
    for result in results:
        metrics = result.metrics or {}
        if OBJECTIVE in metrics:
            values = {name: metrics["config"][name] for name in tuned.space}
            rows.append(
                {
                    "trial": metrics["trial_id"].rsplit("_", 1)[-1],
                    "fid": metrics[OBJECTIVE],
                    "step": metrics["step"],
                    **values,
                }
            )
    if not rows or min(row["fid"] for row in rows) >= DIVERGED_FID:
        problems = "; ".join(str(error).strip().splitlines()[-1] for error in results.errors) or "every trial diverged"
        raise StageError(
            f"No trial of the search has a finite FID: {problems}. Fix the cause, or adjust the ranges in tune.space of "
            f"params.yaml. The state of the search is in {state}."
        )
    table = pd.DataFrame(rows)
    # FIDs after different numbers of steps do not compare: the best trial is among those that trained longest.
    table = table.sort_values(["step", "fid"], ascending=[False, True], ignore_index=True)
    best = table.iloc[0]
    chosen = next(
        result for result in results if result.metrics and result.metrics.get("trial_id", "").endswith(best["trial"])
    )
    return SearchResult(
        parameters={name: chosen.metrics["config"][name] for name in tuned.space}, fid=float(best["fid"]), table=table
    )
