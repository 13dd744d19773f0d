"""A time budget becomes a number of steps before the first step, and stays that number."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gan_core.data import PreparedDataset
from gan_core.errors import SettingsError
from gan_core.families.dcgan import DcganConfig
from gan_core.training import length as lengths
from gan_core.training.config import TrainConfig
from gan_core.training.length import LENGTH, Costs, Length, decide_length, read_length
from gan_core.training.trainer import Trainer
from gan_core.training.world import World
from tests.datasets import blobs, write_prepared

CONFIG = TrainConfig(minutes=1, checkpoint_every=100, sample_every=100, batch=8, precision="fp32", decay_from=0.5)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return PreparedDataset(write_prepared(tmp_path_factory.mktemp("data"), blobs(32)))


def test_the_budget_pays_for_steps_checkpoints_grids_and_fids() -> None:
    assert Costs(step=0.1).steps_within(60, CONFIG) == 600
    costs = Costs(step=0.1, checkpoint=2, grid=3, fid=10, real=7)
    assert costs.seconds(150, CONFIG) == pytest.approx(15 + 2 * (2 + 3)), "training measures no FID"
    measuring = TrainConfig(checkpoint_every=100, sample_every=50, fid_every=100)
    assert costs.seconds(150, measuring) == pytest.approx(7 + 15 + 2 * 2 + 3 * 3 + 2 * 10)
    for budget in (10, 33.3, 60, 1000):
        steps = costs.steps_within(budget, measuring)
        assert costs.seconds(steps + 1, measuring) > budget
        assert steps == 0 or costs.seconds(steps, measuring) <= budget


class Paced:
    """A trainer whose steps take a known time, on a clock of its own: phases by their interval and their seconds."""

    def __init__(self, phases: dict[int, float], monkeypatch: pytest.MonkeyPatch) -> None:
        self._phases, self.step, self.now, self.timed = phases, 0, 0.0, 0
        self.device = torch.device("cpu")
        self.family = SimpleNamespace(updates=lambda: tuple((SimpleNamespace(every=every),) for every in phases))
        monkeypatch.setattr(lengths.time, "perf_counter", lambda: self.now)

    def run(self, until: int) -> None:
        while self.step < until:
            due = [seconds for every, seconds in self._phases.items() if self.step % every == 0]
            self.now += sum(due) + (50 if self.timed == 0 else 0)  # the first step is slow
            self.step, self.timed = self.step + 1, self.timed + 1


@pytest.mark.parametrize("scale", [0.001, 1], ids=["quick", "slow"])
def test_phases_that_run_seldom_count_by_how_often_they_run(monkeypatch: pytest.MonkeyPatch, scale: float) -> None:
    phases = {1: 1.0, 4: 0.5, 16: 8.0}
    paced: Any = Paced({every: scale * seconds for every, seconds in phases.items()}, monkeypatch)
    mean = lengths._seconds_per_step(paced, 4.0, World())
    assert mean == pytest.approx(scale * (1 + 0.5 / 4 + 8 / 16))
    assert paced.now < 50 + (8 if scale < 1 else 30), "measuring takes long"
    assert paced.timed < 10 or scale < 1


def test_the_number_of_steps_is_measured_once_and_recorded(
    tmp_path: Path, data: PreparedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lengths, "_SHORTEST_S", 0.5)
    monkeypatch.setattr(lengths, "_SHARE", 0.0)
    built = []

    def build_trainer(config: TrainConfig, place: Path) -> Trainer:
        built.append(config)
        return Trainer("dcgan", DcganConfig(width=4, latent=8), data, config, place, device="cpu")

    checkpoints = tmp_path / "run" / "checkpoints"

    def decide(config: TrainConfig = CONFIG) -> Length:
        return decide_length(build_trainer, config, tmp_path / "run", checkpoints, world=World())

    found = decide()
    assert (found.minutes, found.workers) == (1, 1)
    assert found.steps == found.costs.steps_within(60, CONFIG)
    assert 0 < found.costs.checkpoint < 60
    assert 0 < found.costs.grid < 60
    assert read_length(tmp_path / "run") == found == decide()
    assert len(built) == 1, "a run that is resumed is not measured again"
    left = {tmp_path / "run", checkpoints, tmp_path / "run" / LENGTH}
    assert set(tmp_path.rglob("*")) == left, "what was measured is thrown away"

    with pytest.raises(
        SettingsError, match=rf"has {found.steps} steps, decided from 1 minutes, got 2\. Give 1 minutes"
    ):
        decide(TrainConfig(minutes=2))
    (tmp_path / "run" / LENGTH).write_text("{}")
    with pytest.raises(SettingsError, match=r"length\.json is damaged: Missing setting"):
        decide()
    (tmp_path / "run" / LENGTH).unlink()
    with pytest.raises(
        SettingsError, match=r"1e-05 minutes are 0 steps here .* fewer than train\.checkpoint_every \(100\)"
    ):
        decide(TrainConfig(minutes=1e-5, checkpoint_every=100))
    short = Trainer(
        "dcgan", DcganConfig(width=4, latent=8), data, TrainConfig(steps=1, batch=8), checkpoints, device="cpu"
    )
    short.run()
    with pytest.raises(
        SettingsError, match=r"has a checkpoint of a run of 1 steps and no length\.json\. Give train\.steps"
    ):
        decide()


def test_a_trainer_does_not_guess_the_number_of_steps(tmp_path: Path, data: PreparedDataset) -> None:
    with pytest.raises(SettingsError, match=r"train\.minutes: a trainer needs a number of steps"):
        Trainer("dcgan", DcganConfig(width=4), data, CONFIG, tmp_path, device="cpu")


@pytest.mark.parametrize("minutes", [0, -1, float("inf")])
def test_a_budget_of_nothing_or_without_end_is_refused(minutes: float) -> None:
    with pytest.raises(SettingsError, match=rf"minutes: must be above 0 and at most 1,000,000, got {minutes}"):
        TrainConfig(minutes=minutes)


def test_the_record_says_what_it_is_from(tmp_path: Path) -> None:
    costs = Costs(step=0.02, checkpoint=0.2, fid=6)
    described = Length(steps=2500, minutes=1.5, workers=2, costs=costs).describe()
    assert described == (
        "1.5 minutes are 2500 steps on 2 worker(s), as measured before the first one (20.0 ms a step, 0.20 s a checkpoint, "
        "6.00 s an FID)"
    )
    assert read_length(tmp_path) is None
    (tmp_path / LENGTH).write_text(json.dumps({"steps": 0, "minutes": 1, "workers": 1, "costs": {"step": 1}}))
    with pytest.raises(SettingsError, match=r"is damaged"):
        read_length(tmp_path)
