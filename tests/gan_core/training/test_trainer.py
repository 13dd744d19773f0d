"""The training loop: its computations, its reports and its errors."""

from pathlib import Path
from typing import Any

import pytest
import torch

from gan_core.errors import SettingsError
from gan_core.inference.generator import load_generator
from gan_core.training.ema import ema_decay
from gan_core.training.world import World
from tests.gan_core.training.runs import Make, Notes, steps
from tests.gan_core.training.toy import ToyConfig, weights

# -- reports ---------------------------------------------------------------------------------------------------------


def test_metrics_grids_and_checkpoints_are_written_at_their_steps(make: Make, tmp_path: Path) -> None:
    notes = Notes()
    make(observer=notes, steps=23, log_every=5, sample_every=8, checkpoint_every=10).run()
    assert sorted(notes.rows) == [5, 10, 15, 20, 23]
    assert sorted(notes.grids) == [0, 8, 16, 23], "the first before training"
    assert notes.checkpoints == [0, 10, 20, 23]
    assert steps(tmp_path / "run") == [20, 23]  # keep_checkpoints is 2


def test_a_row_of_metrics_has_losses_health_rate_and_progress(make: Make) -> None:
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


def test_every_grid_uses_the_same_64_latents(make: Make) -> None:
    notes = Notes()
    trainer = make(observer=notes)
    trainer.run()
    assert notes.grids[20].shape == (64, 1, 16, 16)
    assert notes.grids[20].dtype == torch.uint8
    assert torch.equal(notes.grids[20], trainer.generator.sample(64, 0).cpu())


def test_the_export_is_the_averaged_generator_with_its_lineage(make: Make, tmp_path: Path) -> None:
    trainer = make()
    trainer.run()
    trainer.export(tmp_path / "generator")
    generator = load_generator(tmp_path / "generator")
    assert torch.equal(generator.sample(64, 0), trainer.generator.sample(64, 0))
    assert generator.info["dataset"] == trainer.dataset.info.digest
    assert (generator.info["step"], generator.info["images_seen"]) == (20, 320)


# -- computations ----------------------------------------------------------------------------------------------------


def test_each_side_has_its_own_learning_rate_and_updates_only_its_own_networks(make: Make) -> None:
    trainer = make(generator_lr=1e-3, discriminator_lr=2e-3, beta1=0.4, beta2=0.9)
    assert {side: optimiser.lr for side, optimiser in trainer.optimisers.items()} == {
        "generator": 1e-3,
        "discriminator": 2e-3,
    }
    assert all(optimiser.betas == (0.4, 0.9) for optimiser in trainer.optimisers.values())
    generator, discriminator = (trainer.family.networks[name] for name in ("generator", "discriminator"))
    batches = trainer._batches(0, last=True)
    before = weights({"g": generator}), weights({"d": discriminator})
    trainer._update("discriminator", batches, 0)
    assert torch.equal(weights({"g": generator}), before[0])
    assert all(parameter.grad is None for parameter in generator.parameters())
    middle = weights({"d": discriminator})
    assert not torch.equal(middle, before[1])
    trainer._update("generator", batches, 0)
    assert torch.equal(weights({"d": discriminator}), middle)
    assert not torch.equal(weights({"g": generator}), before[0])
    assert all(parameter.requires_grad for parameter in discriminator.parameters())


def test_the_first_step_equals_adam_computed_by_hand(make: Make) -> None:
    """Plain Adam by hand: first the discriminator, then the generator against the updated discriminator."""
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


@pytest.mark.parametrize("compiled", [False, True])
def test_cudnn_is_deterministic_unless_networks_are_compiled(
    make: Make, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Choosing kernels by benchmark would let a resumed run end with different bytes."""
    monkeypatch.setattr(torch, "compile", lambda network, **options: network)
    cudnn, seen = torch.backends.cudnn, []

    class Looks(Notes):
        def metrics(self, values: dict[str, float], step: int) -> None:
            seen.append((cudnn.deterministic, cudnn.benchmark))

    before = (cudnn.deterministic, cudnn.benchmark)
    make(ToyConfig(), steps=5, log_every=5, compile=compiled, observer=Looks()).run()
    assert seen == [(not compiled, compiled)]
    assert (cudnn.deterministic, cudnn.benchmark) == before


def test_run_stops_at_until(make: Make) -> None:
    trainer = make()
    trainer.run(until=0)
    assert trainer.step == 0
    trainer.run(until=7)
    assert trainer.step == 7
    trainer.run(until=99)
    assert trainer.step == 20


def test_a_batch_that_cannot_be_split_evenly_is_refused(make: Make) -> None:
    with pytest.raises(
        SettingsError, match=r"train\.batch: 16 cannot be split evenly over 3 workers times 2 .* multiple of 6"
    ):
        make(world=World(0, 3), accumulate=2)


def test_an_out_of_memory_error_names_the_settings_to_change(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make(batch=16, accumulate=2)

    def full(*arguments: Any) -> None:
        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23 GiB"
        )

    monkeypatch.setattr(trainer, "_train_step", full)
    message = (
        r"train.batch: step 1 of dcgan .* 16 images in 2 micro-batch.* Double train.accumulate, or halve train.batch"
    )
    with pytest.raises(SettingsError, match=message):
        trainer.run()
