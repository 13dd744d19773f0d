"""A trial of the search: trains in one process and measures the FID every ``tune.report_every`` steps."""

import dataclasses
import logging
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ray import tune

from gan_core.data import PreparedDataset
from gan_core.errors import TrainingDivergedError
from gan_core.images.grid import save_sheet
from gan_core.metrics.assess import assess
from gan_core.metrics.inception import load_inception
from gan_core.precision import choose_device, has_bf16
from gan_core.training.trainer import Trainer
from pipelines.settings.schema import Settings, parse_settings
from pipelines.tracking import RunLog
from pipelines.tracking.runlog import STAGE_TAG, TRIAL

OBJECTIVE = "fid"
DIVERGED_FID = 1e6
"""FID reported for a diverged trial; finite, so that the search algorithm can use it."""


@dataclass(frozen=True, kw_only=True)
class TrialJob:
    """What every trial of a search shares. The values are plain, to travel to its process. Paths are absolute."""

    settings: dict[str, Any]
    data: str
    work: str
    decoded: str
    """Where decoded pictures are cached."""
    statistics: str
    """Where the moments of real pictures are cached."""
    track: str
    run_key: str
    threads: int = 1


def trial_extractor(settings: Settings, device: str | torch.device = "auto") -> Any:
    """The feature network of the objective, in bf16 if the device supports it. Published figures always use fp32."""
    device = choose_device(str(device))
    return load_inception(
        device=device, precision="bf16" if has_bf16(device) else "fp32", features=settings.tune.features
    )


class Trial(tune.Trainable):
    """Trains with one set of values; each Tune iteration is ``tune.report_every`` steps and one FID.

    For families that translate, the objective is the FID of the translations, averaged over directions, as in evaluation.
    """

    def setup(self, config: dict[str, Any]) -> None:
        """Build the trainer; ``config`` has the searched values and, under ``job``, a :class:`TrialJob` as a dictionary."""
        job = TrialJob(**config["job"])
        torch.set_num_threads(job.threads)
        self._extractor = trial_extractor(parse_settings(job.settings))
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Run another trial in this process, which keeps its imports and the feature network."""
        self.cleanup()
        self._begin(new_config)
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        job = TrialJob(**config["job"])
        self._values = {name: value for name, value in config.items() if name != "job"}
        settings = parse_settings(job.settings).with_values(self._values)
        self._settings = settings
        self._directory = Path(job.work) / "trials" / self.trial_id
        self._dataset = PreparedDataset(job.data, cache_dir=job.decoded)
        self._statistics = job.statistics
        shutil.rmtree(self._directory, ignore_errors=True)  # Tune restores the checkpoint with load_checkpoint
        self._trainer = self._build()
        self._log = RunLog(
            job.track,
            key=f"{job.run_key}-{self.trial_id}",
            name=f"trial {self.trial_id.rsplit('_', 1)[-1]}",
            parent_key=job.run_key,
            tags={STAGE_TAG: TRIAL},
        )
        self._log.log_params(self._values)

    def step(self) -> dict[str, Any]:
        """Train for ``tune.report_every`` steps and measure the FID."""
        tuned = self._settings.tune
        until = min(self._trainer.step + tuned.report_every, tuned.steps)
        try:
            self._trainer.run(until)
            self._trainer.update_statistics()
            measured = assess(
                self._trainer,
                self._dataset,
                split="train",
                count=tuned.samples,
                seed=tuned.seed,
                extractor=self._extractor,
                generator_digest=f"trial {self.trial_id} step {until}",
                cache_dir=self._statistics,
                full=False,
            )
            value = measured.objective.value
        except TrainingDivergedError as error:
            logging.getLogger(__name__).warning("Trial %s: %s", self.trial_id, error)
            value = math.inf
        value = value if math.isfinite(value) else DIVERGED_FID
        done = value == DIVERGED_FID or until >= tuned.steps
        self._log.log_metrics({OBJECTIVE: value}, until)
        if value < DIVERGED_FID:
            grid = self._directory / "grid.png"
            pictures, columns = self._trainer.preview()
            save_sheet(grid, pictures, columns=columns)
            self._log.log_artifact(grid, "grids")
        if done:
            self._log.finish()
        return {OBJECTIVE: value, "step": until, tune.result.DONE: done}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Copy the trainer's newest checkpoint to ``checkpoint_dir``."""
        shutil.copytree(self._directory / "checkpoints", checkpoint_dir, dirs_exist_ok=True)

    def load_checkpoint(self, checkpoint_dir: str) -> None:  # type: ignore[override]
        """Resume from a checkpoint."""
        self._trainer = self._build(resume_from=checkpoint_dir)

    def cleanup(self) -> None:
        """Finish and close the run log, also of a trial that ASHA stopped early."""
        self._log.finish()
        self._log.close()

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
        return Trainer(
            settings.model.family,
            settings.model.config,
            self._dataset,
            config,
            self._directory / "checkpoints",
            observer=None,
            resume_from=resume_from,
        )
