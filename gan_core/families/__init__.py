"""The table of GAN families. Each family has a module and an entry here."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch.overrides import TorchFunctionMode

from gan_core.batch import Batch
from gan_core.config import build
from gan_core.errors import SettingsError, did_you_mean
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
    """Return the names of the families with a capability (:meth:`Family.can`)."""
    return [name for name, family in FAMILIES.items() if family.can(capability)]


def require(family: Family, capability: type[_Capable]) -> _Capable:
    """Return ``family`` if it has the capability, else raise SettingsError that names the families that have it."""
    if not isinstance(family, capability):
        able = ", ".join(families_that_can(capability))
        raise SettingsError(
            f"{family.name} cannot {capability.ability}; it can {family.ability}. Families that can: {able}."
        )
    return family


def family_config(name: str, values: Mapping[str, Any], where: str = "model") -> Any:
    """Build and check the typed configuration of the family ``name`` from plain values.

    Args:
        name: name of the family.
        values: settings of the family.
        where: dotted prefix for messages.

    Raises:
        SettingsError: the family or a setting is unknown, or a value is invalid.
    """
    if name not in FAMILIES:
        raise SettingsError(f"{where}.family: unknown family '{name}'.{did_you_mean(name, FAMILIES)}")
    _refuse_others_settings(name, values, where)
    return build(FAMILIES[name].Config, values, where=where)


def _refuse_others_settings(name: str, values: Mapping[str, Any], where: str) -> None:
    """Raise SettingsError if ``values`` has settings of other families, and name all of them."""
    known = {family: {field.name for field in dataclasses.fields(kind.Config)} for family, kind in FAMILIES.items()}
    strange = [key for key in values if key not in known[name] and any(key in names for names in known.values())]
    if strange:
        raise SettingsError(
            f"{', '.join(f'{where}.{key}' for key in strange)}: not a setting of {name}, but of another family. Leave it out; "
            f"preset: auto chooses the settings that {name} needs."
        )


def build_family(name: str, config: Any, shape: ImageShape, *, class_shares: Sequence[float] = ()) -> Family:
    """Build the family ``name`` with newly initialised networks on the CPU.

    Args:
        name: name of the family.
        config: typed configuration of the family.
        shape: shape of the pictures.
        class_shares: share of each class in samples of a class-conditional noise family.

    Raises:
        SettingsError: the family cannot generate such pictures; the message names the setting.
    """
    kind = FAMILIES[name]
    return kind(config, shape, **({"class_shares": class_shares} if kind.is_conditional(config) else {}))


def check_family(name: str, config: Any, shape: ImageShape) -> None:
    """Raise SettingsError, naming the setting, if the family ``name`` cannot generate such pictures. Allocates no memory."""
    sketch_family(name, config, shape)


def sketch_family(name: str, config: Any, shape: ImageShape) -> Family:
    """Build the family ``name`` on the meta device: tensors have shapes but no memory. Raises as :func:`build_family`."""
    with torch.device("meta"), _Unfilled():
        return build_family(name, config, shape)


_DIVISIONS = (torch.Tensor.div, torch.Tensor.__truediv__, torch.div)


class _Unfilled(TorchFunctionMode):
    """Skips weight initialisation. On the meta device torch would spend seconds on importing its compiler for it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.Tensor.normal_, torch.Tensor.uniform_) or getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        if func in _DIVISIONS and isinstance(args[1], (int, float)) and args[0].is_floating_point():
            return args[0]
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
