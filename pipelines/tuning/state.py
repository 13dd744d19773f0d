"""The state of a search, saved as one file before anything depends on it.

Tune saves a state of its own every few seconds, in several files that it copies in the background. A driver that is killed in
between forgets a trial that has begun since, or knows only a checkpoint that has been deleted since. If one of the files is
incomplete, Tune begins the search again and says so in its log alone. The rungs of ASHA are in none of them.

So the driver saves this state itself: before a trial begins, after one ends, and before Tune deletes the last checkpoint that
the saved state knows.
"""

import json
import re
import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import pyarrow.fs
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler

from gan_core.errors import StageError
from gan_core.files import atomic_write
from pipelines.storage.objects import Storage

KEPT = 3
"""Checkpoints of a trial that Tune must keep: the state is saved at every second one, so it never knows only deleted ones."""
_EVERY_SECONDS = 10.0
_RUNGS, _TRIALS = "gantry-rungs.json", "gantry-trials.json"
_OF_TUNE = re.compile(r"(experiment_state|search_gen_state|searcher-state|callback)[^/]*\.(json|pkl)")
_ENDED = (Trial.TERMINATED, Trial.ERROR)


class StatePlace(Protocol):
    """Where the saved state lies. Writing replaces it as a whole or not at all."""

    def read(self) -> bytes | None:
        """The saved state; None if there is none."""

    def write(self, content: bytes) -> None:
        """Save the state."""


@dataclass(frozen=True)
class StateOnDisk:
    """In a file of the work directory."""

    path: Path

    def read(self) -> bytes | None:
        """The content of the file; None if there is none."""
        return self.path.read_bytes() if self.path.is_file() else None

    def write(self, content: bytes) -> None:
        """Replace the file."""
        with atomic_write(self.path) as temporary:
            temporary.write_bytes(content)


@dataclass(frozen=True)
class StateInStorage:
    """In an object of the storage, one for each driver: one that has lost its lease does not replace its successor's."""

    storage: Storage
    folder: str
    epoch: int
    """Of the driver's lease on the search."""

    def read(self) -> bytes | None:
        """The state that the latest driver saved; None if there is none."""
        names = sorted(entry.name for entry in self.storage.entries(self.folder))
        return self.storage.read(names[-1]) if names else None

    def write(self, content: bytes) -> None:
        """Replace the state of this driver."""
        self.storage.write(f"{self.folder}/{self.epoch:09d}.zip", content)


class SearchState:
    """Saves the state of a search, and puts it back where Tune reads it.

    Args:
        place: where the state is saved.
        folder: Tune's folder of the search, on ``filesystem``.
        filesystem: that Tune was given.
    """

    def __init__(self, place: StatePlace, folder: str, filesystem: pyarrow.fs.FileSystem) -> None:
        self._place, self._folder, self._filesystem = place, folder, filesystem
        self._saved: dict[str, tuple[bool, int]] = {}
        self._saved_at = float("-inf")
        self._expected: set[str] = set()

    def restore(self) -> dict[str, Any] | None:
        """Put the saved state into Tune's folder, in place of what Tune left there.

        Returns:
            The rungs of ASHA (:meth:`SavedASHA.load_rungs`); None if no state was saved, so that no trial had begun.

        Raises:
            StageError: the saved state cannot be read.
        """
        content = self._place.read()
        self._filesystem.create_dir(self._folder, recursive=True)
        self._forget()
        if content is None:
            return None
        try:
            with zipfile.ZipFile(BytesIO(content)) as archive:
                for name in archive.namelist():
                    if _OF_TUNE.fullmatch(name):
                        with self._filesystem.open_output_stream(f"{self._folder}/{name}") as stream:
                            stream.write(archive.read(name))
                self._expected = set(json.loads(archive.read(_TRIALS)))
                rungs: dict[str, Any] = json.loads(archive.read(_RUNGS))
        except (zipfile.BadZipFile, KeyError, ValueError) as error:
            raise StageError(
                f"The saved state of the search in {self._folder} cannot be read ({error}). Remove that folder with everything "
                "beside it to begin the search again."
            ) from error
        return rungs

    def _forget(self) -> None:
        selector = pyarrow.fs.FileSelector(self._folder, allow_not_found=True)
        for found in self._filesystem.get_file_info(selector):
            if _OF_TUNE.fullmatch(found.base_name):
                self._filesystem.delete_file(found.path)

    def save_if_due(self, controller: Any, rungs: Mapping[str, Any]) -> None:
        """Save the state of Tune's ``controller`` and ASHA's ``rungs`` if a trial is new, has ended or has new checkpoints.

        Raises:
            StageError: Tune did not take up the trials of the restored state.
            StorageError: the storage cannot be reached.
        """
        now = {trial.trial_id: (trial.status in _ENDED, _newest(trial)) for trial in controller.get_trials()}
        if lost := self._expected - now.keys():
            raise StageError(
                f"Ray Tune could not restore the search in {self._folder}: {len(lost)} of its trials are missing. "
                "The log of the stage says why. Remove that folder with everything beside it to begin the search again."
            )
        if now == self._saved or not self._is_due(now):
            return
        for trial in controller.get_trials():
            trial.init_local_path()  # a trial without a folder gets another one when it is restored
        controller.save_to_dir()
        self._place.write(_pack(controller, rungs))
        self._saved, self._saved_at, self._expected = now, time.monotonic(), set()

    def _is_due(self, now: Mapping[str, tuple[bool, int]]) -> bool:
        if time.monotonic() - self._saved_at >= _EVERY_SECONDS:
            return True
        for trial, (ended, checkpoint) in now.items():
            ended_before, checkpoint_before = self._saved.get(trial, (None, checkpoint))
            if ended is not ended_before or checkpoint - checkpoint_before >= KEPT - 1:
                return True
        return False


class SavedASHA(ASHAScheduler):
    """ASHA for a search whose state is saved with its rungs: a resumed search stops the trials that an unbroken one would.

    Args:
        state: saved between the events that Tune handles.
        settings: of ASHA.
    """

    def __init__(self, state: SearchState, **settings: Any) -> None:
        super().__init__(**settings)
        self._state = state

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """Save the state if it is due. Tune asks after it has made new trials, before it starts them."""
        self._state.save_if_due(tune_controller._tune_controller, self._rungs())
        return super().choose_trial_to_run(tune_controller)

    def _rungs(self) -> dict[str, Any]:
        """For each measurement at which trials are stopped: the rewards of the trials that have reached it."""
        (bracket,) = self._brackets
        return {str(milestone): recorded for milestone, recorded in bracket._rungs}

    def load_rungs(self, rungs: Mapping[str, Any]) -> None:
        """Take over the rungs of a saved state."""
        (bracket,) = self._brackets
        for milestone, recorded in bracket._rungs:
            recorded.update(rungs.get(str(milestone), {}))


def _newest(trial: Trial) -> int:
    """Number of the newest checkpoint of ``trial``; -1 if it has none."""
    checkpoint = trial.checkpoint
    return int(Path(checkpoint.path).name.rpartition("_")[2]) if checkpoint else -1


def _pack(controller: Any, rungs: Mapping[str, Any]) -> bytes:
    """The state that ``controller`` has just written to its own folder, in one archive."""
    newest: str = controller.experiment_state_file_name
    session = newest.removeprefix("experiment_state-").removesuffix(".json")
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for path in sorted(Path(controller._storage.experiment_driver_staging_path).iterdir()):
            if session in path.name and _OF_TUNE.fullmatch(path.name):
                archive.write(path, path.name)
        archive.writestr(_RUNGS, json.dumps(rungs))
        archive.writestr(_TRIALS, json.dumps([trial.trial_id for trial in controller.get_trials()]))
    return packed.getvalue()
