"""``model.preset: auto``: what to train with, chosen from the data and the device, each choice with its reason."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from gan_core.data import DatasetInfo
from gan_core.families import FAMILIES, ImageShape

_GPU_PIXELS = 2**21
"""Pixels in a batch on a GPU: 128 pictures of 128x128."""
_BURN_IN = 0.2
"""Share of the run over which schedules move (Huang et al. 2024 take 0.2 of theirs on CIFAR-10)."""
_FEW = 100_000
"""Below so many pictures a discriminator learns them by heart before the generator is done (Karras et al. 2020, ADA)."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One setting that was chosen."""

    name: str
    """Dotted, as in params.yaml: ``train.batch``."""
    value: Any
    reason: str


def choose(family: str, info: DatasetInfo, device: torch.device, steps: int) -> list[Choice]:
    """What ``auto`` chooses for ``family`` on this data and device, for a run of ``steps`` steps.

    The family's own preset for the nearest resolution comes first, then what depends on the number of pictures and on the
    device; what a family's paper fixes is not chosen again.
    """
    shape = ImageShape.of(info)
    pictures = info.splits["train"]
    kind = FAMILIES[family]
    chosen: dict[str, Choice] = {}

    def take(name: str, value: Any, reason: str) -> None:
        chosen[name] = Choice(name=name, value=value, reason=reason)

    resolution = nearest_resolution(shape, kind.presets)
    for name, value in kind.presets.get(resolution, {}).items():
        take(f"model.{name}", value, f"the preset of {family} for {resolution} pixels")
    if device.type != "cuda":
        for name, value in kind.on_a_cpu.items():
            take(f"model.{name}", value, f"a {family} that trains on a CPU")
    for name, value in kind.recipe.items():
        take(f"train.{name}", value, f"the recipe of {family}")

    side = max(shape.height, shape.width)
    room = "a GPU" if device.type == "cuda" else "a CPU"
    if "batch" not in kind.recipe:
        take("train.batch", batch_size(shape, pictures, device), f"{side} pixels on {room}, {pictures} pictures")
    batch = chosen["train.batch"].value
    take("train.ema_half_life_kimg", batch * 10 / 32, "ten thousand images for each 32 in a batch")
    if "final_lr_share" in kind.recipe or "final_beta2" in kind.recipe:
        rounds = kind.recipe.get("discriminator_steps", 1)
        take("train.burn_in_kimg", _BURN_IN * steps * rounds * batch / 1000, "schedules end after a fifth of the run")
    for name, value, reason in kind.choose(shape, batch, steps):
        take(f"model.{name}", value, reason)
    if pictures < _FEW and kind.augmentation != "none":
        augmentation = kind.augmentation
        take(
            "train.augment",
            {"kind": augmentation},
            f"{pictures} pictures are few: the discriminator would learn them by heart",
        )
    return list(chosen.values())


def batch_size(shape: ImageShape, pictures: int, device: torch.device) -> int:
    """Real images in one step: a power of two that fits the device and, for a small set, an eighth of it at most."""
    pixels = shape.height * shape.width
    most = _GPU_PIXELS // pixels if device.type == "cuda" else 2**16 // pixels
    most = min(most, 256 if device.type == "cuda" else 64, max(pictures // 8, 8))
    return 2 ** max(3, most.bit_length() - 1)


def nearest_resolution(shape: ImageShape, known: Iterable[int]) -> int:
    """The resolution among ``known`` that is nearest to the shape's longer side, in octaves; 0 when none is known."""
    side = max(shape.height, shape.width)
    return min(known, key=lambda size: abs(size.bit_length() - side.bit_length()), default=0)
