"""The figure that generators are chosen by: in a search, and when one is promoted."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from gan_core.errors import SettingsError
from gan_core.metrics.protocol import Figure

FID = "fid"
PATH_LENGTHS = ("ppl_z", "ppl_w")
OBJECTIVES = (
    *(FID, "kid", "fid_infinity", "precision", "recall", "density", "coverage", "inception_score", "memorisation"),
    *("class_agreement", "class_training", *PATH_LENGTHS, "l1", "psnr", "ssim", "cycle", "accuracy"),
)
"""Figures that can be the objective. Which of them are measured depends on the family and the data."""
_MEAN = "mean of "


def find_objective(figures: Sequence[Figure], name: str, omitted: Mapping[str, str] = MappingProxyType({})) -> Figure:
    """The figure ``name`` among all figures of a generator: its mean, if there is one for each direction.

    ``omitted``: the reason for each figure that could not be measured.

    Raises:
        SettingsError: it was not measured, or for several directions or classes without a mean; says what can be chosen.
    """
    named = [figure for figure in figures if figure.name == name]
    chosen = [figure for figure in named if figure.protocol.direction.startswith(_MEAN)] or named
    if len(chosen) == 1:
        return chosen[0]
    known = ", ".join(other for other in OBJECTIVES if any(figure.name == other for figure in figures))
    reason = f" ({omitted[name]})" if name in omitted else ""
    what = f"was not measured for this family and data{reason}" if not named else "has several values and no mean"
    raise SettingsError(f"evaluate.objective: '{name}' {what}. Choose one of {known}.")


def loss(figure: Figure) -> float:
    """The figure as a number that is lower for a better generator."""
    return -figure.value if figure.higher_is_better else figure.value
