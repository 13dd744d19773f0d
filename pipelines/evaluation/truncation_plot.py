"""Plot figures of a generator against its truncation."""

from collections.abc import Sequence
from pathlib import Path

from gan_core.files import atomic_write
from gan_core.metrics.protocol import Figure

_PREFIX = "truncation "


def plot_truncations(figures: Sequence[Figure], path: Path) -> None:
    """Write a PNG with the FID and the recall against the truncation, with their 95 % intervals.

    Args:
        figures: whose direction is ``truncation T``; others are left out.
        path: file to write.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    chart, left = pyplot.subplots(figsize=(5, 3.2), layout="constrained")
    right = left.twinx()
    for axes, name, colour in ((left, "fid", "#c62828"), (right, "recall", "#3f51b5")):
        points = [
            (float(figure.protocol.direction.removeprefix(_PREFIX)), figure)
            for figure in figures
            if figure.name == name and figure.protocol.direction.startswith(_PREFIX)
        ]
        where, values = [one for one, _ in points], [figure.value for _, figure in points]
        ends = [
            [0.0 if end is None else abs(end - figure.value) for _, figure in points for end in [getattr(figure, side)]]
            for side in ("low", "high")
        ]
        axes.errorbar(where, values, yerr=ends, marker="o", markersize=4, capsize=3, color=colour)
        axes.set_ylabel("FID" if name == "fid" else name, color=colour)
    left.set_xlabel("truncation")
    left.grid(alpha=0.3)
    with atomic_write(path) as temporary:
        chart.savefig(temporary, format="png", dpi=120)
    pyplot.close(chart)
