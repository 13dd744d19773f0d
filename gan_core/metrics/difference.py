"""The difference of two figures of the same protocol, with a 95 % interval from the same real pictures."""

import math
from dataclasses import dataclass

import numpy as np

from gan_core.metrics.intervals import GROUPS, student_t_quantile
from gan_core.metrics.protocol import Figure


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One figure minus another one, of the same protocol."""

    value: float
    low: float
    """Lower end of the 95 % confidence interval over the sampling of pictures."""
    high: float
    """Upper end."""

    @property
    def beyond_noise(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


def paired_difference(a: Figure, b: Figure) -> Difference | None:
    """``a`` minus ``b``, with the interval of a paired jackknife (delete-a-group, Quenouille 1956).

    Figures of one protocol compare the same real pictures, in the same ten groups. The interval is that of the differences
    without each group, so what a group of real pictures does to both figures cancels. It is therefore narrower than the
    intervals of the two figures suggest.

    Returns:
        None if the figures have different names or protocols, or one of them has no jackknife.
    """
    if a.name != b.name or not a.protocol.comparable(b.protocol):
        return None
    if len(a.jackknife) != GROUPS or len(b.jackknife) != GROUPS:
        return None
    without = np.subtract(a.jackknife, b.jackknife)
    reach = student_t_quantile(GROUPS - 1) * math.sqrt(
        (GROUPS - 1) / GROUPS * float(np.square(without - without.mean()).sum())
    )
    value = a.value - b.value
    return Difference(value=value, low=value - reach, high=value + reach)


def beyond_noise(a: Figure, b: Figure) -> bool | None:
    """Whether two figures of the same protocol differ by more than the noise.

    Decided by the paired difference, or without one by whether the 95 % intervals of the two are apart.

    Returns:
        None if a figure has no interval.
    """
    if difference := paired_difference(a, b):
        return difference.beyond_noise
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return None
    return a.low > b.high or a.high < b.low
