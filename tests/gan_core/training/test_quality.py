"""FID during training: equal to that of evaluation, without any effect on training; the best generator is kept."""

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
    """An observer that also records figures."""

    def __init__(self) -> None:
        super().__init__()
        self.figures: dict[int, Figure] = {}

    def figure(self, figure: Figure, step: int) -> None:
        self.figures[step] = figure


@pytest.fixture
def _averages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use features that need no network."""
    monkeypatch.setattr(quality, "load_inception", lambda device: Averages())


@pytest.fixture
def ordered(_averages: None, monkeypatch: pytest.MonkeyPatch) -> dict[int, float]:
    """FIDs by step, which a test sets."""
    values: dict[int, float] = {}
    measure = quality.QualityMonitor.measure

    def in_order(self: quality.QualityMonitor, subject: Trainer, step: int) -> Figure:
        return dataclasses.replace(measure(self, subject, step), value=values[step])

    monkeypatch.setattr(quality.QualityMonitor, "measure", in_order)
    return values


@pytest.mark.usefixtures("_averages")
def test_fid_is_measured_at_its_steps_and_the_last_step_and_logged(make: Make) -> None:
    told = Figures()
    make(observer=told, steps=20, fid_every=8, fid_samples=16).run()
    assert sorted(told.figures) == [8, 16, 20]
    assert {step: row["quality/fid"] for step, row in told.rows.items() if "quality/fid" in row} == {
        step: figure.value for step, figure in told.figures.items()
    }
    assert sorted(told.rows) == [5, 8, 10, 15, 16, 20]


@pytest.mark.weights
def test_fid_during_training_equals_that_of_the_exported_generator(
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
def test_measuring_does_not_change_training(make: Make, tmp_path: Path) -> None:
    make(name="without").run()
    make(name="with", fid_every=3, fid_samples=16, keep_best=True).run()
    without, with_it = (list_checkpoints(tmp_path / name)[0] for name in ("without", "with"))
    assert (without / "tensors.safetensors").read_bytes() == (with_it / "tensors.safetensors").read_bytes()


def test_the_best_generator_is_exported_with_its_fid(make: Make, tmp_path: Path, ordered: dict[int, float]) -> None:
    ordered |= {5: 30.0, 10: 10.0, 15: 20.0, 20: 25.0}
    trainer = make(fid_every=5, fid_samples=16, keep_best=True)
    trainer.run(until=10)
    pictures = trainer.generator.sample(4, 1)
    trainer.run()
    trainer.export(tmp_path / "generator")
    best = load_generator(tmp_path / "generator")
    assert (best.info["step"], best.info["images_seen"], best.info["fid"]["value"]) == (10, 160, 10.0)
    assert "16 against 16 real of train" in best.info["fid"]["stamp"]
    assert (
        best.sample(4, 1).int() - pictures.int()
    ).abs().max() <= 1  # rounding: the memory layout of the weights differs


def test_the_last_generator_is_exported_by_default(make: Make, tmp_path: Path, ordered: dict[int, float]) -> None:
    ordered |= {10: 10.0, 20: 25.0}
    trainer = make(fid_every=10, fid_samples=16)
    trainer.run()
    trainer.export(tmp_path / "generator")
    assert load_generator(tmp_path / "generator").info["step"] == 20
    assert not (tmp_path / "run" / "best").exists()


@pytest.mark.parametrize("killed_at", [12, 17])
def test_a_killed_and_resumed_run_ends_with_the_same_best_generator(
    make: Make, tmp_path: Path, ordered: dict[int, float], killed_at: int
) -> None:
    """At step 17 the best one (step 15) is newer than the newest checkpoint, so step 15 is measured again."""
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


def test_a_new_run_deletes_the_best_generator_of_the_run_before(
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


def test_fids_of_different_protocols_are_not_compared(make: Make, tmp_path: Path, ordered: dict[int, float]) -> None:
    ordered |= {10: 1.0, 20: 25.0}
    make(fid_every=10, fid_samples=8, keep_best=True).run(until=10)
    trainer = make(fid_every=10, fid_samples=16, keep_best=True)
    trainer.run()
    trainer.export(tmp_path / "generator")
    assert load_generator(tmp_path / "generator").info["fid"]["value"] == 25.0


@pytest.mark.usefixtures("_averages")
def test_a_run_without_any_fid_warns_that_it_exports_the_last_generator(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make().run()
    finished = make(fid_every=10, fid_samples=16, keep_best=True)
    finished.run()
    finished.export(tmp_path / "generator")
    assert "keep_best: exporting the last generator instead of the best" in caplog.text
    assert load_generator(tmp_path / "generator").info["step"] == 20


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_infinity_are_never_the_best(
    make: Make, tmp_path: Path, ordered: dict[int, float], value: float
) -> None:
    ordered |= {10: value, 20: 25.0}
    trainer = make(fid_every=10, fid_samples=16, keep_best=True)
    trainer.run()
    trainer.export(tmp_path / "generator")
    assert load_generator(tmp_path / "generator").info["fid"]["value"] == 25.0


def test_keep_best_without_fid_every_is_refused() -> None:
    with pytest.raises(SettingsError, match="keep_best: .* fid_every: 0 .* Set fid_every"):
        TrainConfig(keep_best=True)


@pytest.mark.usefixtures("_averages")
def test_a_domain_with_too_few_pictures_is_refused_before_training(tmp_path: Path) -> None:
    folder = write_prepared(tmp_path / "data", blobs(8, 32, channels=3), np.array([0] * 7 + [1]), kind="unpaired")
    config = TrainConfig(steps=4, batch=2, fid_every=2)
    with pytest.raises(DataError, match="has 1 picture, but a measurement needs at least 2"):
        Trainer("cyclegan", family_config("cyclegan", {}), PreparedDataset(folder), config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("harm", ["other weights", "no figure", "text", "brackets", "a huge number"])
def test_a_damaged_best_generator_is_not_exported_and_causes_a_warning(
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
    assert f"Ignoring the best generator so far, {best}: " in caplog.text
    assert load_generator(tmp_path / "generator").info["step"] == 20
