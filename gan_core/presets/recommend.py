"""Recommend families for a dataset, with reasons and estimated hours of training."""

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

FEW_PICTURES, MANY_PICTURES = 10_000, 30_000
"""A dataset with fewer than the first number of pictures is small; with at least the second it is large."""
_EFFICIENCY = 0.4
"""Approximate speed of training relative to a large matrix product: convolutions are smaller and other operations add up."""


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """A family that can learn from the data."""

    family: str
    reason: str
    kimg: int
    """Thousands of real images after which results are usually worth a look."""
    hours: float | None
    """Estimated hours for ``kimg`` on this device; None if the family cannot generate such pictures."""
    problem: str = ""
    """Why the family cannot generate such pictures; else empty."""


def recommend(info: DatasetInfo, device: torch.device) -> list[Recommendation]:
    """Return the families that learn from such data, most suitable first; those that cannot generate such pictures last.

    Measures the speed of ``device``, which takes half a second.
    """
    rate = training_speed(device)
    ranked = []
    for rank, (name, reason) in enumerate(rank_families(info)):
        try:
            chosen = {choice.name: choice.value for choice in choose(name, info, device, steps=1)}
            model = {key.removeprefix("model."): value for key, value in chosen.items() if key.startswith("model.")}
            rounds = chosen.get("train.discriminator_steps", 1)
            flops_per_image = training_flops(name, ImageShape.of(info), model, rounds)
            hours = flops_per_image * RECIPES[name].kimg * 1000 / rate / 3600
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
    """Return the names of families from most to least suitable, each with a reason."""
    pictures, labelled = info.splits["train"], info.kind in ("labelled", "domains") and bool(info.classes)
    translating = []
    if info.kind == "paired":
        what = "colours for grey pictures" if info.derived == "greyscale" else "the target picture of each condition"
        translating = [("pix2pix", f"pairs: learns {what}")]
    elif info.kind == "unpaired":
        translating = [("cyclegan", f"two domains without pairs: translates {' to '.join(info.classes)} and back")]
    elif info.kind == "domains":
        domains = f"{len(info.attributes)} attributes" if info.attributes else f"{len(info.classes)} domains"
        translating = [("stargan", f"{domains}: one generator translates between all of them")]
        if info.classes:
            translating.append(("stargan2", f"{domains}: many styles of each, from noise or from a reference picture"))
    few = ("stylegan2", f"only {pictures} pictures: ADA keeps the discriminator from overfitting")
    modern = ("r3gan", "the modern baseline: stable without tricks, good diversity, slow to train")
    big = ("biggan", f"labels and {pictures} pictures: class-conditional, high fidelity")
    style = ("stylegan2", "high fidelity and a latent space for editing" + (", class-conditional" if labelled else ""))
    quick = ("dcgan", "a quick baseline: first pictures within minutes")
    labels = ("cgan", "a quick baseline that takes the class as input")
    if pictures < FEW_PICTURES:
        ranked = [few, modern, *([labels] if labelled else []), quick, *([big] if labelled else [])]
    elif labelled and pictures >= MANY_PICTURES:
        ranked = [big, style, modern, labels, quick]
    else:
        ranked = [style, modern, *([big, labels] if labelled else []), quick]
    if translating:
        ranked = [*translating, *((name, f"new pictures, not translations: {reason}") for name, reason in ranked)]
    if info.kind == "labelled":
        ranked += [
            ("stargan", "no new pictures: translates a picture of one class to another class"),
            ("stargan2", "no new pictures: translates a picture to another class, in many styles"),
        ]
    return [(name, reason) for name, reason in ranked if name in FAMILIES]


def training_speed(device: torch.device) -> float:
    """Estimate the floating-point operations per second of training from a matrix product, which takes half a second."""
    return matmul_flops_per_second(device) * _EFFICIENCY


def matmul_flops_per_second(device: torch.device, size: int = 1024, seconds: float = 0.5) -> float:
    """Measure the floating-point operations per second of a matrix product, in the type that ``device`` trains in.

    Args:
        device: device to measure.
        size: rows and columns of the matrices.
        seconds: duration of the measurement.
    """
    dtype = torch.bfloat16 if has_bf16(device) else torch.float32
    a = torch.randn(size, size, device=device, dtype=dtype)
    (a @ a).sum().item()
    started, times = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        (a @ a)[0, 0].item()
        times += 1
    return 2 * size**3 * times / (time.perf_counter() - started)
