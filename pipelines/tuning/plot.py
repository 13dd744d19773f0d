"""Plot the results of a search."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from gan_core.files import atomic_write
from pipelines.settings.ranges import Range


def plot_search(table: pd.DataFrame, space: Mapping[str, Range], path: Path, objective: str = "fid") -> None:
    """Write a PNG with one scatter plot for each searched setting: the objective against its values, coloured by steps.

    Settings with a range of type log have a log scale.

    Args:
        table: the leaderboard, best trial first, with the columns step, the objective and the searched names.
        space: the search ranges by dotted name; empty if there was no search.
        path: file to write.
        objective: figure that the search went by.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        1, max(len(space), 1), figsize=(4 * max(len(space), 1), 3.5), squeeze=False, sharey=True
    )
    for axis, (name, limits) in zip(axes[0], space.items(), strict=False):
        points = axis.scatter(table[name], table[objective], c=table["step"], cmap="viridis", s=50)
        axis.scatter(
            table[name].iloc[:1], table[objective].iloc[:1], s=180, facecolors="none", edgecolors="red", label="best"
        )
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
