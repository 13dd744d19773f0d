"""Which family suits a dataset, why, and about what it costs."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from gan_core import randomness
from gan_core.data import DatasetInfo
from gan_core.errors import SettingsError
from gan_core.families import FAMILIES, Batch, Family, ImageShape, build_family, family_config
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
    """Every family that learns from such data, the most suitable first; those that cannot make such pictures last."""
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
    style = ("stylegan2", "high fidelity and a latent space to edit in; conditional: true uses the labels")
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


def cost(name: str, shape: ImageShape, model: Mapping[str, Any]) -> float:
    """Floating point operations of training for one real image, with the family's settings ``model``.

    From noise, the discriminator learns from a real and a generated image and the generator through it: with a backward pass
    worth two forward ones, that is three passes of the generator and eight of the discriminator for one round of each. Of a
    family that translates, both updates are counted as they are.
    """
    kind = FAMILIES[name]
    rounds = kind.recipe.get("discriminator_steps", 1)
    if not issubclass(kind, NoiseFamily):
        passes = _operations_of_a_step(name, shape, model)
        return passes["discriminator"] + passes["generator"] / rounds
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        family = build_family(name, family_config(name, model), shape)
        assert isinstance(family, NoiseFamily)
        passes = {side: _operations(family, side, counter) for side in ("generator", "discriminator")}
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


class _Counter(TorchDispatchMode):
    """Adds up floating point operations. Unlike torch's own it bears gradients that are differentiated once more."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.total += count(*args, **kwargs, out_val=result)
        return result


def _operations_of_a_step(name: str, shape: ImageShape, model: Mapping[str, Any]) -> dict[str, float]:
    """Floating point operations of each side's updates for one real image; nothing is computed."""
    from torch._subclasses.fake_tensor import FakeTensorMode  # takes a second to load

    n, passes = 2, {"discriminator": 0.0, "generator": 0.0}
    with FakeTensorMode(), _Counter() as counter:
        family = build_family(name, family_config(name, model), shape)
        pictures = [torch.zeros(n, c, shape.height, shape.width) for c in (shape.channels, shape.condition_channels)]
        classes = torch.zeros(n, dtype=torch.int64) if shape.classes else None
        batch = Batch(
            real=pictures[0],
            labels=torch.zeros(n, shape.attributes) if shape.attributes else classes,
            condition=pictures[1] if shape.condition_channels else pictures[0],
            key=("cost",),
            part=randomness.Slice(),
        )
        for phase in family.phases():
            before = counter.total
            _freeze(family, phase.side == "generator")
            phase.loss(batch, 0).total.backward()
            passes[phase.side] += (counter.total - before) / n / phase.every
    return passes


def _freeze(family: Family, frozen: bool) -> None:
    """As in training: while the generators learn, the discriminators take no gradient."""
    for name in family.discriminators:
        family.networks[name].requires_grad_(not frozen)


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
