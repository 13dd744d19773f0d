"""The objective is found among the figures by its name."""

import dataclasses

import pytest

from gan_core.errors import SettingsError
from gan_core.metrics.objective import find_objective, loss
from gan_core.metrics.protocol import Figure
from tests.gan_core.metrics.test_protocol import PROTOCOL


def figure(name: str, value: float, direction: str = "", *, higher: bool = False) -> Figure:
    protocol = dataclasses.replace(PROTOCOL, metric=name, direction=direction)
    return Figure(name=name, value=value, protocol=protocol, generator_digest="f" * 64, higher_is_better=higher)


FIGURES = (
    figure("fid", 3.0, "mean of 2 directions"),
    figure("fid", 1.0, "a -> b"),
    figure("fid", 5.0, "b -> a"),
    figure("recall", 0.4, higher=True),
    figure("fid_class", 7.0, "cats"),
    *(figure("accuracy", value, f"to {value}") for value in (0.1, 0.2)),
)


def test_of_several_directions_the_mean_counts() -> None:
    assert find_objective(FIGURES, "fid").value == 3.0


def test_the_direction_of_improvement_is_that_of_the_figure() -> None:
    assert loss(find_objective(FIGURES, "recall")) == -0.4
    assert loss(find_objective(FIGURES, "fid")) == 3.0


def test_a_figure_that_was_not_measured_is_an_error_that_lists_those_that_were() -> None:
    with pytest.raises(
        SettingsError, match=r"'ppl_w' was not measured for this family and data. Choose one of fid, recall"
    ):
        find_objective(FIGURES, "ppl_w")


def test_several_values_without_a_mean_are_an_error() -> None:
    with pytest.raises(SettingsError, match="'accuracy' has several values and no mean"):
        find_objective(FIGURES, "accuracy")
