"""Compare two things in pairs, measured in turn: what else the machine does meets both sides of a pair."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Paired:
    """What pairs of measurements say."""

    ratio: float
    """Median over the pairs of the second one's seconds over the first one's."""
    low: float
    high: float
    """Ends of the 95 % interval of that median; those of all pairs if there are fewer than six."""
    first: float
    second: float
    """Median seconds of each."""


def in_pairs(first: Callable[[], float], second: Callable[[], float], *, pairs: int) -> Paired:
    """Call two functions that return seconds, ``pairs`` times each. Each is as often the earlier one as the later."""
    taken: list[tuple[float, float]] = []
    for turn in range(pairs):
        if turn % 2:
            later = second()
            taken.append((first(), later))
        else:
            taken.append((first(), second()))
    ratios = [two / one for one, two in taken]
    low, high = median_interval(ratios)
    one, two = (statistics.median(seconds) for seconds in zip(*taken, strict=True))
    return Paired(ratio=statistics.median(ratios), low=low, high=high, first=one, second=two)


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of the median between two of the sorted ``values`` (the sign test), whatever their distribution."""
    ordered, n = sorted(values), len(values)
    outside, rank = 2 * 0.5**n, 0  # probability that the median is below ordered[rank] or above its counterpart
    while outside + 2 * math.comb(n, rank + 1) * 0.5**n <= 0.05:
        rank += 1
        outside += 2 * math.comb(n, rank) * 0.5**n
    return ordered[rank], ordered[n - 1 - rank]
