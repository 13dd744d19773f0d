"""The printed progress of a search."""

import pickle
from types import SimpleNamespace

import pytest

from pipelines.tuning import progress
from pipelines.tuning.progress import ProgressCallback


def trial(name: str, status: str = "RUNNING") -> SimpleNamespace:
    return SimpleNamespace(trial_id=name, status=status)


def test_a_resumed_search_counts_all_trials_but_only_its_own_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    first = ProgressCallback(4, 100)
    first.setup()
    clock[0] += 10
    first.on_trial_complete(0, [trial("a"), trial("b")], trial("a"))
    assert "1/4 trials, about 30 s left" in capsys.readouterr().out

    again = pickle.loads(pickle.dumps(first))
    clock[0] = 5.0  # another process, hours later and after a restart of the machine
    again.setup(stop=None, num_samples=4)
    clock[0] += 20
    again.on_trial_complete(0, [trial("a", "TERMINATED"), trial("b")], trial("b"))
    assert "2/4 trials, about 40 s left" in capsys.readouterr().out


def test_a_lost_trial_is_reported_with_the_step_and_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    progress = ProgressCallback(2, 100)
    lost = trial("a_00001")
    lost.last_result, lost.has_checkpoint = {"step": 40}, lambda: True
    lost.get_error = lambda: ValueError("Traceback\nThe actor died because its node has died.\n")
    progress.on_trial_recover(0, [lost], lost)
    lost.has_checkpoint, lost.get_error = lambda: False, lambda: None
    progress.on_trial_recover(0, [lost], lost)
    first, second = capsys.readouterr().out.splitlines()
    assert first.endswith("trial 00001 was lost and goes on from step 40: The actor died because its node has died.")
    assert second.endswith("trial 00001 was lost and begins again: its process ended")


def test_a_trial_that_is_given_up_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    progress = ProgressCallback(2, 100)
    failed = trial("a_00001")
    failed.last_result, failed.get_error = {"step": 40}, lambda: ValueError("Traceback\nIt broke.\n")
    progress.on_trial_error(0, [failed], failed)
    failed.last_result = {}
    progress.on_trial_error(0, [failed], failed)
    first, second = capsys.readouterr().out.splitlines()
    assert first.endswith("trial 00001 failed and is not tried again, its figure of step 40 is kept: It broke.")
    assert second.endswith("trial 00001 failed and is not tried again, the leaderboard lacks it: It broke.")
