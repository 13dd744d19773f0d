"""Settings of a training run that all families share."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from gan_core.augment import AugmentConfig
from gan_core.config import check, check_at_least, check_below_one

_LONGEST_MINUTES = 1_000_000
"""About two years."""
GIB = 1 << 30


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of a training run."""

    steps: int = 1200
    """Number of training steps; each updates the generator once. ``minutes`` may be given in its place."""
    minutes: float | None = None
    """Time budget in minutes, in place of ``steps``: the number of steps is measured before the first step, on this device with
    these networks and data, and then fixed. It covers steps, checkpoints, grids and FIDs during training. null: ``steps``."""
    batch: int = 64
    """Real images per discriminator update, summed over all workers and micro-batches."""
    discriminator_steps: int = 1
    """Updates of the discriminator per step, each on its own batch of real images."""
    accumulate: int = 1
    """Number of micro-batches whose gradients are accumulated in each update; more micro-batches need less memory."""
    generator_lr: float = 2e-4
    """Adam's learning rate for generators."""
    discriminator_lr: float = 2e-4
    """Adam's learning rate for discriminators."""
    beta1: float = 0.5
    """Adam's decay rate of the mean of gradients, in [0, 1)."""
    beta2: float = 0.999
    """Adam's decay rate of the mean of squared gradients, in [0, 1)."""
    ema_half_life_kimg: float = 10.0
    """Half-life of the averaged generator in thousand real images, limited to 5 % of the images seen so far."""
    burn_in_kimg: float = 0.0
    """Thousand real images over which settings with a schedule change from their first to their final value; 0: at once."""
    final_lr_share: float = 1.0
    """Learning rates at the end of the burn-in, as a share of generator_lr and discriminator_lr, in (0, 1]."""
    final_beta2: float | None = None
    """beta2 at the end of the burn-in; null: unchanged."""
    warm_up_kimg: float = 0.0
    """Thousand real images over which learning rates rise linearly from 0; 0: no warm-up."""
    decay_from: float = 1.0
    """Share of the run after which learning rates decay linearly to 0; 1: no decay."""
    mirror: bool = False
    """Whether to mirror real images left to right with probability 0.5."""
    jitter: float = 0.0
    """Random shift: pad real images by this share of their size, by reflection, and crop them to their size at random."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 if the device has instructions for it, otherwise fp32. On a GPU, fp32 convolutions use TF32, as in torch."""
    compile: bool | Literal["step"] = False
    """Whether to compile networks, and penalties with their gradients (torch.compile; on a GPU with CUDA graphs); step: and to
    run each step as one CUDA graph, on a single GPU. A resumed run is then equal only up to rounding."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Augmentation of the discriminator's input."""
    start_from: str | None = None
    """Run to start from, in place of random weights: NAME@champion, NAME@ALIAS, NAME/VERSION or NAME of a registered model, the
    id of an MLflow run, or a folder. gan_core.train takes folders only. null: start from random weights."""
    start_optimisers: bool = False
    """Whether to take the moments of the optimisers from that run as well. It must have kept them (save_start: full)."""
    freeze_discriminator: int = 0
    """Layers of the discriminator, counted from the picture, that keep the weights of that run (FreezeD, Mo et al. 2020)."""
    save_start: Literal["full", "weights", "none"] = "weights"
    """What to keep of this run for later runs that start from it. weights: networks, averages and strength of the augmentation;
    full: the moments of the optimisers as well, which take about twice as much; none: no later run can start from it."""
    seed: int = 0
    """Seed of the run's random numbers: weights, latents, order of the images."""
    feed: Literal["auto", "decoded", "stream"] = "auto"
    """decoded: decode all real images once, onto the disk. stream: read the prepared shards in a random order and shuffle
    images within a window, for data larger than a host. auto: decoded, unless that takes more than decoded_gib."""
    decoded_gib: float = 100.0
    """Largest size of the decoded images of the train split that feed: auto decodes onto the disk, in GiB."""
    stream_gib: float = 4.0
    """Largest size of the images that a streaming worker keeps in memory, encoded, in GiB. A window is a third of it, and has
    about 65,000 images at most."""
    log_every: int = 20
    """Steps between two rows of metrics. Health is checked at the same steps, and before each checkpoint."""
    sample_every: int = 200
    """Steps between two grids of sample pictures."""
    checkpoint_every: int = 200
    """Steps between two checkpoints: the most work that a killed run loses."""
    keep_checkpoints: int = 2
    """Number of checkpoints to keep on disk."""
    fid_every: int = 0
    """Steps between two FIDs of the averaged generator, measured during training; 0: none."""
    fid_samples: int = 1000
    """Number of generated pictures for each of these FIDs, compared with the same number of real ones (or all, if there are
    fewer) from the train split; for translations from the test split, if there is one."""
    keep_best: bool = False
    """Whether to export the generator with the lowest of these FIDs instead of the last one."""
    max_rollbacks: int = 3
    """Maximum number of rollbacks after a NaN or a collapse; after these, the run fails."""
    collapse_diversity: float = 0.05
    """Threshold of mode collapse: diversity of generated images as a share of that of real images, in [0, 1)."""
    collapse_patience: int = 5
    """Number of consecutive logged steps with a diversity below collapse_diversity that count as a collapse."""

    def __post_init__(self) -> None:
        check_at_least(
            self,
            1,
            *("steps", "batch", "discriminator_steps", "accumulate"),
            *("log_every", "sample_every", "checkpoint_every", "keep_checkpoints", "collapse_patience"),
        )
        check_at_least(
            self, 0, "fid_every", "max_rollbacks", "burn_in_kimg", "warm_up_kimg", "freeze_discriminator", "seed"
        )
        for name in ("start_optimisers", "freeze_discriminator"):
            check(
                self.start_from is not None or not getattr(self, name),
                f"{name}: needs a run to start from. Set start_from, or leave {name} out.",
            )
        check(
            self.start_from is None or bool(self.start_from.strip()),
            "start_from: is empty. Name a run, or set it to null.",
        )
        check(
            self.minutes is None or 0 < self.minutes <= _LONGEST_MINUTES,
            f"minutes: must be above 0 and at most {_LONGEST_MINUTES:,}, got {self.minutes}.",
        )
        check_at_least(self, 2, "fid_samples")
        check(
            self.fid_every > 0 or not self.keep_best,
            "keep_best: needs FIDs, but fid_every: 0 never measures one. Set fid_every to a number of steps.",
        )
        check(0 < self.final_lr_share <= 1, f"final_lr_share: must lie in (0, 1], got {self.final_lr_share}.")
        for name in ("generator_lr", "discriminator_lr", "ema_half_life_kimg", "decoded_gib", "stream_gib"):
            check(getattr(self, name) > 0, f"{name}: must be above 0, got {getattr(self, name)}.")
        check_below_one(self, "beta1", "beta2", "final_beta2", "collapse_diversity")
        check(0 <= self.decay_from <= 1, f"decay_from: must lie in [0, 1], got {self.decay_from}.")
        check(0 <= self.jitter <= 1, f"jitter: must lie in [0, 1], got {self.jitter}.")
        check(
            self.batch % self.accumulate == 0,
            f"batch: {self.batch} is not divisible by accumulate ({self.accumulate}). Make it a multiple of {self.accumulate}.",
        )
        check(
            self.batch // self.accumulate >= 2,
            f"batch: each micro-batch needs at least 2 images for batch norm. Set batch to {2 * self.accumulate} or more.",
        )

    @property
    def known_steps(self) -> int | None:
        """:attr:`steps`; None while :attr:`minutes` have not been turned into a number of steps."""
        return self.steps if self.minutes is None else None

    @property
    def learning_rates(self) -> dict[str, float]:
        """Learning rates of ``discriminator`` and ``generator``."""
        return {"discriminator": self.discriminator_lr, "generator": self.generator_lr}

    def check_workers(self, workers: int) -> None:
        """Raise SettingsError if a batch cannot be split evenly over this number of workers."""
        pieces = workers * self.accumulate
        check(
            self.batch % pieces == 0,
            f"train.batch: {self.batch} cannot be split evenly over {workers} workers times {self.accumulate} micro-batches. "
            f"Make it a multiple of {pieces}.",
        )


# Settings that do not affect the result of a step, so that they may change when a run is resumed.
CHANGEABLE_ON_RESUME = frozenset(
    {
        *("steps", "minutes", "log_every", "sample_every", "checkpoint_every", "keep_checkpoints", "max_rollbacks"),
        *("fid_every", "fid_samples", "keep_best", "save_start"),
    }
)
FEED_SETTINGS = frozenset({"feed", "decoded_gib", "stream_gib"})
"""Settings that affect the result only through the feed that they choose."""


def check_one_length(train: Mapping[str, Any]) -> None:
    """Raise SettingsError if ``train``, as the user wrote it, has both ``steps`` and ``minutes``."""
    check(
        train.get("minutes") is None or train.get("steps") is None,
        f"train.steps and train.minutes: both are given ({train.get('steps')} and {train.get('minutes')}), and each decides "
        "how long to train. Remove one of them.",
    )
