"""A run survives being killed and resumed, NaN, and mode collapse."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from gan_core.checkpoint import list_checkpoints, load_checkpoint, valid_checkpoints
from gan_core.data import PreparedDataset
from gan_core.errors import CheckpointError, TrainingDivergedError
from gan_core.families.dcgan import DcganConfig
from gan_core.files import read_json, sha256_file
from gan_core.inference.generator import load_generator
from tests.datasets import blobs, write_prepared
from tests.gan_core.training.runs import DCGAN, Make, Notes, final, short_run
from tests.gan_core.training.toy import ToyConfig, weights


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        (DCGAN, {}),
        (DCGAN, {"mirror": True, "accumulate": 2}),
        (DcganConfig(width=8, latent=16, prior="normal", loss="minimax"), {"precision": "bf16"}),
        (ToyConfig(), {}),
    ],
    ids=["plain", "mirrored micro-batches", "bf16", "dense"],
)
def test_a_resumed_run_ends_with_the_same_bytes(make: Make, tmp_path: Path, model: Any, settings: dict) -> None:
    make(model, "whole", **settings).run()
    make(model, "halted", **settings).run(until=13)
    resumed = make(model, "halted", **settings)
    assert resumed.step == 10
    resumed.run()
    assert final(tmp_path / "halted") == final(tmp_path / "whole")


def test_resuming_with_different_hyperparameters_is_refused_by_name(make: Make) -> None:
    make().run(until=10)
    with pytest.raises(
        CheckpointError, match=r"train\.discriminator_lr: 0\.0002 in the checkpoint, 0\.0003 in this run"
    ):
        make(discriminator_lr=3e-4)
    with pytest.raises(CheckpointError, match=r"model\.slope: 0\.2 in the checkpoint, 0\.3 in this run"):
        make(DcganConfig(width=8, latent=16, slope=0.3))
    longer = make(steps=30, log_every=3, checkpoint_every=7, keep_checkpoints=5, max_rollbacks=9)
    longer.run()
    assert longer.step == 30


def test_a_newer_checkpoint_in_resume_from_is_used(make: Make, tmp_path: Path) -> None:
    make(name="first").run()
    make(name="here").run(until=10)
    assert make(name="here").step == 10
    assert make(name="here", resume_from=tmp_path / "first").step == 20


def test_resuming_removes_what_a_killed_process_left_of_a_checkpoint(make: Make, tmp_path: Path) -> None:
    make(name="halted", steps=20).run()
    left = tmp_path / "halted" / ".step-00000020.gantry-abc"
    left.mkdir()
    make(name="halted", steps=20)
    assert not left.exists()


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(make: Make, tmp_path: Path) -> None:
    make(name="whole", steps=30).run()
    make(name="halted", steps=30).run(until=20)
    tensors = tmp_path / "halted" / "step-00000020" / "tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:1000])
    resumed = make(name="halted", steps=30)
    assert resumed.step == 10
    resumed.run()
    assert final(tmp_path / "halted") == final(tmp_path / "whole")


@pytest.mark.parametrize("keep", [1, 2])
def test_a_run_that_passed_over_damaged_checkpoints_keeps_those_that_it_writes(
    make: Make, tmp_path: Path, keep: int
) -> None:
    settings = {"steps": 30, "checkpoint_every": 5, "keep_checkpoints": keep}
    make(**settings).run()
    for path in list_checkpoints(tmp_path / "run"):
        (path / "tensors.safetensors").write_bytes(b"")
    again = make(**settings)
    assert again.step == 0
    again.run(until=12)
    assert make(**settings).step == 10, "the damaged ones of later steps counted as the newest"


def reseal(path: Path) -> None:
    """Update the checksums of a checkpoint after a test has changed its content."""
    sums = {name: sha256_file(path / name) for name in ("state.json", "tensors.safetensors")}
    (path / "manifest.json").write_text(json.dumps(sums))


def change_tensors(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(path / "tensors.safetensors")
    change(tensors)
    save_file(tensors, path / "tensors.safetensors")
    reseal(path)


def change_state(path: Path, **values: Any) -> None:
    state = json.loads((path / "state.json").read_text()) | values
    (path / "state.json").write_text(json.dumps({k: v for k, v in state.items() if v is not None}))
    reseal(path)


def first(tensors: dict[str, torch.Tensor], prefix: str) -> str:
    return next(name for name in sorted(tensors) if name.startswith(prefix))


MISFITS: dict[str, tuple[Callable[[Path], None], str]] = {
    "a network's tensor is missing": (
        lambda p: change_tensors(p, lambda t: t.pop(first(t, "network."))),
        "is missing",
    ),
    "an average is missing": (lambda p: change_tensors(p, lambda t: t.pop(first(t, "averaged."))), "is missing"),
    "half of a moment": (
        lambda p: change_tensors(p, lambda t: t.pop(first(t, "optimiser.generator.0.exp_avg_sq"))),
        "optimiser.generator.0.exp_avg_sq is missing",
    ),
    "a moment of an unknown parameter": (
        lambda p: change_tensors(p, lambda t: t.update({"optimiser.generator.99.step": torch.zeros(())})),
        "optimiser.generator.99.step does not belong to this run",
    ),
    "a moment without a name": (
        lambda p: change_tensors(p, lambda t: t.update({"optimiser.generator.x": torch.zeros(())})),
        "optimiser.generator.x does not belong to this run",
    ),
    "a tensor of a different shape": (
        lambda p: change_tensors(p, lambda t: t.update({first(t, "network."): torch.zeros(3, 5)})),
        "has shape [3, 5], expected",
    ),
    "a tensor of a different type": (
        lambda p: change_tensors(p, lambda t: t.update({n: t[n].long() for n in [first(t, "network.")]})),
        "has type torch.int64, expected torch.float32",
    ),
    "NaN": (
        lambda p: change_tensors(p, lambda t: t[first(t, "averaged.")].fill_(float("nan"))),
        "contains NaN or infinity",
    ),
    "NaN in a moment": (
        lambda p: change_tensors(p, lambda t: t[first(t, "optimiser.")].fill_(float("nan"))),
        "contains NaN or infinity",
    ),
    "nothing but junk": (
        lambda p: change_tensors(p, lambda t: (t.clear(), t.update(junk=torch.zeros(2)))),
        "is missing",
    ),
    "an extra tensor": (
        lambda p: change_tensors(p, lambda t: t.update({"network.generator.more": torch.zeros(1)})),
        "network.generator.more does not belong to this run",
    ),
    "no settings": (lambda p: change_state(p, settings=None), "state.json has no valid settings"),
    "settings of the wrong type": (lambda p: change_state(p, settings=[1]), "state.json has no valid settings"),
    "no description": (lambda p: change_state(p, generator=None), "state.json has no valid generator"),
    "rollbacks in words": (lambda p: change_state(p, rollbacks="two"), "state.json has no valid rollbacks"),
    "no health": (lambda p: change_state(p, poor=None), "state.json has no valid poor"),
}


@pytest.fixture(scope="module")
def halted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoints of a run that was stopped at step 20, including those of steps 10 and 20."""
    place = tmp_path_factory.mktemp("halted")
    short_run(PreparedDataset(write_prepared(place / "data", blobs(64))), place, name="run", steps=30).run(until=20)
    return place


@pytest.mark.parametrize("mismatch", MISFITS)
def test_a_newest_checkpoint_with_wrong_content_is_passed_over(
    halted: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, mismatch: str
) -> None:
    harm, said = MISFITS[mismatch]
    shutil.copytree(halted / "run", tmp_path / "run")
    harm(tmp_path / "run" / "step-00000020")
    with caplog.at_level(logging.WARNING):
        resumed = short_run(PreparedDataset(halted / "data"), tmp_path, name="run", steps=30)
    assert resumed.step == 10
    assert f"Skipping checkpoint {tmp_path / 'run' / 'step-00000020'}: " in caplog.text
    assert said in caplog.text


def test_training_does_not_restart_if_no_checkpoint_fits(halted: Path, tmp_path: Path) -> None:
    """Restarting would delete the checkpoints, which may belong to a different version."""
    shutil.copytree(halted / "run", tmp_path / "run")
    paths = list_checkpoints(tmp_path / "run")
    for path in paths:
        change_tensors(path, lambda t: t.pop(first(t, "network.")))
    with pytest.raises(
        CheckpointError, match=r"No checkpoint here fits this run \(.*step-00000020: network\..* is missing"
    ):
        short_run(PreparedDataset(halted / "data"), tmp_path, name="run", steps=30)
    assert list_checkpoints(tmp_path / "run") == paths


def test_a_generator_is_loaded_from_the_newest_checkpoint_that_has_one(
    halted: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(halted / "run", tmp_path / "run")
    newest = tmp_path / "run" / "step-00000020"
    change_tensors(newest, lambda t: t.pop(first(t, "averaged.")))
    with caplog.at_level(logging.WARNING):
        assert load_generator(tmp_path / "run").info["step"] == 10
    assert f"Skipping checkpoint {newest}: " in caplog.text
    for path in list_checkpoints(tmp_path / "run"):
        change_state(path, generator=[])
    with pytest.raises(CheckpointError, match="no checkpoint that has a generator"):
        load_generator(tmp_path / "run")
    with pytest.raises(CheckpointError, match="does not describe a generator"):
        load_generator(newest)


# -- trouble ---------------------------------------------------------------------------------------------------------


def test_nan_rolls_back_to_the_last_checkpoint_with_half_the_learning_rate(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    notes = Notes()
    trainer = make(ToyConfig(nan_at=13, cured_after=1), observer=notes)
    with caplog.at_level(logging.WARNING):
        trainer.run()
    assert trainer.step == 20
    assert trainer.rollbacks == 1
    assert "Step 15: health/discriminator_gradient is nan" in caplog.text or "loss/discriminator is nan" in caplog.text
    assert "Rolling back to step 10 with 0.5 times the learning rate (rollback 1 of 3)" in caplog.text
    assert [optimiser.lr for optimiser in trainer.optimisers.values()] == [1e-4, 1e-4]
    assert torch.isfinite(weights(trainer.family.networks)).all()
    assert all(value == value for row in notes.rows.values() for value in row.values())


def test_nan_is_never_written_to_a_checkpoint(make: Make, tmp_path: Path) -> None:
    """Even when a checkpoint is due between two rows of metrics."""
    trainer = make(ToyConfig(nan_at=11, cured_after=1), log_every=10, checkpoint_every=4)
    trainer.run()
    assert trainer.rollbacks == 1
    for path in list_checkpoints(tmp_path / "run"):
        assert all(torch.isfinite(tensor).all() for tensor in load_checkpoint(path).tensors.values())


def test_a_collapse_rolls_back_to_the_last_checkpoint_before_it_began(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = ToyConfig(collapse_from=9, cured_after=1)
    trainer = make(model, steps=30, log_every=2, checkpoint_every=4, keep_checkpoints=1, collapse_patience=5)
    with caplog.at_level(logging.WARNING):
        trainer.run()
    assert "the generator has collapsed" in caplog.text
    assert "Rolling back to step 8 with 0.5 times" in caplog.text  # 12 and 16 were written during the collapse
    assert (trainer.step, trainer.rollbacks) == (30, 1)
    trainer.export(tmp_path / "generator")
    (reason,) = read_json(tmp_path / "generator" / "generator.json")["rollbacks"]
    assert reason.startswith("step 18: the generator has collapsed")


def test_a_resumed_run_remembers_the_reasons_of_its_rollbacks(make: Make, tmp_path: Path) -> None:
    settings = {"steps": 30, "log_every": 2, "checkpoint_every": 4, "collapse_patience": 2}
    model = ToyConfig(collapse_from=9, cured_after=1)
    make(model, **settings).run(until=20)

    def recorded() -> list[str]:
        make(model, **settings).export(tmp_path / "generator")
        return read_json(tmp_path / "generator" / "generator.json")["rollbacks"]

    (reason,) = recorded()
    assert "the generator has collapsed" in reason
    for path in list_checkpoints(tmp_path / "run"):
        change_state(path, incidents=None)  # as an older version wrote it
    assert recorded() == ["at an unknown step, for an unknown reason"]


@pytest.mark.parametrize("killed_at", [11, 13, 17])
def test_a_run_killed_around_a_rollback_ends_with_the_same_bytes(make: Make, tmp_path: Path, killed_at: int) -> None:
    """Killed before the rollback, between it and the next checkpoint, and later."""
    settings = {"steps": 24, "log_every": 2, "checkpoint_every": 4, "collapse_patience": 2}
    model = ToyConfig(collapse_from=9, cured_after=1)
    make(model, "whole", **settings).run()
    halted = make(model, "halted", **settings)
    rolled = 0
    while halted.step < killed_at or (killed_at > 11 and not rolled):
        halted.run(until=halted.step + 1)
        rolled = halted.rollbacks
    del halted
    resumed = make(model, "halted", **settings)
    resumed.run()
    assert resumed.rollbacks == 1
    assert final(tmp_path / "halted") == final(tmp_path / "whole")


def test_a_run_in_an_empty_folder_rolls_back_to_its_checkpoint_in_resume_from(make: Make, tmp_path: Path) -> None:
    make(ToyConfig(nan_at=13, cured_after=1), "first").run(until=10)
    moved = make(ToyConfig(nan_at=13, cured_after=1), "second", resume_from=tmp_path / "first")
    assert moved.step == 10
    moved.run()
    assert (moved.step, moved.rollbacks) == (20, 1)


def test_a_diverged_run_fails_with_a_message_and_keeps_its_checkpoint(make: Make, tmp_path: Path) -> None:
    trainer = make(ToyConfig(nan_at=13), max_rollbacks=2)
    with pytest.raises(TrainingDivergedError) as caught:
        trainer.run()
    message = str(caught.value)
    assert "Training diverged at step 15 and could not be recovered after 2 rollbacks: " in message
    assert " is nan. " in message
    assert "step-00000010" in message
    assert "train.generator_lr" in message
    kept = next(valid_checkpoints([tmp_path / "run"]), None)
    assert kept is not None
    assert kept.step == 10
    assert all(torch.isfinite(tensor).all() for tensor in kept.tensors.values())


def test_dcgan_with_an_absurd_learning_rate_fails_with_the_same_message(make: Make, tmp_path: Path) -> None:
    trainer = make(generator_lr=1e30, discriminator_lr=1e30, log_every=1, max_rollbacks=1)
    with pytest.raises(TrainingDivergedError, match="Lower train.generator_lr"):
        trainer.run()
    assert next(valid_checkpoints([tmp_path / "run"]), None) is not None
