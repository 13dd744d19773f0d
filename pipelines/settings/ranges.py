"""The search range of one setting."""

from dataclasses import dataclass
from typing import Any, Literal

from gan_core.config import check


@dataclass(frozen=True, kw_only=True)
class Range:
    """Values that a search tries for one setting."""

    type: Literal["log", "uniform", "integer", "choice"]
    """``log`` and ``uniform``: numbers from ``low`` to ``high``; ``integer``: whole numbers from ``low`` to ``high``, both
    included; ``choice``: one of ``values``."""
    low: float | None = None
    high: float | None = None
    values: tuple[Any, ...] | None = None

    def __post_init__(self) -> None:
        if self.type == "choice":
            check(bool(self.values), "values: a choice needs a list of values.")
            check(self.low is None and self.high is None, "low, high: a range of type choice has values instead.")
            return
        check(self.values is None, f"values: a range of type {self.type} has low and high instead.")
        check(self.low is not None and self.high is not None, f"low, high: a range of type {self.type} needs both.")
        check(self.low < self.high, f"low: must be below high ({self.high}), got {self.low}.")  # type: ignore[operator]
        if self.type == "integer":
            for name in ("low", "high"):
                end = getattr(self, name)
                check(end == int(end), f"{name}: must be a whole number in a range of type integer, got {end}.")
        check(self.type != "log" or self.low > 0, f"low: must be above 0 on a log scale, got {self.low}.")  # type: ignore[operator]

    def ends(self) -> tuple[Any, ...]:
        """The two ends of the range, or each of its choices. All other values lie between them."""
        if self.type == "choice":
            return self.values or ()
        if self.type == "integer":
            return int(self.low), int(self.high)  # type: ignore[arg-type]
        return self.low, self.high

    def contains(self, value: Any) -> bool:
        """Whether ``value`` lies in the range."""
        if self.type == "choice":
            return value in (self.values or ())
        return isinstance(value, (int, float)) and self.low <= value <= self.high  # type: ignore[operator]
