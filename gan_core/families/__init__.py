"""The table of families: one module a family, one line here."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch.overrides import TorchFunctionMode

from gan_core.batch import Batch
from gan_core.config import build
from gan_core.errors import SettingsError, nearest
from gan_core.families.base import DiversityPair, Family, ImageShape, Losses, Phase, Side
from gan_core.families.biggan import BigGan
from gan_core.families.cgan import Cgan
from gan_core.families.cyclegan import CycleGan
from gan_core.families.dcgan import Dcgan
from gan_core.families.pix2pix import Pix2Pix
from gan_core.families.r3gan import R3gan
from gan_core.families.stargan import StarGan
from gan_core.families.stargan2 import StarGan2
from gan_core.families.stylegan2 import StyleGan2

FAMILIES: dict[str, type[Family]] = {
    family.name: family for family in (BigGan, Cgan, CycleGan, Dcgan, Pix2Pix, R3gan, StarGan, StarGan2, StyleGan2)
}

_Capable = TypeVar("_Capable", bound=Family)


def families_that_can(capability: type[Family]) -> list[str]:
    """Names of the families with a capability (:meth:`Family.can`)."""
    return [name for name, family in FAMILIES.items() if family.can(capability)]


def require(family: Family, capability: type[_Capable]) -> _Capable:
    """``family`` itself, as one with the capability; raises SettingsError that names the families that have it otherwise."""
    if not isinstance(family, capability):
        able = ", ".join(families_that_can(capability))
        raise SettingsError(f"{family.name} cannot {capability.does}; it can {family.does}. Families that can: {able}.")
    return family


def family_config(name: str, values: Mapping[str, Any], where: str = "model") -> Any:
    """The typed configuration of the family ``name`` from plain values, checked; raises SettingsError."""
    if name not in FAMILIES:
        raise SettingsError(f"{where}.family: there is no family '{name}'.{nearest(name, FAMILIES)}")
    _refuse_others_settings(name, values, where)
    return build(FAMILIES[name].Config, values, where=where)


def _refuse_others_settings(name: str, values: Mapping[str, Any], where: str) -> None:
    """Raise SettingsError, naming all of them, where ``values`` has settings that other families have, and not this one."""
    known = {family: {field.name for field in dataclasses.fields(kind.Config)} for family, kind in FAMILIES.items()}
    strange = [key for key in values if key not in known[name] and any(key in names for names in known.values())]
    if strange:
        raise SettingsError(
            f"{', '.join(f'{where}.{key}' for key in strange)}: {name} has no such settings, they are another family's. Leave "
            f"them out; with preset: auto what {name} needs is chosen."
        )


def build_family(name: str, config: Any, shape: ImageShape, *, class_shares: Sequence[float] = ()) -> Family:
    """The family ``name`` with freshly initialised networks on the CPU.

    ``class_shares`` are for a class-conditional family that makes images from noise: how often each class is drawn.
    """
    kind = FAMILIES[name]
    return kind(config, shape, **({"class_shares": class_shares} if kind.is_conditional(config) else {}))


def check_family(name: str, config: Any, shape: ImageShape) -> None:
    """Raise SettingsError, naming the setting, when the family ``name`` cannot make such pictures; costs nothing."""
    sketch_family(name, config, shape)


def sketch_family(name: str, config: Any, shape: ImageShape) -> Family:
    """The family ``name`` with networks whose tensors have shapes and no memory; raises SettingsError as above."""
    with torch.device("meta"), _Unfilled():
        return build_family(name, config, shape)


class _Unfilled(TorchFunctionMode):
    """Leaves out what fills weights with numbers: for tensors without memory torch would load seconds of code to do it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.Tensor.normal_, torch.Tensor.uniform_) or getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        if func is torch.randn:
            kwargs.pop("generator", None)
            return torch.empty(*args, **kwargs)
        return func(*args, **kwargs)


__all__ = [
    "FAMILIES",
    "Batch",
    "DiversityPair",
    "Family",
    "ImageShape",
    "Losses",
    "Phase",
    "Side",
    "build_family",
    "check_family",
    "families_that_can",
    "family_config",
    "require",
    "sketch_family",
]
