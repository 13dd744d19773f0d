"""Which family suits a dataset, why, and about what it costs."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from gan_core.data import DatasetInfo
from gan_core.errors import SettingsError
from gan_core.families import FAMILIES, ImageShape, build_family, family_config
from gan_core.families.noise import NoiseFamily
from gan_core.precision import has_bf16
from gan_core.presets import choose

FEW, MANY = 10_000, 30_000
"""Pictures under which a set is small, and from which on it is large."""
_EFFICIENCY = 0.4
"""Share of a matrix product's rate that training reaches, about: convolutions are smaller, and not all is convolution."""


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """One family for this data."""

    family: str
    reason: str
    thousand_images: int
    """Thousand real images after which it is usually worth looking at."""
    hours: float | None
    """About how long that takes on this device; None when the family cannot make such pictures."""
    problem: str = ""
    """Why it cannot."""


def recommend(info: DatasetInfo, device: torch.device) -> list[Recommendation]:
    """Every family that makes images from noise, the most suitable first; those that cannot do it last."""
    rate = product_rate(device) * _EFFICIENCY
    ranked = []
    for rank, (name, reason) in enumerate(order(info)):
        try:
            model = {
                choice.name.removeprefix("model."): choice.value
                for choice in choose(name, info, device, steps=1)
                if choice.name.startswith("model.")
            }
            operations = cost(name, ImageShape.of(info), model) * FAMILIES[name].thousand_images * 1000
            hours = operations / rate / 3600
            problem = ""
        except SettingsError as error:
            hours, problem = None, str(error)
        found = Recommendation(
            family=name,
            reason=reason,
            thousand_images=FAMILIES[name].thousand_images,
            hours=hours,
            problem=problem,
        )
        ranked.append((hours is None, rank, found))
    return [found for *_, found in sorted(ranked, key=lambda entry: entry[:2])]


def order(info: DatasetInfo) -> list[tuple[str, str]]:
    """Families from the most suitable to the least, each with its reason."""
    pictures, labelled = info.splits["train"], bool(info.classes)
    few = ("stylegan2", f"{pictures} pictures are few: ADA keeps the discriminator from learning them by heart")
    modern = ("r3gan", "the modern baseline: stable without tricks, good diversity, wants time")
    big = ("biggan", f"labels and {pictures} pictures: class-conditional, strong at fidelity")
    style = ("stylegan2", "high fidelity and a latent space to edit in; conditional: true uses the labels")
    quick = ("dcgan", "a quick baseline: the first picture after minutes")
    labels = ("cgan", "a quick baseline that takes the class as input")
    if pictures < FEW:
        ranked = [few, modern, *([labels] if labelled else []), quick, *([big] if labelled else [])]
    elif labelled and pictures >= MANY:
        ranked = [big, style, modern, labels, quick]
    else:
        ranked = [style, modern, *([big, labels] if labelled else []), quick]
    return [(name, reason) for name, reason in ranked if name in FAMILIES]


def cost(name: str, shape: ImageShape, model: Mapping[str, Any]) -> float:
    """Floating point operations of training for one real image, with the family's settings ``model``.

    The discriminator learns from a real and a generated image and the generator through it: with a backward pass worth
    two forward ones, that is three passes of the generator and eight of the discriminator for one round of each.
    """
    kind = FAMILIES[name]
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        family = build_family(name, family_config(name, model), shape)
        assert isinstance(family, NoiseFamily)
        passes = {side: _operations(family, side, counter) for side in ("generator", "discriminator")}
    rounds = kind.recipe.get("discriminator_steps", 1)
    return 3 * passes["generator"] / rounds + (6 + 2 / rounds) * passes["discriminator"]


def _operations(family: NoiseFamily, side: str, counter: FlopCounterMode) -> float:
    """Floating point operations of one forward pass for one image."""
    before, n, shape = counter.get_total_flops(), 4, family.shape
    labels = torch.zeros(n, dtype=torch.int64) if family.conditional else None
    with torch.no_grad():
        if side == "generator":
            family.generate_sample(family.networks[side], torch.zeros(n, family.config.latent), labels, None)
        else:
            family.judge(family.networks[side], torch.zeros(n, shape.channels, shape.height, shape.width), labels)
    return (counter.get_total_flops() - before) / n


def product_rate(device: torch.device, size: int = 1024, seconds: float = 0.5) -> float:
    """Floating point operations a second of a matrix product in the type that ``device`` trains in."""
    dtype = torch.bfloat16 if has_bf16(device) else torch.float32
    a = torch.randn(size, size, device=device, dtype=dtype)
    (a @ a).sum().item()
    started, times = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        (a @ a)[0, 0].item()
        times += 1
    return 2 * size**3 * times / (time.perf_counter() - started)
