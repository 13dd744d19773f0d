"""The training loop: what it computes, what it tells, and how it survives NaN, collapse and being resumed."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gan_core.data import PreparedDataset
from gan_core.errors import CheckpointError, SettingsError, TrainingDivergedError
from gan_core.families.dcgan import DcganConfig
from gan_core.generator import load_generator
from gan_core.training.checkpoint import latest_checkpoint, list_checkpoints, load_checkpoint
from gan_core.training.config import TrainConfig
from gan_core.training.ema import ema_decay
from gan_core.training.observer import Observer
from gan_core.training.trainer import Trainer
from gan_core.training.world import World
from tests.gan_core.training.toy import ToyConfig, weights

DCGAN = DcganConfig(width=8, latent=16)


class Notes(Observer):
    """An observer that keeps everything."""

    def __init__(self) -> None:
        self.rows: dict[int, dict[str, float]] = {}
        self.grids: dict[int, Tensor] = {}
        self.checkpoints: list[int] = []

    def metrics(self, values: dict[str, float], step: int) -> None:
        self.rows[step] = values

    def pictures(self, pictures: Tensor, step: int, columns: int) -> None:
        self.grids[step] = pictures

    def checkpoint(self, path: Path | None, step: int) -> None:
        assert path is not None
        assert load_checkpoint(path).step == step
        self.checkpoints.append(step)


Make = Callable[..., Trainer]


@pytest.fixture
def make(blob_data: PreparedDataset, tmp_path: Path) -> Make:
    """A trainer in ``tmp_path/NAME``; further arguments are settings of the run."""

    def build(model: Any = DCGAN, name: str = "run", observer: Any = None, **settings: Any) -> Trainer:
        others = {key: settings.pop(key) for key in ("resume_from", "world") if key in settings}
        seldom = {"log_every": 5, "sample_every": 10, "checkpoint_every": 10}
        config = TrainConfig(**{"steps": 20, "batch": 16, "precision": "fp32", **seldom, **settings})
        family = "dcgan" if isinstance(model, DcganConfig) else "toy"
        return Trainer(
            family, model, blob_data, config, tmp_path / name, device="cpu", observer=observer, **others
        )  # fmt: skip

    return build


def final(directory: Path) -> tuple[bytes, bytes]:
    path = list_checkpoints(directory)[0]
    return (path / "tensors.safetensors").read_bytes(), (path / "state.json").read_bytes()


def steps(directory: Path) -> list[int]:
    return sorted(int(path.name[5:]) for path in list_checkpoints(directory))


# -- what is told ----------------------------------------------------------------------------------------------------


def test_metrics_grids_and_checkpoints_come_at_their_steps(make: Make, tmp_path: Path) -> None:
    notes = Notes()
    make(observer=notes, steps=23, log_every=5, sample_every=8, checkpoint_every=10).run()
    assert sorted(notes.rows) == [5, 10, 15, 20, 23]
    assert sorted(notes.grids) == [8, 16, 23]
    assert notes.checkpoints == [0, 10, 20, 23]
    assert steps(tmp_path / "run") == [20, 23]  # keep_checkpoints is 2


def test_a_row_tells_losses_health_rate_and_progress(make: Make) -> None:
    notes = Notes()
    make(observer=notes).run()
    row = notes.rows[20]
    assert set(row) == {
        "loss/discriminator", "loss/generator", "health/real_right", "health/fake_right", "health/diversity",
        "health/discriminator_gradient", "health/generator_gradient", "rate/images_per_second", "progress/kimg",
    }  # fmt: skip
    assert row["progress/kimg"] == 20 * 16 / 1000
    assert row["rate/images_per_second"] > 0
    assert all(0 <= row[f"health/{side}_right"] <= 1 for side in ("real", "fake"))
    assert row["health/diversity"] > 0


def test_a_row_of_losses_is_the_mean_over_the_steps_since_the_last(make: Make) -> None:
    each, every = Notes(), Notes()
    make(observer=each, name="a", log_every=1).run()
    make(observer=every, name="b", log_every=5).run()
    for key in ("loss/discriminator", "loss/generator", "health/real_right"):
        mean = sum(each.rows[step][key] for step in range(6, 11)) / 5
        assert every.rows[10][key] == pytest.approx(mean, rel=1e-5)
    assert every.rows[10]["health/generator_gradient"] == pytest.approx(each.rows[10]["health/generator_gradient"])


def test_an_interrupted_window_counts_only_the_steps_after_the_interruption(make: Make) -> None:
    each, halted = Notes(), Notes()
    make(observer=each, name="a", log_every=1).run()
    trainer = make(observer=halted, name="b")
    trainer.run(until=3)
    trainer.run()
    mean = (each.rows[4]["loss/generator"] + each.rows[5]["loss/generator"]) / 2
    assert halted.rows[5]["loss/generator"] == pytest.approx(mean, rel=1e-5)


def test_a_grid_shows_the_same_64_latents_every_time(make: Make) -> None:
    notes = Notes()
    trainer = make(observer=notes)
    trainer.run()
    assert notes.grids[20].shape == (64, 1, 16, 16)
    assert notes.grids[20].dtype == torch.uint8
    assert torch.equal(notes.grids[20], trainer.sample(64, 0).cpu())


def test_the_export_is_the_averaged_generator_with_its_origin(make: Make, tmp_path: Path) -> None:
    trainer = make()
    trainer.run()
    trainer.export(tmp_path / "generator")
    generator = load_generator(tmp_path / "generator")
    assert torch.equal(generator.sample(64, 0), trainer.sample(64, 0))
    assert generator.info["dataset"] == trainer.dataset.info.digest
    assert (generator.info["step"], generator.info["images_seen"]) == (20, 320)


# -- what is computed ------------------------------------------------------------------------------------------------


def test_each_side_has_its_own_learning_rate_and_its_update_leaves_the_other_side_alone(make: Make) -> None:
    trainer = make(generator_lr=1e-3, discriminator_lr=2e-3, beta1=0.4, beta2=0.9)
    groups = {side: optimiser.param_groups[0] for side, optimiser in trainer.optimisers.items()}
    assert (groups["generator"]["lr"], groups["discriminator"]["lr"]) == (1e-3, 2e-3)
    assert all(group["betas"] == (0.4, 0.9) for group in groups.values())
    generator, discriminator = (trainer.family.networks[name] for name in ("generator", "discriminator"))
    batches = trainer._batches(0, last=True)
    before = weights({"g": generator}), weights({"d": discriminator})
    trainer._update("discriminator", batches)
    assert torch.equal(weights({"g": generator}), before[0])
    assert all(parameter.grad is None for parameter in generator.parameters())
    middle = weights({"d": discriminator})
    assert not torch.equal(middle, before[1])
    trainer._update("generator", batches)
    assert torch.equal(weights({"d": discriminator}), middle)
    assert not torch.equal(weights({"g": generator}), before[0])
    assert all(parameter.requires_grad for parameter in discriminator.parameters())


def test_the_first_step_is_adams_step_on_the_two_losses_written_out(make: Make) -> None:
    """The same step by hand: plain Adam, discriminator first, generator against the new discriminator."""
    trainer, reference = make(ToyConfig(), name="a"), make(ToyConfig(), name="b")
    family = reference.family
    batch = reference._batches(0, last=True)[0]
    for side, loss in (("discriminator", family.discriminator_loss), ("generator", family.generator_loss)):
        parameters = list(family.networks[side].parameters())
        gradients = torch.autograd.grad(loss(batch, 0).total, parameters, retain_graph=True)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                # Adam's first step with bias correction: lr * g / (|g| + eps)
                parameter -= 2e-4 * gradient / (gradient.abs() + 1e-8)
    trainer.run(until=1)
    torch.testing.assert_close(weights(trainer.family.networks), weights(family.networks), rtol=0, atol=2e-7)


def test_micro_batches_sum_up_to_the_gradient_of_the_whole_batch(make: Make) -> None:
    gradients = []
    for accumulate in (1, 4):
        trainer = make(ToyConfig(latents_from_data=True), name=str(accumulate), accumulate=accumulate)
        trainer.run(until=1)
        gradients.append([p.grad for net in trainer.family.networks.values() for p in net.parameters()])
    for whole, pieces in zip(*gradients, strict=True):
        torch.testing.assert_close(pieces, whole, rtol=1e-4, atol=1e-7)


def test_the_average_follows_the_live_generator_with_the_half_life_in_images(make: Make) -> None:
    trainer = make(ToyConfig(), ema_half_life_kimg=0.02, generator_lr=1e-2)
    expected = weights(trainer.averaged.networks)
    for step in range(1, 6):
        trainer.run(until=step)
        decay = ema_decay(16, 20.0, 16 * step)
        expected = decay * expected + (1 - decay) * weights({"generator": trainer.family.networks["generator"]})
    torch.testing.assert_close(weights(trainer.averaged.networks), expected, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(expected, weights({"generator": trainer.family.networks["generator"]}), atol=1e-4)


def test_bf16_computes_in_bf16_and_keeps_weights_in_fp32(make: Make) -> None:
    notes = Notes()
    trainer = make(observer=notes, precision="bf16", steps=4, log_every=1)
    trainer.run()
    assert all(p.dtype == torch.float32 for net in trainer.family.networks.values() for p in net.parameters())
    plain = Notes()
    make(observer=plain, name="plain", precision="fp32", steps=4, log_every=1).run()
    assert notes.rows[1]["loss/discriminator"] == pytest.approx(plain.rows[1]["loss/discriminator"], rel=0.02)
    assert notes.rows[1]["loss/discriminator"] != plain.rows[1]["loss/discriminator"]


def test_run_stops_where_it_is_told(make: Make) -> None:
    trainer = make()
    trainer.run(until=0)
    assert trainer.step == 0
    trainer.run(until=7)
    assert trainer.step == 7
    trainer.run(until=99)
    assert trainer.step == 20


def test_a_batch_that_does_not_divide_is_refused(make: Make) -> None:
    with pytest.raises(
        SettingsError, match=r"train\.batch: 16 does not divide over 3 workers times 2 .* multiple of 6"
    ):
        make(world=World(0, 3), accumulate=2)


def test_a_step_that_memory_is_too_small_for_says_what_helps(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make(batch=16, accumulate=2)

    def full(*arguments: Any) -> None:
        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23 GiB"
        )

    monkeypatch.setattr(trainer, "_play", full)
    message = (
        r"train.batch: step 1 of dcgan .* 16 images in 2 micro-batch.* Double train.accumulate, or halve train.batch"
    )
    with pytest.raises(SettingsError, match=message):
        trainer.run()


# -- resuming --------------------------------------------------------------------------------------------------------


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
    assert [optimiser.param_groups[0]["lr"] for optimiser in trainer.optimisers.values()] == [1e-4, 1e-4]
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
