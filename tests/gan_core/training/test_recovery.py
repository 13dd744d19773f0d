"""What a run survives: being killed and resumed, NaN, a collapse."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from gan_core.errors import CheckpointError, TrainingDivergedError
from gan_core.families.dcgan import DcganConfig
from gan_core.training.checkpoint import latest_checkpoint, list_checkpoints, load_checkpoint
from tests.gan_core.training.runs import DCGAN, Make, Notes, final
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


def test_settings_that_change_a_step_are_refused_by_name_and_others_are_free(make: Make) -> None:
    make().run(until=10)
    with pytest.raises(CheckpointError, match=r"train\.discriminator_lr: 0\.0002 there, 0\.0003 here"):
        make(discriminator_lr=3e-4)
    with pytest.raises(CheckpointError, match=r"model\.slope: 0\.2 there, 0\.3 here"):
        make(DcganConfig(width=8, latent=16, slope=0.3))
    longer = make(steps=30, log_every=3, checkpoint_every=7, keep_checkpoints=5, max_rollbacks=9)
    longer.run()
    assert longer.step == 30


def test_a_copy_elsewhere_is_used_when_it_is_newer(make: Make, tmp_path: Path) -> None:
    make(name="first").run()
    make(name="here").run(until=10)
    assert make(name="here").step == 10
    assert make(name="here", resume_from=tmp_path / "first").step == 20


def test_a_damaged_newest_checkpoint_costs_only_the_steps_since_the_one_before(make: Make, tmp_path: Path) -> None:
    make(name="whole", steps=30).run()
    make(name="halted", steps=30).run(until=20)
    tensors = tmp_path / "halted" / "step-00000020" / "tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:1000])
    resumed = make(name="halted", steps=30)
    assert resumed.step == 10
    resumed.run()
    assert final(tmp_path / "halted") == final(tmp_path / "whole")


# -- trouble ---------------------------------------------------------------------------------------------------------


def test_nan_rolls_back_to_the_last_checkpoint_with_half_the_learning_rate_and_says_so(
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


def test_a_collapse_rolls_back_to_before_it_began_however_many_checkpoints_came_since(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = ToyConfig(collapse_from=9, cured_after=1)
    trainer = make(model, steps=30, log_every=2, checkpoint_every=4, keep_checkpoints=1, collapse_patience=5)
    with caplog.at_level(logging.WARNING):
        trainer.run()
    assert "the generator has collapsed" in caplog.text
    assert "Rolling back to step 8 with 0.5 times" in caplog.text  # 12 and 16 were written in the collapse
    assert (trainer.step, trainer.rollbacks) == (30, 1)


@pytest.mark.parametrize("killed_at", [11, 13, 17])
def test_a_run_killed_around_a_rollback_ends_with_the_same_bytes(make: Make, tmp_path: Path, killed_at: int) -> None:
    """Before it, after it and before the next checkpoint, and later."""
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


def test_a_run_that_moved_to_an_empty_directory_rolls_back_to_the_copy_it_came_from(make: Make, tmp_path: Path) -> None:
    make(ToyConfig(nan_at=13, cured_after=1), "first").run(until=10)
    moved = make(ToyConfig(nan_at=13, cured_after=1), "second", resume_from=tmp_path / "first")
    assert moved.step == 10
    moved.run()
    assert (moved.step, moved.rollbacks) == (20, 1)


def test_a_run_that_cannot_be_saved_ends_with_a_message_and_keeps_its_checkpoint(make: Make, tmp_path: Path) -> None:
    trainer = make(ToyConfig(nan_at=13), max_rollbacks=2)
    with pytest.raises(TrainingDivergedError) as caught:
        trainer.run()
    message = str(caught.value)
    assert "Training cannot be saved at step 15" in message
    assert "is nan, after 2 rollbacks" in message
    assert "step-00000010" in message
    assert "train.generator_lr" in message
    kept = latest_checkpoint(tmp_path / "run")
    assert kept is not None
    assert kept.step == 10
    assert all(torch.isfinite(tensor).all() for tensor in kept.tensors.values())


def test_an_absurd_learning_rate_of_the_real_family_ends_with_the_message_too(make: Make, tmp_path: Path) -> None:
    trainer = make(generator_lr=1e30, discriminator_lr=1e30, log_every=1, max_rollbacks=1)
    with pytest.raises(TrainingDivergedError, match="Lower train.generator_lr"):
        trainer.run()
    assert latest_checkpoint(tmp_path / "run") is not None
