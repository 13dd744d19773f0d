"""Steps of several updates: lazy regularisation, several discriminator updates, schedules, buffers of a family."""

from pathlib import Path

import pytest
import torch

from gan_core.augment import AugmentConfig
from gan_core.checkpoint import list_checkpoints, load_checkpoint
from gan_core.data import PreparedDataset
from gan_core.errors import CheckpointError
from gan_core.families import FAMILIES, Batch, Losses, Phase
from gan_core.training.config import TrainConfig
from gan_core.training.trainer import Trainer
from tests.gan_core.training.toy import Toy, ToyConfig, weights


class Lazy(Toy):
    """The toy family with a penalty every second step, which counts its calls."""

    def __init__(self, config, shape) -> None:
        super().__init__(config, shape)
        self.buffers["asked"] = torch.zeros(())
        self.judged: list[tuple[int, torch.Tensor]] = []

    def phases(self) -> tuple[Phase, ...]:
        discriminator, generator = super().phases()
        return (discriminator, Phase(name="decay", side="discriminator", loss=self.decay, every=2), generator)

    def discriminator_loss(self, batch: Batch, step: int) -> Losses:
        self.judged.append((step, batch.real))
        return super().discriminator_loss(batch, step)

    def decay(self, batch: Batch, step: int) -> Losses:
        assert step % 2 == 0
        self.buffers["asked"] = self.buffers["asked"] + 1
        total = sum(parameter.square().sum() for parameter in self.networks["discriminator"].parameters())
        return Losses(total * 1e-3, {"penalty/decay": total.detach()})


@pytest.fixture(autouse=True)
def _lazy_family(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, "lazy", Lazy)


def make(data: PreparedDataset, place: Path, **settings) -> Trainer:
    values = {"steps": 12, "batch": 16, "log_every": 2, "sample_every": 50, "checkpoint_every": 4, "precision": "fp32"}
    return Trainer("lazy", ToyConfig(), data, TrainConfig(**{**values, **settings}), place, device="cpu")


def test_a_lazy_phase_runs_at_its_interval_and_adam_is_slowed_by_k_over_k_plus_1(
    blob_data: PreparedDataset, tmp_path: Path
) -> None:
    """Karras et al. 2020, appendix B: learning rate times c, betas to the power of c, c = k / (k + 1)."""
    trainer = make(blob_data, tmp_path, beta1=0.5, beta2=0.99, discriminator_lr=3e-4, generator_lr=2e-4)
    trainer.run(7)
    assert trainer.family.buffers["asked"] == 4
    lazy, plain = (trainer.optimisers[side] for side in ("discriminator", "generator"))
    assert lazy.lr == pytest.approx(2e-4)
    assert lazy.betas == pytest.approx((0.5 ** (2 / 3), 0.99 ** (2 / 3)))
    assert (plain.lr, plain.betas) == (2e-4, (0.5, 0.99))


def test_several_discriminator_updates_per_step_use_different_images(
    blob_data: PreparedDataset, tmp_path: Path
) -> None:
    trainer = make(blob_data, tmp_path, discriminator_steps=3)
    trainer.run(2)
    assert [step for step, _ in trainer.family.judged] == [0, 0, 0, 1, 1, 1]
    assert len({images.sum().item() for _, images in trainer.family.judged}) > 3
    assert trainer.images_seen == 2 * 3 * 16


class Sure(Toy):
    """The toy family with a discriminator that is always right about real images."""

    def discriminator_loss(self, batch: Batch, step: int) -> Losses:
        losses = super().discriminator_loss(batch, step)
        return Losses(losses.total, {**losses.scalars, "health/real_right": torch.ones(())})


@pytest.mark.parametrize("rounds", [1, 3, 4])
def test_an_overconfident_discriminator_raises_adas_strength_every_four_updates(
    blob_data: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rounds: int
) -> None:
    """By the images of four updates over ``speed_kimg``, for any number of updates per step (Karras et al. 2020, ADA)."""
    monkeypatch.setitem(FAMILIES, "lazy", Sure)
    augment = AugmentConfig(kind="ada", speed_kimg=10)
    trainer = make(blob_data, tmp_path, discriminator_steps=rounds, augment=augment)
    start = trainer.augmenter.strength.item()
    trainer.run(12)
    moves = 12 * rounds // 4
    assert trainer.augmenter.strength.item() == pytest.approx(min(start + moves * 4 * 16 / 10_000, 1))


class Joined(Lazy):
    """The toy family with the penalty in the discriminator's update, as a separate loss or summed with the other loss."""

    apart = True

    def phases(self) -> tuple[Phase, ...]:
        discriminator, generator = Toy.phases(self)
        if self.apart:
            return (
                discriminator,
                Phase(name="decay", side="discriminator", loss=self.decay, accumulates=True),
                generator,
            )
        return (Phase(name="discriminator", side="discriminator", loss=self.both), generator)

    def decay(self, batch: Batch, step: int) -> Losses:
        total = sum(parameter.square().sum() for parameter in self.networks["discriminator"].parameters())
        return Losses(total * 1e-3, {"penalty/decay": total.detach()})

    def both(self, batch: Batch, step: int) -> Losses:
        first, second = self.discriminator_loss(batch, step), self.decay(batch, step)
        return Losses(first.total + second.total, {**first.scalars, **second.scalars})


@pytest.mark.parametrize("accumulate", [1, 4])
def test_a_phase_that_joins_an_update_adds_its_gradients_to_it(
    blob_data: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accumulate: int
) -> None:
    monkeypatch.setitem(FAMILIES, "lazy", Joined)
    results = {}
    for apart in (True, False):
        monkeypatch.setattr(Joined, "apart", apart)
        trainer = make(blob_data, tmp_path / str(apart), accumulate=accumulate)
        trainer.run(5)
        assert trainer.optimisers["discriminator"].moments()["0.step"] == 5
        assert trainer.optimisers["discriminator"].lr == trainer.config.discriminator_lr
        results[apart] = weights(trainer.family.networks)
    torch.testing.assert_close(results[True], results[False], rtol=1e-5, atol=1e-6)


def test_schedules_change_over_the_burn_in_and_then_stay_constant(blob_data: PreparedDataset, tmp_path: Path) -> None:
    """Half a cosine over 0.064 kimg, which is 4 steps of 16 images."""
    burn_in = {"burn_in_kimg": 0.064, "final_lr_share": 0.5, "beta2": 0.9, "final_beta2": 0.99}
    trainer = make(blob_data, tmp_path, generator_lr=1e-3, **burn_in)
    seen = {}
    for step in range(1, 7):
        trainer.run(step)
        optimiser = trainer.optimisers["generator"]
        seen[step - 1] = (optimiser.lr, optimiser.betas[1])
    assert seen[0] == pytest.approx((1e-3, 0.9))
    assert seen[2] == pytest.approx((0.75e-3, 0.945))
    assert seen[4] == seen[5] == pytest.approx((0.5e-3, 0.99))


def test_learning_rates_decay_to_zero_over_the_rest_of_the_run(blob_data: PreparedDataset, tmp_path: Path) -> None:
    trainer = make(blob_data, tmp_path, steps=8, generator_lr=1e-3, decay_from=0.5)
    rates = []
    for step in range(1, 9):
        trainer.run(step)
        rates.append(trainer.optimisers["generator"].lr)
    assert rates == pytest.approx([1e-3] * 5 + [0.75e-3, 0.5e-3, 0.25e-3])


def test_a_run_with_decaying_learning_rates_cannot_be_resumed_with_a_different_length(
    blob_data: PreparedDataset, tmp_path: Path
) -> None:
    make(blob_data, tmp_path, steps=8, decay_from=0.5).run(4)
    with pytest.raises(CheckpointError, match=r"train\.steps: 8 in the checkpoint, 16 in this run"):
        make(blob_data, tmp_path, steps=16, decay_from=0.5)


@pytest.mark.parametrize(
    "augment", [AugmentConfig(kind="diffaugment"), AugmentConfig(kind="ada", speed_kimg=1)], ids=["diffaugment", "ada"]
)
def test_a_resumed_run_with_all_kinds_of_phases_ends_with_the_same_bytes(
    blob_data: PreparedDataset, tmp_path: Path, augment: AugmentConfig
) -> None:
    settings = {
        "discriminator_steps": 2,
        "burn_in_kimg": 0.2,
        "final_lr_share": 0.3,
        "augment": augment,
    }
    whole = make(blob_data, tmp_path / "whole", **settings)
    whole.run()
    make(blob_data, tmp_path / "parts", **settings).run(8)
    parts = make(blob_data, tmp_path / "parts", **settings)
    assert parts.step == 8
    parts.run()
    assert torch.equal(weights(parts.family.networks), weights(whole.family.networks))
    saved = [load_checkpoint(list_checkpoints(tmp_path / name)[-1]).tensors for name in ("whole", "parts")]
    assert saved[0].keys() == saved[1].keys() > {"memory.asked"}
    assert all(torch.equal(saved[0][name], saved[1][name]) for name in saved[0])


def test_compiled_networks_have_the_gradients_of_plain_ones(blob_data: PreparedDataset, tmp_path: Path) -> None:
    """With a compiler backend that only traces: gradients are those of the traced graph."""
    plain, compiled = make(blob_data, tmp_path / "a"), make(blob_data, tmp_path / "b")
    compiled.family.compile(backend="aot_eager", dynamic=False)
    for trainer in (plain, compiled):
        trainer.run(3)
    torch.testing.assert_close(weights(plain.family.networks), weights(compiled.family.networks))
