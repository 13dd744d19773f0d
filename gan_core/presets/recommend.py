"""Which family suits a dataset, why, and about what it costs."""

import time
from dataclasses import dataclass

import torch

from gan_core.data import DatasetInfo
from gan_core.errors import SettingsError
from gan_core.families import FAMILIES, ImageShape
from gan_core.precision import has_bf16
from gan_core.presets.choose import choose
from gan_core.presets.cost import training_flops
from gan_core.presets.recipes import RECIPES

FEW, MANY = 10_000, 30_000
"""Pictures under which a set is small, and from which on it is large."""
_EFFICIENCY = 0.4
"""Share of a matrix product's rate that training reaches, about: convolutions are smaller, and not all is convolution."""


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """One family for this data."""

    family: str
    reason: str
    kimg: int
    """Thousand real images after which it is usually worth looking at."""
    hours: float | None
    """About how long that takes on this device; None when the family cannot make such pictures."""
    problem: str = ""
    """Why it cannot."""


def recommend(info: DatasetInfo, device: torch.device) -> list[Recommendation]:
    """Every family that learns from such data, the most suitable first; those that cannot make such pictures last."""
    rate = matmul_flops_per_second(device) * _EFFICIENCY
    ranked = []
    for rank, (name, reason) in enumerate(rank_families(info)):
        try:
            chosen = {choice.name: choice.value for choice in choose(name, info, device, steps=1)}
            model = {key.removeprefix("model."): value for key, value in chosen.items() if key.startswith("model.")}
            rounds = chosen.get("train.discriminator_steps", 1)
            for_an_image = training_flops(name, ImageShape.of(info), model, rounds)
            hours = for_an_image * RECIPES[name].kimg * 1000 / rate / 3600
            problem = ""
        except SettingsError as error:
            hours, problem = None, str(error)
        found = Recommendation(
            family=name,
            reason=reason,
            kimg=RECIPES[name].kimg,
            hours=hours,
            problem=problem,
        )
        ranked.append((hours is None, rank, found))
    return [found for *_, found in sorted(ranked, key=lambda entry: entry[:2])]


def rank_families(info: DatasetInfo) -> list[tuple[str, str]]:
    """Families from the most suitable to the least, each with its reason."""
    pictures, labelled = info.splits["train"], info.kind in ("labelled", "domains") and bool(info.classes)
    translating = []
    if info.kind == "paired":
        what = "colours for grey pictures" if info.derived == "greyscale" else "the picture of each condition"
        translating = [("pix2pix", f"pairs: learns {what}")]
    elif info.kind == "unpaired":
        translating = [("cyclegan", f"two domains without pairs: translates {' to '.join(info.classes)} and back")]
    elif info.kind == "domains":
        domains = f"{len(info.attributes)} attributes" if info.attributes else f"{len(info.classes)} domains"
        translating = [("stargan", f"{domains}: one generator translates among them")]
        if info.classes:
            translating.append(("stargan2", f"{domains}: many styles of each, from noise or from another picture"))
    few = ("stylegan2", f"{pictures} pictures are few: ADA keeps the discriminator from learning them by heart")
    modern = ("r3gan", "the modern baseline: stable without tricks, good diversity, wants time")
    big = ("biggan", f"labels and {pictures} pictures: class-conditional, strong at fidelity")
    style = ("stylegan2", "high fidelity and a latent space to edit in" + (", class by class" if labelled else ""))
    quick = ("dcgan", "a quick baseline: the first picture after minutes")
    labels = ("cgan", "a quick baseline that takes the class as input")
    if pictures < FEW:
        ranked = [few, modern, *([labels] if labelled else []), quick, *([big] if labelled else [])]
    elif labelled and pictures >= MANY:
        ranked = [big, style, modern, labels, quick]
    else:
        ranked = [style, modern, *([big, labels] if labelled else []), quick]
    if translating:
        ranked = [*translating, *((name, f"new pictures, not translations: {reason}") for name, reason in ranked)]
    if info.kind == "labelled":
        ranked += [
            ("stargan", "no new pictures: translates one of a class to another class"),
            ("stargan2", "no new pictures: translates to another class, in many styles"),
        ]
    return [(name, reason) for name, reason in ranked if name in FAMILIES]


def matmul_flops_per_second(device: torch.device, size: int = 1024, seconds: float = 0.5) -> float:
    """Floating point operations a second of a matrix product in the type that ``device`` trains in."""
    dtype = torch.bfloat16 if has_bf16(device) else torch.float32
    a = torch.randn(size, size, device=device, dtype=dtype)
    (a @ a).sum().item()
    started, times = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        (a @ a)[0, 0].item()
        times += 1
    return 2 * size**3 * times / (time.perf_counter() - started)
