"""The plot of a search."""

import os
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from gan_core.data import user_cache_dir
from gan_core.files import replacing
from pipelines.settings.ranges import Range


def plot_search(table: pd.DataFrame, space: Mapping[str, Range], path: Path) -> None:
    """Scatter of the objective over each searched setting, coloured by how many steps a trial was given.

    A setting that is searched on a log scale is shown on one.
    """
    # Its list of fonts, which it otherwise keeps in two places of the home.
    os.environ.setdefault("MPLCONFIGDIR", str(user_cache_dir() / "matplotlib"))
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        1, max(len(space), 1), figsize=(4 * max(len(space), 1), 3.5), squeeze=False, sharey=True
    )
    for axis, (name, limits) in zip(axes[0], space.items(), strict=False):
        points = axis.scatter(table[name], table["fid"], c=table["step"], cmap="viridis", s=50)
        axis.scatter(
            table[name].iloc[:1], table["fid"].iloc[:1], s=180, facecolors="none", edgecolors="red", label="best"
        )
        if limits.type == "log":
            axis.set_xscale("log")
        axis.set_xlabel(name)
    axes[0][0].set_ylabel("FID")
    if space:
        axes[0][0].legend()
        figure.colorbar(points, ax=list(axes[0]), label="steps")
    else:
        axes[0][0].text(0.5, 0.5, "no search asked for", ha="center")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120, bbox_inches="tight")
    pyplot.close(figure)
