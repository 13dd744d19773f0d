"""``model.preset: auto``: what to train with, chosen from the data and the device, each choice with its reason."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from gan_core.data import DatasetInfo
from gan_core.families import FAMILIES, ImageShape
from gan_core.precision import device_memory, has_bf16
from gan_core.presets.cost import peak_memory
from gan_core.presets.recipes import RECIPES, nearest_resolution

_GPU_PIXELS = 2**21
"""Pixels in a batch on a GPU: 128 pictures of 128x128."""
_BURN_IN = 0.2
"""Share of the run over which schedules move (Huang et al. 2024 take 0.2 of theirs on CIFAR-10)."""
_FEW = 100_000
"""Below so many pictures a discriminator learns them by heart before the generator is done (Karras et al. 2020, ADA)."""


_SHARE = 0.8
"""Of a GPU's memory: the rest is for what is not counted, such as its libraries, the augmentation and the FID's network."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One setting that was chosen."""

    name: str
    """Dotted, as in params.yaml: ``train.batch``."""
    value: Any
    reason: str


def choose(
    family: str,
    info: DatasetInfo,
    device: torch.device,
    steps: int,
    *,
    given: Mapping[str, Any] | None = None,
    workers: int = 1,
) -> list[Choice]:
    """What ``auto`` chooses for ``family`` on this data and device, for a run of ``steps`` steps.

    The family's own preset for the nearest resolution comes first, then what depends on the number of pictures and on the
    device; what a family's paper fixes is not chosen again.

    Args:
        family: its name.
        info: of the prepared data.
        device: that trains.
        steps: of the run.
        given: settings by dotted name that stand whatever is chosen; other choices follow from them.
        workers: that train together, each on a device of its own.
    """
    shape = ImageShape.of(info)
    pictures = info.splits["train"]
    recipe = RECIPES[family]
    chosen: dict[str, Choice] = {}
    standing: dict[str, Any] = dict(given or {})

    def take(name: str, value: Any, reason: str) -> None:
        chosen[name] = Choice(name=name, value=value, reason=reason)
        if name not in (given or {}):
            standing[name] = value

    def model() -> dict[str, Any]:
        """The family's own settings as they stand."""
        return {name.removeprefix("model."): value for name, value in standing.items() if name.startswith("model.")}

    resolution = nearest_resolution(shape, recipe.model)
    networks = recipe.model.get(resolution, {})
    for name, value in networks.items():
        take(f"model.{name}", value, f"the preset of {family} for {resolution} pixels")
    train = {**recipe.train, **(recipe.train_by_resolution.get(resolution, {}) if device.type == "cuda" else {})}
    for name, value in train.items():
        take(f"train.{name}", value, f"the recipe of {family}")
    if device.type != "cuda":
        for name, value in recipe.model_on_cpu.items():
            take(f"model.{name}", min(value, networks.get(name, value)), f"a {family} that trains on a CPU")
        for name, value in recipe.train_on_cpu.items():
            take(f"train.{name}", value, f"a {family} that trains on a CPU")

    side = max(shape.height, shape.width)
    room = "a GPU" if device.type == "cuda" else "a CPU"
    if "batch" not in train:
        fits = batch_size(shape, pictures, device)
        whole = -(-fits // workers) * workers
        shared = "" if whole == fits else f", a multiple of {workers} workers"
        take("train.batch", whole, f"{side} pixels on {room}, {pictures} pictures{shared}")
    batch = standing["train.batch"]
    if "ema_half_life_kimg" not in train:
        take("train.ema_half_life_kimg", batch * 10 / 32, "ten thousand images for each 32 in a batch")
    if "final_lr_share" in train or "final_beta2" in train:
        rounds = standing.get("train.discriminator_steps", 1)
        take("train.burn_in_kimg", _BURN_IN * steps * rounds * batch / 1000, "schedules end after a fifth of the run")
    # The domains of unpaired data are drawn apart: to a family that makes images from noise they are no classes.
    if FAMILIES[family].class_conditional == "optional" and shape.classes and info.kind != "unpaired":
        take("model.conditional", True, f"each picture is of one of {shape.classes} classes")
    for name, value, reason in recipe.depends(shape, batch, steps, model()):
        take(f"model.{name}", value, reason)
    if pictures < _FEW and recipe.augmentation != "none" and "augment" not in train:
        take(
            "train.augment",
            {"kind": recipe.augmentation},
            f"{pictures} pictures are few: the discriminator would learn them by heart",
        )
    has = device_memory(device)
    if has is not None:
        precision = standing.get("train.precision", "auto")
        how = {
            "bf16": has_bf16(device) if precision == "auto" else precision == "bf16",
            "compiled": bool(standing.get("train.compile")),
        }
        count, needs = micro_batches(family, info, model(), batch // workers, has, **how)
        gib = f"about {needs / 2**30:.1f} GiB in one step, of the GPU's {has / 2**30:.1f}"
        take("train.accumulate", count, gib)
    return list(chosen.values())


def micro_batches(
    family: str,
    info: DatasetInfo,
    model: Mapping[str, Any],
    batch: int,
    has: int,
    *,
    bf16: bool,
    compiled: bool = False,
) -> tuple[int, int]:
    """The least number of micro-batches whose step fits into ``has`` bytes of a device's memory, and how much it takes.

    Where none fits, as many as the batch divides into, of two images or more: where that fails, the trainer says what helps.
    """
    shape = ImageShape.of(info)
    pixels = info.splits["train"] * (shape.channels + shape.condition_channels) * shape.height * shape.width
    # Pictures stay on the device where they take no more than half of it.
    room = _SHARE * has - (pixels if pixels <= has / 2 else 0)
    count = 1
    while True:
        needs = peak_memory(family, shape, model, batch // count, keep=count == 1, bf16=bf16, compiled=compiled)
        if needs <= room or batch % (2 * count) or batch // (2 * count) < 2:
            return count, needs
        count *= 2


def batch_size(shape: ImageShape, pictures: int, device: torch.device) -> int:
    """Real images in one step: a power of two that fits the device and, for a small set, an eighth of it at most."""
    pixels = shape.height * shape.width
    most = _GPU_PIXELS // pixels if device.type == "cuda" else 2**16 // pixels
    most = min(most, 256 if device.type == "cuda" else 64, max(pictures // 8, 8))
    return 2 ** max(3, most.bit_length() - 1)
