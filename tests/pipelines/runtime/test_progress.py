"""Figures are printed with the digits that they need."""

from pipelines.runtime.progress import format_figure


def test_a_small_figure_is_not_printed_as_zero() -> None:
    shown = [format_figure(value) for value in (5.2e-5, -0.00046, 0.0, 0.0123, 23.456)]
    assert shown == ["5.2e-05", "-0.00046", "0.0000", "0.0123", "23.46"]
