"""Plot the results of a search."""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from gan_core.files import atomic_write
from pipelines.settings.ranges import Range


def plot_search(
    table: pd.DataFrame, space: Mapping[str, Range], path: Path, objective: str = "fid", *, diverged: float = math.inf
) -> None:
    """Write a PNG with one scatter plot for each searched setting: the objective against its values, coloured by steps.

    Settings with a range of type log have a log scale. Choices that are not all numbers have their names on the axis.

    Args:
        table: the leaderboard, best trial first, with the columns step, the objective and the searched names.
        space: the search ranges by dotted name; empty if there was no search.
        path: file to write.
        objective: figure that the search went by.
        diverged: FID that stands for a diverged trial. It is no measurement, and no other point could be told apart beside it.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    measured = table[objective].where(table[objective] < diverged)
    figure, axes = pyplot.subplots(
        1, max(len(space), 1), figsize=(4 * max(len(space), 1), 3.5), squeeze=False, sharey=True
    )
    for axis, (name, limits) in zip(axes[0], space.items(), strict=False):
        places = _places(table[name], limits)
        points = axis.scatter(places, measured, c=table["step"], cmap="viridis", s=50)
        axis.scatter(places[:1], measured.iloc[:1], s=180, facecolors="none", edgecolors="red", label="best")
        if limits.type == "log":
            axis.set_xscale("log")
        axis.set_xlabel(name)
    axes[0][0].set_ylabel("FID" if objective == "fid" else objective)
    if space:
        axes[0][0].legend()
        figure.colorbar(points, ax=list(axes[0]), label="steps")
    else:
        axes[0][0].text(0.5, 0.5, "no search", ha="center")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120, bbox_inches="tight")
    pyplot.close(figure)


def _places(values: Iterable[Any], limits: Range) -> list[Any]:
    """Where ``values`` lie on an axis: themselves if they are numbers, else their names as in params.yaml.

    matplotlib draws neither lists nor text beside other values, and leaves out null.
    """
    choices = limits.values or ()
    if all(isinstance(choice, (int, float)) and not isinstance(choice, bool) for choice in choices):
        return list(values)
    # In a column of numbers, pandas turns null into NaN and whole numbers into others.
    chosen = (next((choice for choice in choices if choice == value), None) for value in values)
    return [choice if isinstance(choice, str) else json.dumps(choice) for choice in chosen]
