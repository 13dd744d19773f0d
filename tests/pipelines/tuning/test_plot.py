"""The plot of a search shows each setting on the scale that it was searched on."""

from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from pipelines.settings.ranges import Range
from pipelines.tuning.plot import plot_search

SPACE = {
    "train.generator_lr": Range(type="log", low=1e-4, high=1e-2),
    "model.cycle": Range(type="log", low=0.3, high=30),
    "model.fixed_lr": Range(type="uniform", low=0.0, high=1.0),
    "model.width": Range(type="choice", values=(8, 16)),
}


def test_settings_searched_on_a_log_scale_have_a_log_axis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its name."""
    from matplotlib.figure import Figure

    scales: dict[str, str] = {}
    save = Figure.savefig

    def look(figure: Figure, *arguments: object, **settings: object) -> None:
        scales.update({axis.get_xlabel(): axis.get_xscale() for axis in figure.axes if axis.get_xlabel()})
        save(figure, *arguments, **settings)

    monkeypatch.setattr(Figure, "savefig", look)
    values = {"train.generator_lr": [1e-3, 1e-4], "model.cycle": [1.0, 3.0], "model.fixed_lr": [0.5, 0.1]}
    table = pd.DataFrame({**values, "model.width": [8, 16], "fid": [10.0, 20.0], "step": [5, 9]})
    plot_search(table, SPACE, tmp_path / "search.png")
    assert scales == {
        "train.generator_lr": "log",
        "model.cycle": "log",
        "model.fixed_lr": "linear",
        "model.width": "linear",
    }
    assert Image.open(tmp_path / "search.png").format == "PNG"


def test_the_plot_says_if_there_was_no_search(tmp_path: Path) -> None:
    plot_search(pd.DataFrame({"trial": [], "fid": [], "step": []}), {}, tmp_path / "search.png")
    assert Image.open(tmp_path / "search.png").format == "PNG"


@pytest.mark.parametrize(
    ("choices", "names"),
    [
        ((False, "step", True), ["false", "step", "true"]),
        ((None, "zca"), ["null", "zca"]),
        ((None, 8), ["null", "8"]),
        (([1, 2], [1, 2, 4]), ["[1, 2]", "[1, 2, 4]"]),
    ],
)
def test_choices_that_are_not_all_numbers_are_named_on_the_axis(
    choices: tuple[object, ...], names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search that has taken hours would end without a result if they could not be drawn."""
    from matplotlib.figure import Figure

    drawn: list[str] = []
    save = Figure.savefig

    def look(figure: Figure, *arguments: object, **settings: object) -> None:
        save(figure, *arguments, **settings)
        drawn.extend(label.get_text() for label in figure.axes[0].get_xticklabels())

    monkeypatch.setattr(Figure, "savefig", look)
    count = range(len(choices))
    rows = [{"x": choice, "fid": 10.0 + number, "step": 9} for number, choice in zip(count, choices, strict=True)]
    space = {"x": Range(type="choice", values=choices)}
    plot_search(pd.DataFrame(rows), space, tmp_path / "search.png")
    assert drawn == names


def test_a_diverged_trial_does_not_hide_how_the_others_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The leaderboard has 1e6 for its FID."""
    from matplotlib.figure import Figure

    ends: list[float] = []
    save = Figure.savefig

    def look(figure: Figure, *arguments: object, **settings: object) -> None:
        save(figure, *arguments, **settings)
        ends.append(figure.axes[0].get_ylim()[1])

    monkeypatch.setattr(Figure, "savefig", look)
    space = {"train.generator_lr": Range(type="log", low=1e-4, high=1e-2)}
    table = pd.DataFrame({"train.generator_lr": [1e-3, 1e-4, 1e-2], "fid": [10.0, 20.0, 1e6], "step": [9, 9, 5]})
    plot_search(table, space, tmp_path / "search.png", diverged=1e6)
    assert 20 < ends[0] < 30
