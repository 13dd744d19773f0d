"""A recipe for each family: the settings that its paper trains with, and what is worth searching, as data.

``preset: auto`` starts from the recipe of the family (:mod:`gan_core.presets.choose`); ``tune.space: auto`` searches its space.
No network reads a recipe: to change one retrains nothing that was trained with its settings written out.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gan_core.families import ImageShape

Settings = Mapping[str, Any]
Space = Mapping[str, Mapping[str, Any]]
"""Ranges by dotted name, in the form of params.yaml."""
Reasoned = tuple[str, Any, str]
"""A setting of the family, its value, and the reason for it."""


def _nothing_depends(shape: ImageShape, batch: int, steps: int, model: Settings) -> list[Reasoned]:
    return []


def _same_for_all(space: Space, config: Any) -> Space:
    return space


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings for one family; those of ``model`` are the family's own, those of ``train`` the training run's."""

    model: Mapping[int, Settings] = field(default_factory=dict)
    """The networks, by resolution in pixels."""
    train: Settings = field(default_factory=dict)
    """What the family's paper trains with."""
    train_by_resolution: Mapping[int, Settings] = field(default_factory=dict)
    """What of it differs by resolution, for the networks of :attr:`model` as they are: on a GPU."""
    model_on_cpu: Settings = field(default_factory=dict)
    """Networks for a CPU, small enough to be worth waiting for."""
    train_on_cpu: Settings = field(default_factory=dict)
    """What such networks need otherwise of the training run."""
    depends: Callable[[ImageShape, int, int, Settings], list[Reasoned]] = _nothing_depends
    """Settings of the family that depend on the shape, the batch, the number of steps, and its other settings."""
    augmentation: str = "diffaugment"
    """Which augmentation suits it where pictures are few."""
    kimg: int = 2000
    """Thousand real images after which it is usually worth looking at."""
    search: Space = field(default_factory=dict)
    """What ``tune.space: auto`` searches."""
    search_with: Callable[[Space, Any], Space] = _same_for_all
    """:attr:`search` without what makes no difference with the family's typed settings, and with what does."""

    def space(self, config: Any) -> Space:
        """What ``tune.space: auto`` searches with these settings of the family."""
        return self.search_with(self.search, config)


def nearest_resolution(shape: ImageShape, resolutions: Iterable[int]) -> int:
    """The one of ``resolutions`` that is nearest to the longer side, in octaves; 0 when there is none."""
    side = max(shape.height, shape.width)
    return min(resolutions, key=lambda size: abs(size.bit_length() - side.bit_length()), default=0)


def _rates(low: float, high: float) -> Space:
    """Ranges of both learning rates."""
    names = ("train.generator_lr", "train.discriminator_lr")
    return {name: {"type": "log", "low": low, "high": high} for name in names}


def _slope(high: float = 0.4) -> Space:
    """The range of the leak slope of leaky ReLUs."""
    return {"model.slope": {"type": "uniform", "low": 0.0, "high": high}}


# -- DCGAN and cGAN ------------------------------------------------------------------------------------------------------

# 64 is the paper's figure 1; the others keep its 1024 maps at the coarsest resolution, or less where that would be slower than
# such small pictures deserve.
DCGAN = Recipe(
    model={32: {"width": 128}, 64: {"width": 128}, 128: {"width": 64}, 256: {"width": 32}},
    model_on_cpu={"width": 48},
    kimg=200,
    search={**_rates(5e-5, 1e-3), **_slope()},
)
CGAN = DCGAN

# -- BigGAN --------------------------------------------------------------------------------------------------------------

# 128 and 256: tables 4 and 5 of the paper's appendix B, with the chunks of 20 coordinates and the class embedding of 128
# that it gives, and the orthogonal regularisation that makes truncation work (section 3.1). 32: its CIFAR-10 network
# (appendix C). The paper has none for 64: its rules, at the width of 32.
_DEEP = {"shared_embedding": 128, "hierarchical": True, "orthogonal": 1e-4}
BIGGAN = Recipe(
    model={
        32: {"latent": 128, "width": 64},
        64: {"latent": 100, "width": 64, "attention": 32, **_DEEP},
        128: {"latent": 120, "width": 96, "attention": 64, **_DEEP},
        256: {"latent": 140, "width": 96, "attention": 64, **_DEEP},
    },
    train={"generator_lr": 2e-4, "discriminator_lr": 2e-4, "beta1": 0.0, "beta2": 0.999, "discriminator_steps": 4},
    # The above is CIFAR-10's; this is ImageNet's (appendix C).
    train_by_resolution={
        size: {"generator_lr": 5e-5, "discriminator_lr": 2e-4, "discriminator_steps": 2} for size in (64, 128, 256)
    },
    model_on_cpu={"width": 24},
    search={**_rates(5e-5, 1e-3), **_slope()},
)

# -- StyleGAN2 -----------------------------------------------------------------------------------------------------------

# At 32 pixels they are ADA's for CIFAR-10 (appendix C), without path lengths and mixing; ADA's discriminator there has no skips
# and takes deviations over 32 images, ours differs in both. The others are its automatic ones: a mapping of 2 layers, half the
# paper's width, and gamma = 0.0002 * pixels / batch, here for a batch of 32; for another batch _stylegan2_r1 computes it.
_STYLEGAN2: dict[int, dict[str, Any]] = {
    32: {"mapping_layers": 2, "r1": 0.01, "mixing": 0.0, "path_length": 0.0},
    64: {"mapping_layers": 2, "r1": 0.0256},
    128: {"mapping_layers": 2, "r1": 0.1024},
    256: {"mapping_layers": 2, "r1": 0.4096},
}
_CIFAR10_BATCH = 64
"""That of ADA's CIFAR-10 configuration."""


def _stylegan2_r1(shape: ImageShape, batch: int, steps: int, model: Settings) -> list[Reasoned]:
    """gamma for the batch."""
    if max(shape.height, shape.width) <= 32:
        gamma = _STYLEGAN2[32]["r1"] * _CIFAR10_BATCH / batch
        reason = f"ADA's for CIFAR-10 is for a batch of {_CIFAR10_BATCH}"
    else:
        gamma = 0.0002 * shape.height * shape.width / batch
        reason = "0.0002 * pixels / batch (Karras et al. 2020, ADA)"
    return [("r1", float(f"{gamma:.3g}"), reason)]


STYLEGAN2 = Recipe(
    model=_STYLEGAN2,
    train={"generator_lr": 2.5e-3, "discriminator_lr": 2.5e-3, "beta1": 0.0, "beta2": 0.99},
    model_on_cpu={"channel_base": 2048, "channel_max": 64, "latent": 128, "style": 128},
    depends=_stylegan2_r1,
    augmentation="ada",
    # Weights that are scaled in use (equalised rates) want ten times what others do.
    search={**_rates(1e-4, 1e-2), **_slope()},
)

# -- R3GAN ---------------------------------------------------------------------------------------------------------------

# Widths and gammas of the paper's tables of hyperparameters: CIFAR-10 for 32 pixels, FFHQ for 64 and 256. It has none for
# 128; there, gamma is the geometric mean of its neighbours'.
_R3GAN: dict[int, dict[str, Any]] = {
    32: {"width": 768, "width_max": 768, "gamma": 0.05, "final_gamma": 0.005},
    64: {"width": 384, "width_max": 768, "gamma": 2.0, "final_gamma": 0.2},
    128: {"width": 192, "width_max": 768, "gamma": 17.0, "final_gamma": 1.7},
    256: {"width": 96, "width_max": 768, "gamma": 150.0, "final_gamma": 15.0},
}


def _r3gan_gamma(shape: ImageShape, batch: int, steps: int, model: Settings) -> list[Reasoned]:
    """gamma for the batch: a smaller one than the paper's makes noisier gradients."""
    resolution = nearest_resolution(shape, _R3GAN)
    theirs = 512 if resolution == 32 else 256
    if batch == theirs:
        return []
    reason = f"the preset's is for the paper's batch of {theirs}, and is taken by the inverse of the batch"
    return [(name, _R3GAN[resolution][name] * theirs / batch, reason) for name in ("gamma", "final_gamma")]


R3GAN = Recipe(
    model=_R3GAN,
    train={
        "generator_lr": 2e-4,
        "discriminator_lr": 2e-4,
        "final_lr_share": 0.25,
        "beta1": 0.0,
        "beta2": 0.9,
        "final_beta2": 0.99,
    },
    # Of the paper's tables again, for 128 its neighbours': how far the strength of the augmentation rises along its cosine, and
    # the average's half-life.
    train_by_resolution={
        32: {"augment": {"kind": "ada", "strength": 0.55}, "ema_half_life_kimg": 5000.0},
        64: {"augment": {"kind": "ada", "strength": 0.3}, "ema_half_life_kimg": 500.0},
        128: {"augment": {"kind": "ada", "strength": 0.3}, "ema_half_life_kimg": 500.0},
        256: {"augment": {"kind": "ada", "strength": 0.3}, "ema_half_life_kimg": 500.0},
    },
    model_on_cpu={"width": 32, "width_max": 64, "blocks": 1},
    # A narrow layer has larger weights and takes larger steps; at the paper's rates this generator never catches up.
    train_on_cpu={"generator_lr": 2e-3, "discriminator_lr": 2e-3},
    depends=_r3gan_gamma,
    augmentation="ada",
    search={**_rates(5e-5, 1e-2), **_slope()},
)

# -- Pix2Pix -------------------------------------------------------------------------------------------------------------

# 256 is the paper's; smaller pictures get its rule: halved to one pixel, and patches of about half a side.
PIX2PIX = Recipe(
    model={
        32: {"patch_halvings": 1},
        64: {"patch_halvings": 2},
        128: {"patch_halvings": 3},
        256: {"patch_halvings": 3},
    },
    train={
        "generator_lr": 2e-4,
        "discriminator_lr": 2e-4,
        "beta1": 0.5,
        "beta2": 0.999,
        "batch": 4,
        "mirror": True,
        "jitter": 30 / 256,
    },
    model_on_cpu={"width": 32, "patch_width": 32},
    augmentation="none",
    kimg=60,
    search={**_rates(5e-5, 1e-3), **_slope(), "model.l1": {"type": "log", "low": 10.0, "high": 300.0}},
)

# -- CycleGAN ------------------------------------------------------------------------------------------------------------


def _cut(shape: ImageShape, batch: int, steps: int, model: Settings) -> list[Reasoned]:
    """What CUT does otherwise, where its objective was given."""
    if model.get("objective") != "contrastive":
        return []
    return [("identity", 1.0, "CUT's weight of identity"), ("pool", 0, "CUT keeps no generated pictures")]


def _cyclegan_search(space: Space, config: Any) -> Space:
    """With CUT's objective, its weight in place of the cycle's."""
    if config.objective == "cycle":
        return space
    weight = {"model.contrast": {"type": "log", "low": 0.3, "high": 3.0}}
    return {**{name: limits for name, limits in space.items() if name != "model.cycle"}, **weight}


# 256 and 128 are the paper's; smaller pictures get patches of about half a side.
CYCLEGAN = Recipe(
    model={32: {"patch_halvings": 1}, 64: {"patch_halvings": 2}, 128: {"blocks": 6}, 256: {"blocks": 9}},
    train={
        "generator_lr": 2e-4,
        "discriminator_lr": 2e-4,
        "beta1": 0.5,
        "beta2": 0.999,
        "batch": 4,
        "mirror": True,
        "jitter": 30 / 256,
        "decay_from": 0.5,
    },
    model_on_cpu={"width": 24, "patch_width": 32},
    depends=_cut,
    augmentation="none",
    kimg=200,
    search={
        **_rates(5e-5, 1e-3),
        **_slope(),
        "model.cycle": {"type": "log", "low": 2.0, "high": 30.0},
        "model.identity": {"type": "uniform", "low": 0.0, "high": 1.0},
    },
    search_with=_cyclegan_search,
)

# -- StarGAN -------------------------------------------------------------------------------------------------------------

# The paper has but one, for 128 pixels; the discriminator ends at a map of 2x2, up to that size, and has as many layers as
# that takes.
STARGAN = Recipe(
    model={32: {"blocks": 4}, 64: {"blocks": 6}, 128: {"blocks": 6}, 256: {"blocks": 6}},
    train={
        "generator_lr": 1e-4,
        "discriminator_lr": 1e-4,
        "beta1": 0.5,
        "beta2": 0.999,
        "batch": 16,
        "discriminator_steps": 5,
        "mirror": True,
        "decay_from": 0.5,
    },
    model_on_cpu={"width": 24, "critic_width": 24, "blocks": 4},
    augmentation="none",
    kimg=400,
    search={
        **_rates(2e-5, 5e-4),
        **_slope(0.3),
        "model.classification": {"type": "log", "low": 0.3, "high": 5.0},
        "model.reconstruction": {"type": "log", "low": 3.0, "high": 30.0},
    },
)

# -- StarGAN v2 ----------------------------------------------------------------------------------------------------------


def _stargan2_diversity(shape: ImageShape, batch: int, steps: int, model: Settings) -> list[Reasoned]:
    return [("diversity_steps", steps, "the weight of diversity falls to nothing over the whole run, as in the paper")]


# 256 and 128 are the paper's rule, 2^14 / pixels; below, width is worth less than its time.
STARGAN2 = Recipe(
    model={32: {"width": 64, "width_max": 256}, 64: {"width": 64}, 128: {"width": 128}, 256: {"width": 64}},
    train={
        "generator_lr": 1e-4,
        "discriminator_lr": 1e-4,
        "beta1": 0.0,
        "beta2": 0.99,
        "batch": 8,
        "mirror": True,
    },
    model_on_cpu={"width": 16, "width_max": 64, "hidden": 128},
    depends=_stargan2_diversity,
    augmentation="none",
    kimg=800,
    search={
        **_rates(2e-5, 5e-4),
        **_slope(),
        "model.diversity": {"type": "log", "low": 0.3, "high": 3.0},
        "model.cycle": {"type": "log", "low": 0.3, "high": 3.0},
    },
)

RECIPES: dict[str, Recipe] = {
    "biggan": BIGGAN,
    "cgan": CGAN,
    "cyclegan": CYCLEGAN,
    "dcgan": DCGAN,
    "pix2pix": PIX2PIX,
    "r3gan": R3GAN,
    "stargan": STARGAN,
    "stargan2": STARGAN2,
    "stylegan2": STYLEGAN2,
}
"""By the name that each family states (:attr:`gan_core.families.Family.name`)."""
