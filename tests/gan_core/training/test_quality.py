"""FID beside training: measured at its steps as evaluation measures it, without a trace in what is learnt; the best is kept."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from gan_core.checkpoint import list_checkpoints
from gan_core.data import PreparedDataset
from gan_core.errors import DataError, SettingsError
from gan_core.families import family_config
from gan_core.inference.generator import load_generator
from gan_core.metrics.evaluate import fid_of_samples
from gan_core.metrics.inception import load_inception
from gan_core.metrics.protocol import Figure
from gan_core.training import quality
from gan_core.training.config import TrainConfig
from gan_core.training.trainer import Trainer
from tests.datasets import blobs, write_prepared
from tests.gan_core.metrics.conftest import Averages
from tests.gan_core.training.runs import Make, Notes


class Figures(Notes):
    """An observer that keeps the figures, too."""

    def __init__(self) -> None:
        super().__init__()
        self.figures: dict[int, Figure] = {}

    def figure(self, figure: Figure, step: int) -> None:
        self.figures[step] = figure


@pytest.fixture
def _averages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Features that need no network."""
    monkeypatch.setattr(quality, "load_inception", lambda device: Averages())


@pytest.fixture
def ordered(_averages: None, monkeypatch: pytest.MonkeyPatch) -> dict[int, float]:
    """FIDs by step, as a test orders them."""
    values: dict[int, float] = {}
    measure = quality.QualityMonitor.measure

    def in_order(self: quality.QualityMonitor, subject: Trainer, step: int) -> Figure:
        return dataclasses.replace(measure(self, subject, step), value=values[step])

    monkeypatch.setattr(quality.QualityMonitor, "measure", in_order)
    return values


@pytest.mark.usefixtures("_averages")
def test_it_is_measured_at_its_steps_and_at_the_last_and_stands_in_the_rows(make: Make) -> None:
    told = Figures()
    make(observer=told, steps=20, fid_every=8, fid_samples=16).run()
    assert sorted(told.figures) == [8, 16, 20]
    assert {step: row["quality/fid"] for step, row in told.rows.items() if "quality/fid" in row} == {
        step: figure.value for step, figure in told.figures.items()
    }
    assert sorted(told.rows) == [5, 8, 10, 15, 16, 20]


@pytest.mark.weights
def test_it_is_the_figure_that_the_exported_generator_has(
    make: Make, tmp_path: Path, blob_data: PreparedDataset, weights_file: Path
) -> None:
    told = Figures()
    trainer = make(observer=told, steps=4, fid_every=4, fid_samples=12)
    trainer.run()
    trainer.export(tmp_path / "generator")
    sample = load_generator(tmp_path / "generator").sample
    how = {"split": "train", "count": 12, "seed": 0, "extractor": load_inception(), "generator_digest": ""}
    apart = fid_of_samples(sample, blob_data, **how)
    assert told.figures[4].protocol == apart.protocol
    assert told.figures[4].protocol.publishable
    assert told.figures[4].value == pytest.approx(apart.value, rel=1e-6)


@pytest.mark.usefixtures("_averages")
def test_it_leaves_no_trace_in_what_is_learnt(make: Make, tmp_path: Path) -> None:
    make(name="without").run()
    make(name="with", fid_every=3, fid_samples=16, keep_best=True).run()
    without, with_it = (list_checkpoints(tmp_path / name)[0] for name in ("without", "with"))
    assert (without / "tensors.safetensors").read_bytes() == (with_it / "tensors.safetensors").read_bytes()


def test_the_best_is_exported_and_says_why(make: Make, tmp_path: Path, ordered: dict[int, float]) -> None:
    ordered |= {5: 30.0, 10: 10.0, 15: 20.0, 20: 25.0}
    trainer = make(fid_every=5, fid_samples=16, keep_best=True)
    trainer.run(until=10)
    pictures = trainer.sample(4, 1)
    trainer.run()
    trainer.export(tmp_path / "generator")
    best = load_generator(tmp_path / "generator")
    assert (best.info["step"], best.info["images_seen"], best.info["fid"]["value"]) == (10, 160, 10.0)
    assert "16 against 16 real of train" in best.info["fid"]["stamp"]
    assert (best.sample(4, 1).int() - pictures.int()).abs().max() <= 1  # rounding: weights lie otherwise in memory


def test_without_being_asked_the_last_is_exported(make: Make, tmp_path: Path, ordered: dict[int, float]) -> None:
    ordered |= {10: 10.0, 20: 25.0}
    trainer = make(fid_every=10, fid_samples=16)
    trainer.run()
    trainer.export(tmp_path / "generator")
    assert load_generator(tmp_path / "generator").info["step"] == 20
    assert not (tmp_path / "run" / "best").exists()


@pytest.mark.parametrize("killed_at", [12, 17])
def test_a_killed_run_ends_with_the_same_best(
    make: Make, tmp_path: Path, ordered: dict[int, float], killed_at: int
) -> None:
    """At 17 the best, of step 15, is newer than the newest checkpoint: it is measured again."""
    ordered |= {5: 30.0, 10: 20.0, 15: 10.0, 20: 25.0}
    settings = {"fid_every": 5, "fid_samples": 16, "keep_best": True}
    whole = make(name="whole", **settings)
    whole.run()
    whole.export(tmp_path / "whole-generator")
    make(name="killed", **settings).run(until=killed_at)
    resumed = make(name="killed", **settings)
    assert resumed.step == 10
    resumed.run()
    resumed.export(tmp_path / "killed-generator")
    for name in ("generator.safetensors", "generator.json"):
        assert (tmp_path / "whole-generator" / name).read_bytes() == (tmp_path / "killed-generator" / name).read_bytes()


def test_a_run_that_begins_anew_forgets_the_best_of_the_one_before(
    make: Make, tmp_path: Path, ordered: dict[int, float]
) -> None:
    ordered |= {10: 1.0, 20: 25.0}
    settings = {"fid_every": 10, "fid_samples": 16, "keep_best": True}
    make(**settings).run()
    for path in list_checkpoints(tmp_path / "run"):
        (path / "manifest.json").unlink()
    ordered |= {10: 40.0, 20: 30.0}
    trainer = make(seed=1, **settings)
    trainer.run()
    trainer.export(tmp_path / "generator")
    assert load_generator(tmp_path / "generator").info["fid"]["value"] == 30.0


def test_figures_of_other_protocols_are_not_compared(make: Make, tmp_path: Path, ordered: dict[int, float]) -> None:
    ordered |= {10: 1.0, 20: 25.0}
    make(fid_every=10, fid_samples=8, keep_best=True).run(until=10)
    trainer = make(fid_every=10, fid_samples=16, keep_best=True)
    trainer.run()
    trainer.export(tmp_path / "generator")
    assert load_generator(tmp_path / "generator").info["fid"]["value"] == 25.0


@pytest.mark.usefixtures("_averages")
def test_a_finished_run_that_measured_nothing_says_that_it_exports_the_last(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make().run()
    finished = make(fid_every=10, fid_samples=16, keep_best=True)
    finished.run()
    finished.export(tmp_path / "generator")
    assert "keep_best: this run has measured no FID, so the last generator is exported" in caplog.text
    assert load_generator(tmp_path / "generator").info["step"] == 20


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_never_the_best(
    make: Make, tmp_path: Path, ordered: dict[int, float], value: float
) -> None:
    ordered |= {10: value, 20: 25.0}
    trainer = make(fid_every=10, fid_samples=16, keep_best=True)
    trainer.run()
    trainer.export(tmp_path / "generator")
    assert load_generator(tmp_path / "generator").info["fid"]["value"] == 25.0


def test_the_best_of_what_is_never_measured_is_refused() -> None:
    with pytest.raises(SettingsError, match="keep_best: .* fid_every: 0 .* Set fid_every"):
        TrainConfig(keep_best=True)


@pytest.mark.usefixtures("_averages")
def test_a_domain_with_too_few_pictures_to_measure_is_refused_before_training(tmp_path: Path) -> None:
    folder = write_prepared(tmp_path / "data", blobs(8, 32, channels=3), np.array([0] * 7 + [1]), kind="unpaired")
    config = TrainConfig(steps=4, batch=2, fid_every=2)
    with pytest.raises(DataError, match="has 1 picture, and a figure needs 2 or more"):
        Trainer("cyclegan", family_config("cyclegan", {}), PreparedDataset(folder), config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("harm", ["other weights", "no figure", "text", "brackets", "a huge number"])
def test_a_best_generator_that_was_damaged_is_not_exported_and_that_is_said(
    make: Make, tmp_path: Path, ordered: dict[int, float], caplog: pytest.LogCaptureFixture, harm: str
) -> None:
    ordered.update({10: 10.0, 20: 20.0})
    trainer = make(fid_every=10, fid_samples=16, keep_best=True)
    trainer.run()
    best = tmp_path / "run" / "best"
    info = json.loads((best / "generator.json").read_text())
    if harm == "other weights":
        (best / "generator.safetensors").write_bytes(b"junk")
    elif harm == "no figure":
        (best / "generator.json").write_text(json.dumps({**info, "fid": None}))
    elif harm == "text":
        (best / "generator.json").write_text(json.dumps({**info, "fid": {"value": "low", "protocol_digest": "x"}}))
    elif harm == "a huge number":
        (best / "generator.json").write_text(json.dumps({**info, "fid": {"value": 10**400, "protocol_digest": "x"}}))
    else:
        (best / "generator.json").write_text("[" * 100_000)
    trainer.export(tmp_path / "generator")
    assert f"Passing over the best generator so far, {best}: " in caplog.text
    assert load_generator(tmp_path / "generator").info["step"] == 20
