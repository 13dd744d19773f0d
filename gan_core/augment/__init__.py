"""Augmentation of the discriminator's images, real and generated: DiffAugment and ADA, differentiable and on the device."""

from dataclasses import dataclass, fields
from typing import Literal

from gan_core.config import check, check_at_least


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Kind and strength of the augmentation."""

    kind: Literal["none", "diffaugment", "ada"] = "none"
    """diffaugment: colour, translation and cutout on every image (Zhao et al. 2020); ada: each transformation with a
    probability, the strength (Karras et al. 2020)."""
    strength: float | None = None
    """ada: fixed strength in [0, 1]; null: adapted to ``target``, starting from a value that depends on the dataset's size."""
    target: float = 0.6
    """ada: target of the overfitting measure r_t in [0, 1): the share of real images that the discriminator takes for real,
    minus the share that it takes for generated."""
    speed_kimg: float = 500.0
    """ada: thousands of real images over which the strength can rise from 0 to 1."""

    def __post_init__(self) -> None:
        check_at_least(self, 0, "strength", "target")
        check(self.strength is None or self.strength <= 1, f"strength: must lie in [0, 1], got {self.strength}.")
        check(self.target < 1, f"target: must lie in [0, 1), got {self.target}.")
        ada_defaults = {field.name: field.default for field in fields(self) if field.name != "kind"}
        changed = [name for name, default in ada_defaults.items() if getattr(self, name) != default]
        check(
            self.kind == "ada" or not changed,
            f"{', '.join(changed)}: only for kind ada, but kind is {self.kind}. Set kind to ada, or leave this out.",
        )
        check(
            self.strength is None or changed == ["strength"],
            "strength: a fixed strength excludes target and speed_kimg. Leave out strength, or leave out those.",
        )
        check(self.speed_kimg > 0, f"speed_kimg: must be above 0, got {self.speed_kimg}.")
