"""A recipe for each family, as data: the settings of its paper, and the space of a hyperparameter search.

``preset: auto`` starts from the family's recipe (:mod:`gan_core.presets.choose`); ``tune.space: auto`` searches its space.
A changed recipe does not affect runs whose settings are written out in params.yaml.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gan_core.families import ImageShape

Settings = Mapping[str, Any]
Space = Mapping[str, Mapping[str, Any]]
"""Search ranges by dotted name of the setting, as in params.yaml."""
DerivedSetting = tuple[str, Any, str]
"""Name of a setting of the family, its value, and the reason for it."""


def _derive_nothing(shape: ImageShape, batch: int, model: Settings) -> list[DerivedSetting]:
    return []


def _follow_nothing(steps: int) -> list[DerivedSetting]:
    return []


def _unchanged(space: Space, config: Any) -> Space:
    return space


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings for a family. ``model`` fields hold settings of the family, ``train`` fields those of the training run."""

    model: Mapping[int, Settings] = field(default_factory=dict)
    """Networks, by resolution in pixels."""
    train: Settings = field(default_factory=dict)
    """Training settings of the family's paper."""
    train_by_resolution: Mapping[int, Settings] = field(default_factory=dict)
    """Training settings that differ by resolution in pixels. Used on a GPU only, where the networks have their full size."""
    model_on_cpu: Settings = field(default_factory=dict)
    """Networks for a CPU, small enough to train in reasonable time."""
    train_on_cpu: Settings = field(default_factory=dict)
    """Training settings for the networks of :attr:`model_on_cpu`."""
    derive: Callable[[ImageShape, int, Settings], list[DerivedSetting]] = _derive_nothing
    """Derives settings of the family from the shape, the batch, and its other settings."""
    follow_length: Callable[[int], list[DerivedSetting]] = _follow_nothing
    """Derives settings of the family from the number of steps."""
    augmentation: str = "diffaugment"
    """Kind of augmentation for small datasets."""
    kimg: int = 2000
    """Thousands of real images after which results are usually worth a look."""
    search: Space = field(default_factory=dict)
    """Search ranges of ``tune.space: auto``."""
    adapt_search: Callable[[Space, Any], Space] = _unchanged
    """Adapts :attr:`search` to the family's typed settings: drops ranges without effect and adds others."""

    def space(self, config: Any) -> Space:
        """Return the search space of ``tune.space: auto`` for the family's typed settings ``config``."""
        return self.adapt_search(self.search, config)


def nearest_resolution(shape: ImageShape, resolutions: Iterable[int]) -> int:
    """Return the one of ``resolutions`` that is nearest to the longer side, in powers of two; 0 if there are none."""
    side = max(shape.height, shape.width)
    return min(resolutions, key=lambda size: abs(size.bit_length() - side.bit_length()), default=0)


def _rates(low: float, high: float) -> Space:
    """Search ranges of both learning rates."""
    names = ("train.generator_lr", "train.discriminator_lr")
    return {name: {"type": "log", "low": low, "high": high} for name in names}


def _slope(high: float = 0.4) -> Space:
    """Search range of the negative slope of leaky ReLUs."""
    return {"model.slope": {"type": "uniform", "low": 0.0, "high": high}}


# -- DCGAN and cGAN ------------------------------------------------------------------------------------------------------

# 64: figure 1 of the paper. The others keep its 1024 maps at the coarsest resolution, or fewer where training would be slow.
DCGAN = Recipe(
    model={32: {"width": 128}, 64: {"width": 128}, 128: {"width": 64}, 256: {"width": 32}},
    model_on_cpu={"width": 48},
    kimg=200,
    search={**_rates(5e-5, 1e-3), **_slope()},
)
CGAN = DCGAN

# -- BigGAN --------------------------------------------------------------------------------------------------------------

# 128 and 256: tables 4 and 5 in appendix B of the paper, with its latent chunks of 20 and class embedding of 128, and the
# orthogonal regularisation that makes truncation work (section 3.1). 32: its CIFAR-10 network (appendix C). 64 is not in the
# paper: the same rules, with the width of 32.
_DEEP = {"shared_embedding": 128, "hierarchical": True, "orthogonal": 1e-4}
BIGGAN = Recipe(
    model={
        32: {"latent": 128, "width": 64},
        64: {"latent": 100, "width": 64, "attention": 32, **_DEEP},
        128: {"latent": 120, "width": 96, "attention": 64, **_DEEP},
        256: {"latent": 140, "width": 96, "attention": 64, **_DEEP},
    },
    train={"generator_lr": 2e-4, "discriminator_lr": 2e-4, "beta1": 0.0, "beta2": 0.999, "discriminator_steps": 4},
    # The settings above are for CIFAR-10, these for ImageNet (appendix C).
    train_by_resolution={
        size: {"generator_lr": 5e-5, "discriminator_lr": 2e-4, "discriminator_steps": 2} for size in (64, 128, 256)
    },
    model_on_cpu={"width": 24},
    search={**_rates(5e-5, 1e-3), **_slope()},
)

# -- StyleGAN2 -----------------------------------------------------------------------------------------------------------

# 32: ADA's configuration for CIFAR-10 (appendix C), without path length regularisation and style mixing. Its discriminator has
# no skips and takes standard deviations over 32 images; ours differs in both. The others follow ADA's "auto" configuration: a
# mapping of 2 layers, half the paper's width, and gamma = 0.0002 * pixels / batch, here for a batch of 32 (_stylegan2_r1
# computes it for other batches).
_STYLEGAN2: dict[int, dict[str, Any]] = {
    32: {"mapping_layers": 2, "r1": 0.01, "mixing": 0.0, "path_length": 0.0},
    64: {"mapping_layers": 2, "r1": 0.0256},
    128: {"mapping_layers": 2, "r1": 0.1024},
    256: {"mapping_layers": 2, "r1": 0.4096},
}
_CIFAR10_BATCH = 64
"""Batch of ADA's configuration for CIFAR-10."""


def _stylegan2_r1(shape: ImageShape, batch: int, model: Settings) -> list[DerivedSetting]:
    """Scale gamma of R1 to the batch."""
    if max(shape.height, shape.width) <= 32:
        gamma = _STYLEGAN2[32]["r1"] * _CIFAR10_BATCH / batch
        reason = f"ADA's value for CIFAR-10, scaled from its batch of {_CIFAR10_BATCH}"
    else:
        gamma = 0.0002 * shape.height * shape.width / batch
        reason = "0.0002 * pixels / batch (Karras et al. 2020, ADA)"
    return [("r1", float(f"{gamma:.3g}"), reason)]


STYLEGAN2 = Recipe(
    model=_STYLEGAN2,
    train={"generator_lr": 2.5e-3, "discriminator_lr": 2.5e-3, "beta1": 0.0, "beta2": 0.99},
    # ADA's for CIFAR-10. At other sizes it follows the batch, as in ADA's "auto" configuration.
    train_by_resolution={32: {"ema_half_life_kimg": 500.0}},
    model_on_cpu={"channel_base": 2048, "channel_max": 64, "latent": 128, "style": 128},
    derive=_stylegan2_r1,
    augmentation="ada",
    # An equalised learning rate scales the weights at run time and needs about ten times the usual rate.
    search={**_rates(1e-4, 1e-2), **_slope()},
)

# -- R3GAN ---------------------------------------------------------------------------------------------------------------

# Widths and gammas from the paper's tables of hyperparameters: CIFAR-10 for 32 pixels, FFHQ for 64 and 256. For 128, which
# the paper does not have, gamma is the geometric mean of its neighbours.
_R3GAN: dict[int, dict[str, Any]] = {
    32: {"width": 768, "width_max": 768, "gamma": 0.05, "final_gamma": 0.005},
    64: {"width": 384, "width_max": 768, "gamma": 2.0, "final_gamma": 0.2},
    128: {"width": 192, "width_max": 768, "gamma": 17.0, "final_gamma": 1.7},
    256: {"width": 96, "width_max": 768, "gamma": 150.0, "final_gamma": 15.0},
}


def _r3gan_gamma(shape: ImageShape, batch: int, model: Settings) -> list[DerivedSetting]:
    """Scale gamma to the batch: a smaller batch than the paper's has noisier gradients."""
    resolution = nearest_resolution(shape, _R3GAN)
    theirs = 512 if resolution == 32 else 256
    if batch == theirs:
        return []
    reason = f"the paper's value for its batch of {theirs}, scaled by the inverse of the batch"
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
    # From the paper's tables, for 128 those of its neighbours: the final strength of the augmentation, which rises along a
    # cosine, and the half-life of the averaged weights.
    train_by_resolution={
        32: {"augment": {"kind": "ada", "strength": 0.55}, "ema_half_life_kimg": 5000.0},
        64: {"augment": {"kind": "ada", "strength": 0.3}, "ema_half_life_kimg": 500.0},
        128: {"augment": {"kind": "ada", "strength": 0.3}, "ema_half_life_kimg": 500.0},
        256: {"augment": {"kind": "ada", "strength": 0.3}, "ema_half_life_kimg": 500.0},
    },
    model_on_cpu={"width": 32, "width_max": 64, "blocks": 1},
    # Narrow layers have larger weights and need larger steps; at the paper's rates this generator never catches up.
    train_on_cpu={"generator_lr": 2e-3, "discriminator_lr": 2e-3},
    derive=_r3gan_gamma,
    augmentation="ada",
    search={**_rates(5e-5, 1e-2), **_slope()},
)

# -- Pix2Pix -------------------------------------------------------------------------------------------------------------

# 256: the paper's. Smaller pictures follow its rules: downsampled to a single pixel, and patches of about half a side.
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


def _cut(shape: ImageShape, batch: int, model: Settings) -> list[DerivedSetting]:
    """Settings that differ for the objective of CUT."""
    if model.get("objective") != "contrastive":
        return []
    return [
        ("identity", 1.0, "CUT's weight of the identity loss"),
        ("pool", 0, "CUT has no pool of generated pictures"),
    ]


def _cyclegan_search(space: Space, config: Any) -> Space:
    """With the objective of CUT, search the weight of the contrastive loss instead of that of the cycle loss."""
    if config.objective == "cycle":
        return space
    weight = {"model.contrast": {"type": "log", "low": 0.3, "high": 3.0}}
    return {**{name: limits for name, limits in space.items() if name != "model.cycle"}, **weight}


# 256 and 128: the paper's. Smaller pictures get patches of about half a side.
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
    derive=_cut,
    augmentation="none",
    kimg=200,
    search={
        **_rates(5e-5, 1e-3),
        **_slope(),
        "model.cycle": {"type": "log", "low": 2.0, "high": 30.0},
        "model.identity": {"type": "uniform", "low": 0.0, "high": 1.0},
    },
    adapt_search=_cyclegan_search,
)

# -- StarGAN -------------------------------------------------------------------------------------------------------------

# 128: the paper's only network. The discriminator has as many layers as it needs to end at a map of 2x2, up to that size.
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


def _stargan2_diversity(steps: int) -> list[DerivedSetting]:
    return [
        ("diversity_steps", steps, "the weight of the diversity loss falls to 0 over the whole run, as in the paper")
    ]


# 256 and 128: the paper's rule, a width of 2^14 / pixels. Below, more width is not worth its time.
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
    follow_length=_stargan2_diversity,
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
"""Recipes by name of the family (:attr:`gan_core.families.Family.name`)."""
