"""The table of families: one module a family, one line here."""

from collections.abc import Mapping
from typing import Any

import torch

from gan_core.config import build
from gan_core.errors import SettingsError, nearest
from gan_core.families.base import Batch, Family, ImageShape, Losses
from gan_core.families.dcgan import Dcgan

FAMILIES: dict[str, type[Family]] = {
    "dcgan": Dcgan,
}


def family_config(name: str, values: Mapping[str, Any], where: str = "model") -> Any:
    """The typed configuration of the family ``name`` from plain values, checked; raises SettingsError."""
    if name not in FAMILIES:
        raise SettingsError(f"{where}.family: there is no family '{name}'.{nearest(name, FAMILIES)}")
    return build(FAMILIES[name].Config, values, where=where)


def build_family(name: str, config: Any, shape: ImageShape) -> Family:
    """The family ``name`` with freshly initialised networks on the CPU."""
    return FAMILIES[name](config, shape)


def check_family(name: str, config: Any, shape: ImageShape) -> None:
    """Raise SettingsError, naming the setting, when the family ``name`` cannot make such pictures; costs nothing."""
    with torch.device("meta"):
        build_family(name, config, shape)


__all__ = ["FAMILIES", "Batch", "Family", "ImageShape", "Losses", "build_family", "check_family", "family_config"]
