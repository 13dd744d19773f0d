"""The state of a search is saved before a trial begins and before its known checkpoints are deleted, and comes back whole."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pyarrow.fs import LocalFileSystem
from ray.tune.experiment import Trial

from gan_core.errors import StageError
from pipelines.storage.objects import Storage
from pipelines.tuning.state import SavedASHA, SearchState, StateInStorage, StateOnDisk

RUNGS = {"2": {"a": -30.0, "b": -50.0}, "1": {"a": -60.0, "b": -70.0, "c": -99.0}}


@dataclass
class OneTrial:
    """As much of a trial as the state reads."""

    trial_id: str
    status: str = Trial.RUNNING
    checkpoints: int = 0

    def init_local_path(self):
        """Tune gives a trial a folder when it starts."""

    @property
    def checkpoint(self):
        return None if not self.checkpoints else Place(f"/trials/{self.trial_id}/checkpoint_{self.checkpoints - 1:06d}")


@dataclass
class Place:
    path: str


@dataclass
class Controller:
    """As much of Tune's controller as the state uses."""

    staging: Path
    trials: list[OneTrial] = field(default_factory=list)
    experiment_state_file_name: str = "experiment_state-2026-11-30_10-00-00.json"

    @property
    def _storage(self):
        return self

    @property
    def experiment_driver_staging_path(self):
        return str(self.staging)

    def get_trials(self):
        return self.trials

    def save_to_dir(self):
        self.staging.mkdir(exist_ok=True)
        (self.staging / self.experiment_state_file_name).write_text(json.dumps([one.trial_id for one in self.trials]))
        (self.staging / "searcher-state-2026-11-30_10-00-00.pkl").write_bytes(b"proposals")
        (self.staging / "searcher-state-2026-11-29_10-00-00.pkl").write_bytes(b"of an earlier driver")


class Counting(StateOnDisk):
    """Counts how often the state is saved."""

    saved = 0

    def write(self, content):
        type(self).saved += 1
        super().write(content)


@pytest.fixture
def place(tmp_path):
    Counting.saved = 0
    return Counting(tmp_path / "search.zip")


def state(place, tmp_path):
    return SearchState(place, str(tmp_path / "search"), LocalFileSystem())


def test_the_state_is_saved_before_a_trial_begins_and_after_it_ends(place, tmp_path):
    saving, tune = state(place, tmp_path), Controller(tmp_path / "staging", [OneTrial("a")])
    saving.save_if_due(tune, {})
    assert Counting.saved == 1
    saving.save_if_due(tune, {})
    assert Counting.saved == 1
    tune.trials.append(OneTrial("b"))
    saving.save_if_due(tune, {})
    assert Counting.saved == 2
    tune.trials[0].status = Trial.TERMINATED
    saving.save_if_due(tune, {})
    assert Counting.saved == 3


def test_of_the_three_checkpoints_that_tune_keeps_the_saved_state_always_knows_one(place, tmp_path):
    saving, tune = state(place, tmp_path), Controller(tmp_path / "staging", [OneTrial("a")])
    known = 0
    for tune.trials[0].checkpoints in range(20):
        before = Counting.saved
        saving.save_if_due(tune, {})
        known = tune.trials[0].checkpoints if Counting.saved > before else known
        assert known > tune.trials[0].checkpoints - 2
    assert Counting.saved < 20


def test_a_saved_state_replaces_what_tune_left_and_brings_the_rungs_back(place, tmp_path):
    tune = Controller(tmp_path / "staging", [OneTrial("a"), OneTrial("b")])
    state(place, tmp_path).save_if_due(tune, RUNGS)
    folder = tmp_path / "search"
    (folder / "a").mkdir(parents=True)
    (folder / "experiment_state-2026-11-30_10-00-07.json").write_text('{"cut off')
    (folder / "a" / "result.json").write_text("of a trial")

    assert state(place, tmp_path).restore() == RUNGS

    found = {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}
    assert found == {
        "experiment_state-2026-11-30_10-00-00.json": '["a", "b"]',
        "searcher-state-2026-11-30_10-00-00.pkl": "proposals",
    }
    assert (folder / "a" / "result.json").exists()


def test_without_a_saved_state_no_trial_had_begun(place, tmp_path):
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / "experiment_state-2026-11-30_10-00-07.json").write_text('{"cut off')
    assert state(place, tmp_path).restore() is None
    assert list((tmp_path / "search").iterdir()) == []


def test_a_state_that_cannot_be_read_is_an_error_with_its_place(place, tmp_path):
    place.path.write_bytes(b"PK junk")
    with pytest.raises(StageError, match=f"saved state of the search in {tmp_path / 'search'} cannot be read"):
        state(place, tmp_path).restore()


def test_a_search_that_tune_began_again_without_a_word_is_an_error(place, tmp_path):
    state(place, tmp_path).save_if_due(Controller(tmp_path / "staging", [OneTrial("a"), OneTrial("b")]), {})
    resumed = state(place, tmp_path)
    resumed.restore()
    with pytest.raises(StageError, match="could not restore the search .* 1 of its trials are missing"):
        resumed.save_if_due(Controller(tmp_path / "staging", [OneTrial("b"), OneTrial("c")]), {})


def test_the_state_of_a_driver_that_lost_its_lease_is_passed_over(tmp_path):
    storage = Storage(f"file://{tmp_path}/storage")
    old, new = StateInStorage(storage, "work/state", 1), StateInStorage(storage, "work/state", 2)
    assert new.read() is None
    old.write(b"first")
    assert new.read() == b"first"
    new.write(b"second")
    old.write(b"late")
    assert new.read() == old.read() == b"second"


def test_a_resumed_asha_stops_the_trial_that_an_unbroken_one_stops(place, tmp_path):
    def asha():
        made = SavedASHA(state(place, tmp_path), metric="loss", mode="min", max_t=4, grace_period=1, reduction_factor=2)
        made.on_trial_add(None, OneTrial("d"))
        return made

    poor = {"training_iteration": 1, "loss": 98.0}
    unbroken, forgetful, resumed = asha(), asha(), asha()
    for scheduler in (unbroken, resumed):
        scheduler.load_rungs(RUNGS)
    assert json.loads(json.dumps(resumed._rungs())) == {"4": {}, **RUNGS}
    assert (
        unbroken.on_trial_result(None, OneTrial("d"), poor)
        == resumed.on_trial_result(None, OneTrial("d"), poor)
        == "STOP"
    )
    assert forgetful.on_trial_result(None, OneTrial("d"), poor) == "CONTINUE"
