"""Settings of a training run, whatever the family."""

from dataclasses import dataclass, field
from typing import Literal

from gan_core.augment import AugmentConfig
from gan_core.config import check, check_at_least, check_below_one


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long, how fast and how carefully to train."""

    steps: int = 1200
    """Updates of each network."""
    batch: int = 64
    """Real images in one step, over all workers and micro-batches."""
    discriminator_steps: int = 1
    """Updates of the discriminator, each on real images of its own, for one of the generator."""
    accumulate: int = 1
    """Micro-batches that one step's gradients are summed over; more of them take less memory."""
    generator_lr: float = 2e-4
    """Adam's learning rate for generators."""
    discriminator_lr: float = 2e-4
    """Adam's learning rate for discriminators."""
    beta1: float = 0.5
    """Adam's memory of the mean of gradients, in [0, 1)."""
    beta2: float = 0.999
    """Adam's memory of the mean of their squares, in [0, 1)."""
    ema_half_life_kimg: float = 10.0
    """Half-life of the averaged generator in thousand real images; ramps up from 5% of the images seen so far."""
    burn_in_kimg: float = 0.0
    """Thousand real images over which settings with a schedule move from their start to their end; 0 for none."""
    final_lr_share: float = 1.0
    """Learning rates end the burn-in at this share of theirs."""
    final_beta2: float | None = None
    """beta2 at the end of the burn-in; null: it stays."""
    decay_from: float = 1.0
    """Share of the run after which learning rates fall linearly to 0; 1: they do not."""
    mirror: bool = False
    """Whether real images are mirrored left to right with probability 0.5."""
    jitter: float = 0.0
    """Share of their size that real images are continued by, by reflection, before a part of that size is cut out at random."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 where the device has instructions for it, fp32 elsewhere. On a GPU, fp32 convolves in TF32, as torch does."""
    compile: bool = False
    """Whether networks run compiled (torch.compile, on a GPU with CUDA graphs); penalties on gradients do not. A resumed run is
    then equal up to rounding."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """What the discriminator's images go through."""
    seed: int = 0
    """Names the random numbers of the run: weights, latents, order of the images."""
    log_every: int = 20
    """Steps between two rows of metrics; health is checked at the same steps, and before each checkpoint."""
    sample_every: int = 200
    """Steps between two picture grids."""
    checkpoint_every: int = 200
    """Steps between two checkpoints; at most this much work is lost to a kill."""
    keep_checkpoints: int = 2
    """How many checkpoints stay on disk."""
    fid_every: int = 0
    """Steps between two FIDs of the averaged generator, measured beside training; 0: none."""
    fid_samples: int = 1000
    """Pictures in one of them (FID-n), against as many real ones, or all there are: of the train split, of translations of the
    test split where there is one."""
    keep_best: bool = False
    """Whether the generator that is exported is the one with the lowest of these FIDs; otherwise the last."""
    max_rollbacks: int = 3
    """How often a NaN or a collapse may be rolled back before the run gives up."""
    collapse_diversity: float = 0.05
    """A run has collapsed when its images differ from each other by less than this share of what real ones do."""
    collapse_patience: int = 5
    """At how many logged steps one after the other that makes a collapse."""

    def __post_init__(self) -> None:
        check_at_least(
            self,
            1,
            *("steps", "batch", "discriminator_steps", "accumulate"),
            *("log_every", "sample_every", "checkpoint_every", "keep_checkpoints", "collapse_patience"),
        )
        check_at_least(self, 0, "fid_every", "max_rollbacks", "burn_in_kimg", "seed")
        check_at_least(self, 2, "fid_samples")
        check(
            self.fid_every > 0 or not self.keep_best,
            "keep_best: the best is known by its FID, which fid_every: 0 never measures. Set fid_every to some steps.",
        )
        check(0 < self.final_lr_share <= 1, f"final_lr_share: must lie in (0, 1], got {self.final_lr_share}.")
        for name in ("generator_lr", "discriminator_lr", "ema_half_life_kimg"):
            check(getattr(self, name) > 0, f"{name}: must be above 0, got {getattr(self, name)}.")
        check_below_one(self, "beta1", "beta2", "final_beta2", "collapse_diversity")
        check(0 <= self.decay_from <= 1, f"decay_from: must lie in [0, 1], got {self.decay_from}.")
        check(0 <= self.jitter <= 1, f"jitter: must lie in [0, 1], got {self.jitter}.")
        check(
            self.batch % self.accumulate == 0, f"batch: {self.batch} does not divide by accumulate ({self.accumulate})."
        )
        check(self.batch // self.accumulate >= 2, "batch: a micro-batch needs at least 2 images for batch norm.")

    @property
    def learning_rates(self) -> dict[str, float]:
        """Those of each side: ``discriminator`` and ``generator``."""
        return {"discriminator": self.discriminator_lr, "generator": self.generator_lr}

    def check_workers(self, workers: int) -> None:
        """Raise SettingsError when a batch cannot be cut into equal pieces for so many workers."""
        pieces = workers * self.accumulate
        check(
            self.batch % pieces == 0,
            f"train.batch: {self.batch} does not divide over {workers} workers times {self.accumulate} micro-batches. "
            f"Make it a multiple of {pieces}.",
        )


# Settings that do not change what a step computes: a run may be resumed with others.
FREE_TO_CHANGE = frozenset(
    {
        *("steps", "log_every", "sample_every", "checkpoint_every", "keep_checkpoints", "max_rollbacks"),
        *("fid_every", "fid_samples", "keep_best"),
    }
)
