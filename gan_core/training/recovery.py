"""Resume a killed run from its newest checkpoint; roll a diverged run back to its newest healthy checkpoint."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gan_core import checkpoint as checkpoints
from gan_core.errors import CheckpointError, TrainingDivergedError
from gan_core.training.config import TrainConfig
from gan_core.training.health import HealthMonitor
from gan_core.training.state import State
from gan_core.training.world import World

log = logging.getLogger(__name__)


class Recovery:
    """Writes checkpoints of a run, resumes from them, and rolls back to them.

    A checkpoint holds the state of the run, its hyperparameters, its number of steps, and its health at that step.
    """

    def __init__(
        self,
        state: State,
        config: TrainConfig,
        directory: Path,
        *,
        settings: Mapping[str, Any],
        defaults: Mapping[str, Any],
        world: World,
        resume_from: Path | None = None,
    ) -> None:
        """
        Args:
            state: the state to save and load.
            config: settings of the run: checkpoints to keep, detection of mode collapse, maximum number of rollbacks.
            directory: folder for checkpoints; only rank 0 writes.
            settings: hyperparameters of the run; checkpoints with different ones are refused.
            defaults: values of hyperparameters that checkpoints of older versions do not have.
            world: the workers that train together.
            resume_from: an additional folder to read checkpoints from (an uploaded copy).
        """
        self._state, self._config, self._directory = state, config, directory
        self._settings, self._defaults, self._world = settings, defaults, world
        self._places = [directory, *([resume_from] if resume_from else [])]
        self._monitor = HealthMonitor(config.collapse_diversity, config.collapse_patience)
        self.incidents: list[str] = []
        """The reason of each rollback so far, with its step."""
        self.resumed = False
        """Whether :meth:`resume` has found a checkpoint."""

    @property
    def rollbacks(self) -> int:
        """Number of rollbacks so far; each one halves the learning rates."""
        return len(self.incidents)

    def save(self, step: int, generator: Mapping[str, Any]) -> Path:
        """Write a checkpoint of ``step``. ``generator``: description of the averaged generator, to load it later."""
        health = {
            "rollbacks": self.rollbacks,
            "incidents": self.incidents,
            "poor": self._monitor.low_diversity_steps,
        }
        state = {"settings": self._settings, "steps": self._config.steps, "generator": generator, **health}
        path = checkpoints.save_checkpoint(self._directory, step, self._state.tensors(), state)
        # Always keep a healthy one to roll back to: newer ones may have been written while diversity was already low.
        checkpoints.prune_checkpoints(self._directory, self._config.keep_checkpoints, _is_healthy, step=step)
        return path

    def resume(self) -> int:
        """Load the newest complete checkpoint that fits this run and return its step; 0 if no checkpoint is complete.

        Raises:
            CheckpointError: its hyperparameters differ, or no checkpoint fits this run.
        """
        if self._world.rank == 0:  # a run that ends at this step writes no other checkpoint, which would remove them
            checkpoints.remove_leftovers(self._directory)
        newest = self._newest_of_rank_zero()
        if newest is None:
            return 0
        self._load(newest)
        self.resumed = True
        self.incidents, self._monitor.low_diversity_steps = _incidents(newest.state), newest.state["poor"]
        if self._world.rank == 0:
            log.info("Resuming at step %d from %s.", newest.step, newest.path)
        return newest.step

    def diagnose(self, metrics: Mapping[str, float]) -> str | None:
        """Describe what is wrong with the run, or return None (:class:`HealthMonitor`). Call it before each checkpoint."""
        return self._monitor.diagnose(metrics)

    def roll_back(self, step: int, wrong: str) -> int:
        """Load the newest healthy checkpoint, delete newer ones, and return its step.

        Raises:
            TrainingDivergedError: there is no healthy checkpoint, or the maximum number of rollbacks is reached.
        """
        limit = self._config.max_rollbacks
        saved = self._newest_of_rank_zero(_is_healthy)
        place = f"The newest healthy checkpoint is {saved.path}." if saved else "There is no healthy checkpoint."
        if self.rollbacks >= limit or saved is None:
            raise TrainingDivergedError(
                f"Training diverged at step {step} and could not be recovered after {self.rollbacks} rollbacks: {wrong}. "
                f"{place} Lower train.generator_lr and train.discriminator_lr, or search for them with the tune stage."
            )
        self.incidents.append(f"step {step}: {wrong}")
        self._monitor.low_diversity_steps = 0
        log.warning(
            "Step %d: %s. Rolling back to step %d with %g times the learning rate (rollback %d of %d).",
            *(step, wrong, saved.step, 0.5**self.rollbacks, self.rollbacks, limit),
        )
        self._load(saved)
        if self._world.rank == 0:
            checkpoints.drop_checkpoints_after(self._directory, saved.step)
        return saved.step

    def _newest_of_rank_zero(
        self, accept: Callable[[Mapping[str, Any]], bool] = lambda state: True
    ) -> checkpoints.Checkpoint | None:
        """The checkpoint that :meth:`_newest` finds on rank 0, returned on every worker; only rank 0 has its tensors.

        Workers on several hosts may see different files, but all must resume at the same step.
        """
        found: checkpoints.Checkpoint | None = self._world.on_rank_zero(lambda: self._newest(accept))
        described = self._world.broadcast(replace(found, tensors={}) if found else None)
        return found or described

    def _load(self, checkpoint: checkpoints.Checkpoint) -> None:
        """Load the tensors that rank 0 has read."""
        tensors = checkpoint.tensors if self._world.rank == 0 else None
        self._state.load(self._world.broadcast_tensors(tensors, self._state.device))

    def _newest(
        self, accept: Callable[[Mapping[str, Any]], bool] = lambda state: True
    ) -> checkpoints.Checkpoint | None:
        """The newest complete checkpoint that fits this run, or None if there is no complete one; log those that do not fit.

        Raises:
            CheckpointError: its hyperparameters differ; or there are complete checkpoints and none fits. Starting from
                scratch would delete them.
        """
        passed_over = None
        for found in checkpoints.valid_checkpoints(self._places, accept):
            wrong = _missing_field(found.state)
            if wrong is None:
                checkpoints.require_same_settings(found.state["settings"], self._settings, found.path, self._defaults)
                wrong = self._state.mismatch(found.tensors)
            if wrong is None:
                return found
            checkpoints.log_skipped(found.path, wrong)
            passed_over = passed_over or f"{found.path}: {wrong}"
        if passed_over:
            raise CheckpointError(
                f"No checkpoint here fits this run ({passed_over}). Train into an empty folder, or restore an earlier "
                "checkpoint."
            )
        return None


def _missing_field(state: Mapping[str, Any]) -> str | None:
    """Describe the first field of :meth:`Recovery.save` that ``state`` lacks or has with the wrong type; None if valid."""
    kinds = {"settings": dict, "generator": dict, "rollbacks": int, "poor": int}
    for name, kind in kinds.items():
        if not isinstance(state.get(name), kind):
            return f"{checkpoints.STATE} has no valid {name}"
    return None


def _incidents(state: Mapping[str, Any]) -> list[str]:
    """The reasons of the rollbacks of a checkpoint; checkpoints of older versions hold only their number."""
    known = state.get("incidents")
    if isinstance(known, list) and len(known) == state["rollbacks"]:
        return [str(incident) for incident in known]
    return ["at an unknown step, for an unknown reason"] * state["rollbacks"]


def _is_healthy(state: Mapping[str, Any]) -> bool:
    """Whether diversity was not low when the checkpoint was written."""
    return state.get("poor") == 0
