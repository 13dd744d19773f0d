"""What a run goes back to: its newest checkpoint after it was killed, its newest healthy one when it goes wrong."""

import logging
from collections.abc import Callable, Mapping
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
    """Writes the checkpoints of a run, resumes from them, and rolls back to them.

    A checkpoint holds the state, the settings that a step's result depends on, and how healthy the run was then.
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
        elsewhere: Path | None = None,
    ) -> None:
        """Write nothing yet.

        Args:
            state: what is saved and loaded.
            config: how many checkpoints to keep, when to speak of a collapse, how often to roll back.
            directory: checkpoints are written here, by rank 0.
            settings: a checkpoint of others is refused.
            defaults: what settings stood at that a checkpoint of an older edition does not know.
            world: the workers that train together.
            elsewhere: checkpoints are also read from here (an uploaded copy).
        """
        self._state, self._config, self._directory = state, config, directory
        self._settings, self._defaults, self._world = settings, defaults, world
        self._places = [directory, *([elsewhere] if elsewhere else [])]
        self._watch = HealthMonitor(config.collapse_diversity, config.collapse_patience)
        self.rollbacks = 0
        """How often this run was rolled back; each halves its learning rates."""

    def save(self, step: int, generator: Mapping[str, Any]) -> Path:
        """Write a checkpoint of ``step``; ``generator`` describes what it samples with."""
        health = {"rollbacks": self.rollbacks, "poor": self._watch.poor}
        state = {"settings": self._settings, "generator": generator, **health}
        path = checkpoints.save_checkpoint(self._directory, step, self._state.tensors(), state)
        # A rollback needs a healthy one, however many were written while the run was already suspected of a collapse.
        checkpoints.prune_checkpoints(self._directory, self._config.keep_checkpoints, _is_healthy)
        return path

    def resume(self) -> int:
        """Load the newest whole checkpoint; the step that it was written at, 0 where there is none.

        Raises:
            CheckpointError: it belongs to other settings, or none of those that are there fits this run.
        """
        newest = self._newest()
        if newest is None:
            return 0
        self._state.load(newest.tensors)
        self.rollbacks, self._watch.poor = newest.state["rollbacks"], newest.state["poor"]
        if self._world.rank == 0:
            log.info("Resuming at step %d from %s.", newest.step, newest.path)
        return newest.step

    def diagnose(self, metrics: Mapping[str, float]) -> str | None:
        """What is wrong with the run, in words, or None; see :class:`HealthMonitor`. Call it before a checkpoint is written."""
        return self._watch.diagnose(metrics)

    def roll_back(self, step: int, wrong: str) -> int:
        """Load the newest healthy checkpoint and drop the newer ones; the step that it was written at.

        Raises:
            TrainingDivergedError: there is none, or the run was rolled back as often as it may be.
        """
        limit = self._config.max_rollbacks
        saved = self._newest(_is_healthy)
        place = f"The newest healthy checkpoint is {saved.path}." if saved else "There is no healthy checkpoint."
        if self.rollbacks >= limit or saved is None:
            raise TrainingDivergedError(
                f"Training cannot be saved at step {step}: {wrong}, after {self.rollbacks} rollbacks. {place} "
                "Lower train.generator_lr and train.discriminator_lr, or let the tune stage find them."
            )
        self.rollbacks, self._watch.poor = self.rollbacks + 1, 0
        log.warning(
            "Step %d: %s. Rolling back to step %d with %g times the learning rate (rollback %d of %d).",
            *(step, wrong, saved.step, 0.5**self.rollbacks, self.rollbacks, limit),
        )
        self._state.load(saved.tensors)
        self._world.barrier()  # every worker has read its checkpoint
        if self._world.rank == 0:
            checkpoints.drop_checkpoints_after(self._directory, saved.step)
        return saved.step

    def _newest(
        self, accept: Callable[[Mapping[str, Any]], bool] = lambda state: True
    ) -> checkpoints.Checkpoint | None:
        """The newest whole checkpoint that fits this run, or None where there is no whole one; says which do not fit.

        Raises:
            CheckpointError: it belongs to other settings; or there are whole ones, and none fits: to begin anew would
                remove them.
        """
        passed_over = None
        for found in checkpoints.whole_checkpoints(self._places, accept):
            wrong = _incomplete(found.state)
            if wrong is None:
                checkpoints.refuse_other_settings(found.state["settings"], self._settings, found.path, self._defaults)
                wrong = self._state.mismatch(found.tensors)
            if wrong is None:
                return found
            checkpoints.log_passed_over(found.path, wrong)
            passed_over = passed_over or f"{found.path}: {wrong}"
        if passed_over:
            raise CheckpointError(
                f"No checkpoint here fits this run ({passed_over}). Train into an empty directory, or restore an earlier "
                "checkpoint."
            )
        return None


def _incomplete(state: Mapping[str, Any]) -> str | None:
    """What the state of a checkpoint lacks that :meth:`Recovery.save` writes; None where nothing is missing."""
    kinds = {"settings": dict, "generator": dict, "rollbacks": int, "poor": int}
    for name, kind in kinds.items():
        if not isinstance(state.get(name), kind):
            return f"{checkpoints.STATE} has no {name}"
    return None


def _is_healthy(state: Mapping[str, Any]) -> bool:
    """Whether a checkpoint with this state was written while nothing was wrong."""
    return state.get("poor") == 0
