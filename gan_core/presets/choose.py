"""``model.preset: auto``: choose settings from the data and the device, each with a reason."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from gan_core.data import DatasetInfo
from gan_core.families import FAMILIES, ImageShape
from gan_core.memory import device_memory
from gan_core.precision import has_bf16
from gan_core.presets.cost import peak_memory
from gan_core.presets.recipes import RECIPES, nearest_resolution

_GPU_PIXELS = 2**21
"""Pixels per batch on a GPU: 128 pictures of 128x128."""
_BURN_IN = 0.2
"""Share of the run over which schedules change (0.2 on CIFAR-10 in Huang et al. 2024)."""
_FEW_PICTURES = 100_000
"""With fewer pictures the discriminator overfits before the generator has converged (Karras et al. 2020, ADA)."""
_MEMORY_SHARE = 0.8
"""Usable share of a GPU's memory. The rest is for what is not counted: libraries, augmentation and the FID network."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A chosen setting."""

    name: str
    """Dotted name, as in params.yaml: ``train.batch``."""
    value: Any
    reason: str


@dataclass(frozen=True, kw_only=True)
class LengthChoices:
    """The choices that depend on the number of steps, which ``train.minutes`` decides only when training begins."""

    family: str
    batch: int
    """``train.batch``."""
    discriminator_steps: int
    """``train.discriminator_steps``."""
    given: frozenset[str] = frozenset()
    """Dotted names that are not chosen, because the user or the search has set them."""

    def at(self, steps: int) -> list[Choice]:
        """The choices for a run of ``steps`` steps."""
        recipe, found = RECIPES[self.family], []
        if {"final_lr_share", "final_beta2"} & recipe.train.keys():
            kimg = _BURN_IN * steps * self.discriminator_steps * self.batch / 1000
            found.append(Choice(name="train.burn_in_kimg", value=kimg, reason="schedules end after a fifth of the run"))
        found += [
            Choice(name=f"model.{name}", value=value, reason=reason)
            for name, value, reason in recipe.follow_length(steps)
        ]
        return [choice for choice in found if choice.name not in self.given]

    def values_at(self, steps: int) -> dict[str, Any]:
        """The values of :meth:`at` by the dotted names of their settings."""
        return {choice.name: choice.value for choice in self.at(steps)}

    @property
    def names(self) -> list[str]:
        """Dotted names of the settings that :meth:`at` chooses."""
        return [choice.name for choice in self.at(1)]


def choose(
    family: str,
    info: DatasetInfo,
    device: torch.device,
    steps: int | None,
    *,
    given: Mapping[str, Any] | None = None,
    workers: int = 1,
) -> list[Choice]:
    """Choose the settings of ``preset: auto`` for ``family`` on this data and device.

    The family's preset for the nearest resolution comes first, then settings that depend on the number of pictures and on
    the device. A value from the family's paper takes precedence over these.

    Args:
        family: name of the family.
        info: description of the prepared data.
        device: device to train on.
        steps: length of the run in steps. None if it is not known yet: then the :class:`LengthChoices` are left out.
        given: settings of the user by dotted name. They override choices of the same name, and other choices follow them.
        workers: number of workers that train together, each on its own device.
    """
    shape = ImageShape.of(info)
    pictures = info.splits["train"]
    recipe = RECIPES[family]
    chosen: dict[str, Choice] = {}
    current: dict[str, Any] = dict(given or {})

    def take(name: str, value: Any, reason: str) -> None:
        chosen[name] = Choice(name=name, value=value, reason=reason)
        if name not in (given or {}):
            current[name] = value

    def model() -> dict[str, Any]:
        """The current settings of the family."""
        return {name.removeprefix("model."): value for name, value in current.items() if name.startswith("model.")}

    resolution = nearest_resolution(shape, recipe.model)
    networks = recipe.model.get(resolution, {})
    for name, value in networks.items():
        take(f"model.{name}", value, f"the preset of {family} for {resolution} pixels")
    train = {**recipe.train, **(recipe.train_by_resolution.get(resolution, {}) if device.type == "cuda" else {})}
    for name, value in train.items():
        take(f"train.{name}", value, f"the recipe of {family}")
    if "batch" in train:
        batch, rounded = _for_workers(train["batch"], workers)
        take("train.batch", batch, f"the recipe of {family}{rounded}")
    if device.type != "cuda":
        for name, value in recipe.model_on_cpu.items():
            take(f"model.{name}", min(value, networks.get(name, value)), f"{family} on a CPU")
        for name, value in recipe.train_on_cpu.items():
            take(f"train.{name}", value, f"{family} on a CPU")

    side = max(shape.height, shape.width)
    place = "a GPU" if device.type == "cuda" else "a CPU"
    if "batch" not in train:
        batch, rounded = _for_workers(choose_batch(shape, pictures, device), workers)
        take("train.batch", batch, f"{side} pixels on {place}, {pictures} pictures{rounded}")
    batch = current["train.batch"]
    if "ema_half_life_kimg" not in train:
        take("train.ema_half_life_kimg", batch * 10 / 32, "10 kimg per 32 images in a batch")
    if steps is not None:
        rounds = current.get("train.discriminator_steps", 1)
        for choice in LengthChoices(family=family, batch=batch, discriminator_steps=rounds).at(steps):
            take(choice.name, choice.value, choice.reason)
    # The domains of unpaired data are not classes: a family that generates from noise learns from both alike.
    if FAMILIES[family].class_conditional == "optional" and shape.classes and info.kind != "unpaired":
        take("model.conditional", True, f"the pictures have {shape.classes} classes")
    for name, value, reason in recipe.derive(shape, batch, model()):
        take(f"model.{name}", value, reason)
    if pictures < _FEW_PICTURES and recipe.augmentation != "none" and "augment" not in train:
        take(
            "train.augment",
            {"kind": recipe.augmentation},
            f"only {pictures} pictures: without augmentation the discriminator would overfit",
        )
    memory = device_memory(device)
    if memory is not None:
        precision = current.get("train.precision", "auto")
        how = {
            "bf16": has_bf16(device) if precision == "auto" else precision == "bf16",
            "compiled": bool(current.get("train.compile")),
        }
        # A batch of the user that is smaller than the number of workers is refused later, by name.
        count, needs = fit_micro_batches(family, info, model(), max(batch // workers, 1), memory, **how)
        gib = f"a step takes about {needs / 2**30:.1f} GiB of the GPU's {memory / 2**30:.1f} GiB"
        take("train.accumulate", count, gib)
    return list(chosen.values())


def _for_workers(batch: int, workers: int) -> tuple[int, str]:
    """``batch`` rounded up to a multiple of ``workers``, and what to add to its reason if that changes it."""
    whole = -(-batch // workers) * workers
    return whole, "" if whole == batch else f", rounded up to a multiple of {workers} workers"


def fit_micro_batches(
    family: str,
    info: DatasetInfo,
    model: Mapping[str, Any],
    batch: int,
    memory: int,
    *,
    bf16: bool,
    compiled: bool = False,
) -> tuple[int, int]:
    """Choose the number of micro-batches such that a step fits into a device's memory.

    Args:
        family: name of the family.
        info: description of the prepared data.
        model: the family's settings.
        batch: real images per step on this device.
        memory: bytes of the device's memory.
        bf16: whether the networks compute in bf16.
        compiled: whether the networks are compiled (``train.compile``).

    Returns:
        The smallest number of micro-batches that fits, and the bytes that a step takes. If none fits, the largest number that
        leaves micro-batches of two images or more; if memory then runs out, the trainer's error says what helps.
    """
    shape = ImageShape.of(info)
    pixels = info.splits["train"] * (shape.channels + shape.condition_channels) * shape.height * shape.width
    # The pictures are kept on the device if they take at most half of its memory.
    room = _MEMORY_SHARE * memory - (pixels if pixels <= memory / 2 else 0)
    count = 1
    while True:
        needs = peak_memory(family, shape, model, batch // count, keep=count == 1, bf16=bf16, compiled=compiled)
        if needs <= room or batch % (2 * count) or batch // (2 * count) < 2:
            return count, needs
        count *= 2


def choose_batch(shape: ImageShape, pictures: int, device: torch.device) -> int:
    """Choose the real images per step: a power of two that suits the device, and at most an eighth of a small dataset."""
    pixels = shape.height * shape.width
    most = _GPU_PIXELS // pixels if device.type == "cuda" else 2**16 // pixels
    most = min(most, 256 if device.type == "cuda" else 64, max(pictures // 8, 8))
    return 2 ** max(3, most.bit_length() - 1)
