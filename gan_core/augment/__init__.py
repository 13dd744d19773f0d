"""Augmentation of what the discriminator sees, real and generated images alike: differentiable, on the device."""

from dataclasses import dataclass, fields
from typing import Literal

from gan_core.config import check, check_at_least


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Which augmentation, and how strong."""

    kind: Literal["none", "diffaugment", "ada"] = "none"
    """diffaugment: colour, translation and cutout, always (Zhao et al. 2020); ada: each transformation with a
    probability, the strength (Karras et al. 2020)."""
    strength: float | None = None
    """ada: a fixed strength in [0, 1]; null: steered by ``target``, starting from the size of the data set."""
    target: float = 0.6
    """ada: the mean sign of what the discriminator gives for real images that the strength is steered to."""
    speed_kimg: float = 500.0
    """ada: thousand real images in which the strength can rise from 0 to 1."""

    def __post_init__(self) -> None:
        check_at_least(self, 0, "strength", "target")
        check(self.strength is None or self.strength <= 1, f"strength: must lie in [0, 1], got {self.strength}.")
        check(self.target < 1, f"target: must lie in [0, 1), got {self.target}.")
        of_ada = {field.name: field.default for field in fields(self) if field.name != "kind"}
        changed = [name for name, default in of_ada.items() if getattr(self, name) != default]
        check(self.kind == "ada" or not changed, f"{', '.join(changed)}: of ada only, and kind is {self.kind}.")
        steers = self.strength is None or changed == ["strength"]
        check(steers, "strength: a fixed one is steered by no target and no speed_kimg; leave it out, or those.")
        check(self.speed_kimg > 0, f"speed_kimg: must be above 0, got {self.speed_kimg}.")
