"""The section promote of params.yaml: the gates that a version must pass to become champion."""

from dataclasses import dataclass

from gan_core.config import check


@dataclass(frozen=True, kw_only=True)
class PromoteSettings:
    """The gates of ``gantry promote``. A gate that is on and cannot be judged, because a figure is missing, blocks."""

    better_objective: bool = True
    """Gate: the objective is better than the champion's under the same protocol."""
    beyond_noise_from: int | None = 2000
    """Gate: the objective is better by more than the noise, if both have at least this many generated pictures; null: off."""
    max_recall_drop: float | None = 0.05
    """Gate: the recall is at most this much below the champion's; null: off."""
    max_coverage_drop: float | None = 0.05
    """Gate: the coverage is at most this much below the champion's; null: off."""
    max_copied: float | None = 0.05
    """Gate: at most this share of the pictures copies training pictures, beyond what chance gives; null: off. The share is the
    lower end of the interval of ``memorisation`` minus its baseline."""
    max_rollbacks: int | None = 0
    """Gate: training collapsed or diverged, and was rolled back, at most this many times; null: off."""

    def __post_init__(self) -> None:
        for name in ("beyond_noise_from", "max_rollbacks"):
            value = getattr(self, name)
            check(value is None or value >= 0, f"{name}: must be 0 or more, or null (off), got {value}.")
        for name in ("max_recall_drop", "max_coverage_drop", "max_copied"):
            value = getattr(self, name)
            check(value is None or 0 <= value <= 1, f"{name}: must be 0 to 1, or null (off), got {value}.")


OBJECTIVE_ONLY = PromoteSettings(
    beyond_noise_from=None, max_recall_drop=None, max_coverage_drop=None, max_copied=None, max_rollbacks=None
)
"""Only the objective is gated."""
