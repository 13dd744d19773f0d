"""A trial of the search: trains in one process and measures the FID every ``tune.report_every`` steps."""

import dataclasses
import logging
import math
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ray import tune

from gan_core.data import PreparedDataset
from gan_core.errors import TrainingDivergedError
from gan_core.families import FAMILIES
from gan_core.families.noise import NoiseFamily
from gan_core.images.grid import save_sheet
from gan_core.locks import file_lock
from gan_core.metrics.assess import assess
from gan_core.metrics.evaluate import real_moments
from gan_core.metrics.inception import load_inception
from gan_core.metrics.objective import FID, PATH_LENGTHS, find_objective, loss
from gan_core.precision import choose_device, has_bf16
from gan_core.training.start import Start, open_start
from gan_core.training.stream import streaming_reason
from gan_core.training.trainer import Trainer
from pipelines.runtime.code import check_versions
from pipelines.runtime.shared_folder import share_lock_folder
from pipelines.settings.schema import Settings, parse_settings
from pipelines.tracking import RunLog
from pipelines.tracking.runlog import STAGE_TAG, TRIAL
from pipelines.training.places import GRIDS
from pipelines.training.run_tags import parent_tags
from pipelines.tuning.places import TrialsInStorage, TrialsOnDisk, trial_run_key

LOSS, VALUE = "loss", "value"
"""What a trial reports to Tune: the objective as a number that is lower for a better trial, and its value."""
DIVERGED_LOSS = 1e6
"""Loss reported for a diverged trial; finite, so that the search algorithm can use it."""


@dataclass(frozen=True, kw_only=True)
class TrialJob:
    """Parameters that all trials of a search share."""

    settings: dict[str, Any]
    place: TrialsOnDisk | TrialsInStorage
    run_key: str
    versions: str
    """:func:`pipelines.runtime.code.code_versions` of the driver, which every host must have, too."""
    start: dict[str, Any] | None = None
    """Record of the run that each trial starts from (:attr:`gan_core.training.start.Start.record`)."""
    threads: int = 1


def trial_extractor(settings: Settings, device: str | torch.device = "auto") -> Any:
    """The feature network of the objective, in bf16 if the device supports it and the objective is no path length, which needs
    fp32. Published figures always use fp32.
    """
    device = choose_device(str(device))
    coarse = has_bf16(device) and settings.evaluate.objective not in PATH_LENGTHS
    return load_inception(device=device, precision="bf16" if coarse else "fp32", features=settings.tune.features)


def compares_with_real(settings: Settings, dataset: PreparedDataset) -> bool:
    """Whether all trials are compared with the same real pictures, which can be measured before."""
    return FAMILIES[settings.model.family].can(NoiseFamily) or dataset.info.kind == "paired"


def measure_real(settings: Settings, dataset: PreparedDataset, extractor: Any, statistics: Path) -> None:
    """Decode the pictures and measure the real ones, as each trial would, and keep both in the caches of this host."""
    if streaming_reason(dataset, settings.train):
        dataset = dataset.streaming()
    dataset.pixels("train")
    dataset.conditions("train")
    if compares_with_real(settings, dataset):
        count = min(settings.tune.samples, dataset.info.splits["train"])
        real_moments(dataset, "train", extractor, count=count, cache_dir=statistics)


class Trial(tune.Trainable):
    """Trains with one set of values; each Tune iteration is ``tune.report_every`` steps and one measurement.

    The objective is that of evaluation (``evaluate.objective``). For families that translate it is averaged over directions.
    """

    def setup(self, config: dict[str, Any], job: TrialJob) -> None:  # type: ignore[override]
        """Build the trainer for the searched values ``config``."""
        check_versions("tune", job.versions)
        torch.set_num_threads(job.threads)
        self._job = job
        self._open = ExitStack()
        self._extractor: Any = None
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Run another trial in this process, which keeps its imports and the feature network."""
        self.cleanup()
        self._begin(new_config)
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        share_lock_folder()  # on this host, to restore a checkpoint
        job = self._job
        self._failed = False
        self._values = dict(config)
        settings = parse_settings(job.settings).with_values(self._values)
        self._settings = settings
        files = self._files = self._open.enter_context(job.place.on_trial(self.trial_id))
        self._directory = files.work
        self._dataset = files.data.open(files.decoded)
        if self._extractor is None:  # its weights may have come with the data
            self._extractor = trial_extractor(settings)
        if files.lock:
            with file_lock(files.lock):
                measure_real(settings, self._dataset, self._extractor, files.statistics)
        shutil.rmtree(self._directory, ignore_errors=True)  # Tune restores the checkpoint with load_checkpoint
        self._trainer = self._build()
        self._log = RunLog(
            files.events,
            key=trial_run_key(job.run_key, self.trial_id),
            name=f"trial {self.trial_id.rsplit('_', 1)[-1]}",
            parent_key=job.run_key,
            tags={STAGE_TAG: TRIAL, **parent_tags(job.start)},
        )
        self._log.log_params(self._values)

    def _log_grid(self) -> None:
        grid = self._directory / "grid.png"
        pictures, columns = self._trainer.generator.preview()
        save_sheet(grid, pictures, columns=columns)
        self._log.log_image(grid, GRIDS, self._trainer.step)

    def step(self) -> dict[str, Any]:
        """Train for ``tune.report_every`` steps and measure the FID and the objective."""
        with self._noting_failure():
            return self._step()

    def _step(self) -> dict[str, Any]:
        tuned, name = self._settings.tune, self._settings.evaluate.objective
        figures: dict[str, float] = {}
        until = min(self._trainer.step + tuned.report_every, tuned.steps)
        try:
            if self._trainer.step == 0:  # where MLflow's chart view opens
                self._trainer.generator.update_statistics()
                self._log_grid()
            self._trainer.run(until)
            self._trainer.generator.update_statistics()
            measured = assess(
                self._trainer.generator,
                self._trainer.dataset,
                split="train",
                count=tuned.samples,
                seed=tuned.seed,
                extractor=self._extractor,
                generator_digest=f"trial {self.trial_id} step {until}",
                cache_dir=self._files.statistics,
                full=name != FID,
                # Not evaluate.path_samples, which is no setting of the search: a change must not leave its result out of date.
                path_samples=tuned.samples if name in PATH_LENGTHS else 0,
            )
            objective = find_objective(measured.figures, name, measured.findings.omitted)
            figures = {FID: measured.objective.value, name: objective.value}
            value, lost = objective.value, loss(objective)
        except TrainingDivergedError as error:
            logging.getLogger(__name__).warning("Trial %s: %s", self.trial_id, error)
            lost = math.inf
        diverged = not math.isfinite(lost)
        if diverged:
            value, lost = math.nan, DIVERGED_LOSS
        # A diverged trial keeps its place at the end of MLflow's charts and of the leaderboard.
        told = {name: DIVERGED_LOSS} if diverged and name == FID else figures
        done = diverged or until >= tuned.steps
        # How far a trial came explains its figure: ASHA stops some early.
        self._log.log_metrics({**told, "kimg": self._trainer.images_seen / 1000}, until)
        if not diverged:
            self._log_grid()
        if done:
            self._log.finish()
        return {LOSS: lost, VALUE: value, FID: told.get(FID, math.nan), "step": until, tune.result.DONE: done}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Copy the trainer's newest checkpoint to ``checkpoint_dir``, after everything that was recorded until it is safe."""
        with self._noting_failure():
            self._files.sync()
            shutil.copytree(self._directory / "checkpoints", checkpoint_dir, dirs_exist_ok=True)

    def load_checkpoint(self, checkpoint_dir: str) -> None:  # type: ignore[override]
        """Resume from a checkpoint."""
        with self._noting_failure():
            self._trainer = self._build(resume_from=checkpoint_dir)

    def cleanup(self) -> None:
        """Finish and close the run log, also of a trial that ASHA stopped early or that failed."""
        self._log.finish("FAILED" if self._failed else "FINISHED")
        self._log.close()
        self._open.close()

    @contextmanager
    def _noting_failure(self) -> Iterator[None]:
        """Note an error for :meth:`cleanup`, which Tune calls after it, too."""
        try:
            yield
        except BaseException:
            self._failed = True
            raise

    def _build(self, resume_from: str | None = None) -> Trainer:
        settings = self._settings
        config = dataclasses.replace(
            settings.train.trainer_config(),
            steps=settings.tune.steps,
            checkpoint_every=settings.tune.report_every,
            sample_every=settings.tune.steps + 1,
            keep_checkpoints=1,
            fid_every=0,
            keep_best=False,
        )
        record, folder = self._job.start, self._files.start
        return Trainer(
            settings.model.family,
            settings.model.config,
            self._dataset,
            config,
            self._directory / "checkpoints",
            observer=None,
            resume_from=resume_from,
            start=Start(**record, folder=folder and open_start(folder).folder) if record else None,
        )
