"""Measured ratios, each within one run on one machine: ``make bench`` (see ``tests/bench/__main__.py``)."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table: a measured figure beside its target."""

    name: str
    ratio: float | None
    """The figure, or None where this machine cannot show it (the note says why)."""
    low: float | None = None
    high: float | None = None
    """Ends of its 95 % interval, where it was measured in pairs."""
    target: float | None
    unit: str = "x"
    note: str = ""
