"""Means of metrics over a window of steps."""

import time

import torch

from gan_core.families import Losses
from gan_core.training.metrics_window import MetricsWindow


def losses(**terms: float) -> Losses:
    return Losses(torch.zeros(()), {name: torch.tensor(value) for name, value in terms.items()})


def read(window: MetricsWindow) -> dict[str, float]:
    names, row = window.means()
    return dict(zip(names, row.tolist(), strict=True))


def test_a_metric_is_the_mean_over_the_updates_that_report_it() -> None:
    window = MetricsWindow()
    window.add(losses(often=1.0))
    window.add(losses(often=3.0, seldom=5.0))
    assert read(window) == {"often": 2.0, "seldom": 5.0}


def test_micro_batches_of_an_update_count_as_one() -> None:
    window = MetricsWindow()
    for value in (1.0, 3.0):
        window.add(losses(loss=value), pieces=2)
    window.add(losses(loss=8.0))
    assert read(window) == {"loss": 5.0}


def test_a_gauge_has_its_last_value() -> None:
    window = MetricsWindow()
    window.add(losses(loss=1.0))
    for value in (7.0, 9.0):
        window.gauge("strength", torch.tensor(value))
    assert read(window) == {"loss": 1.0, "strength": 9.0}


def test_start_resets_metrics_steps_and_time() -> None:
    window = MetricsWindow()
    window.steps = 4
    window.add(losses(loss=1.0))
    time.sleep(0.05)
    before = window.seconds()
    window.start()
    window.add(losses(other=2.0))
    assert (window.steps, read(window)) == (0, {"other": 2.0})
    assert window.seconds() < before


def test_paused_blocks_do_not_count_as_time() -> None:
    window = MetricsWindow()
    began = time.perf_counter()
    with window.paused():
        time.sleep(0.2)
    assert window.seconds() <= time.perf_counter() - began - 0.2
