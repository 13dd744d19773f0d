"""Compare runs, versions and revisions: settings that differ, figures and whether the difference is real, and cost."""

from collections.abc import Sequence
from typing import Any

from gan_core.metrics.difference import beyond_noise, paired_difference
from gan_core.metrics.protocol import NEUTRAL, Figure
from pipelines.registry.compared import Side

BETTER, WORSE, NOISE, UNKNOWN, EQUAL = "better", "worse", "within noise", "no interval", "equal"
DIFFERENT = "different"
"""Of a figure that only describes."""


def compare(sides: Sequence[Side]) -> dict[str, Any]:
    """The comparison as plain values for JSON; each side is compared with the first.

    A run records other settings than params.yaml has, and each family has its own. Those that only some of the sides have
    are listed apart, in ``settings_of_some``.
    """
    told = [side.params for side in sides if side.params]
    everywhere = set.intersection(*map(set, told)) if told else set()
    settings = {
        name: [side.params.get(name) for side in sides]
        for name in sorted(everywhere)
        if len({params[name] for params in told}) > 1
    }
    titles = [*dict.fromkeys(title for side in sides for title in side.figures)]
    return {
        "compared": [{"name": side.name, "kind": side.kind, "missing": list(side.missing)} for side in sides],
        "settings": settings,
        "settings_of_some": sorted({name for params in told for name in params} - everywhere),
        "figures": {title: [_cell(side, sides[0], title) for side in sides] for title in titles},
        "cost": {
            name: [side.cost.get(name) for side in sides]
            for name in dict.fromkeys(n for side in sides for n in side.cost)
        },
    }


def _cell(side: Side, first: Side, title: str) -> dict[str, Any] | None:
    figure, other = side.figures.get(title), first.figures.get(title)
    if figure is None:
        return None
    cell: dict[str, Any] = {
        "value": figure.value,
        "low": figure.low,
        "high": figure.high,
        "stamp": figure.protocol.stamp,
    }
    if side is not first and other is not None:
        cell["against_first"], cell["because"] = judge(figure, other)
    return cell


def judge(figure: Figure, other: Figure) -> tuple[str, str]:
    """Whether ``figure`` is better than ``other``, and how that is known. Figures of different protocols are not compared."""
    gap = figure.protocol.differences(other.protocol)
    if gap:
        return "not comparable", f"different protocols ({'; '.join(gap)})"
    if figure.value == other.value:
        return EQUAL, "the same value"
    better = BETTER if (figure.value > other.value) == figure.higher_is_better else WORSE
    better = DIFFERENT if figure.name in NEUTRAL else better
    apart = beyond_noise(figure, other)
    if apart is None:
        return UNKNOWN, f"{better}, but without intervals nobody knows whether by chance"
    verdict = better if apart else NOISE
    if difference := paired_difference(figure, other):
        return verdict, (
            f"the difference is {difference.value:.4g}, 95 % interval {difference.low:.4g} to {difference.high:.4g}"
        )
    return verdict, f"the 95 % intervals {'do not ' if apart else ''}overlap"
