"""The cost of a training run is computed from its curves."""

import json

import pytest
import torch

from pipelines.training.cost import peak_memory_gib, training_cost


def curves(tmp_path, *rows):
    path = tmp_path / "curves.jsonl"
    names = ("step", "progress/kimg", "rate/images_per_second")
    path.write_text("".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows))
    return path


def test_device_time_is_that_of_the_steps_on_all_devices(tmp_path):
    found = training_cost(curves(tmp_path, (10, 1.0, 100.0), (20, 3.0, 200.0)), workers=2)
    assert found["cost/device_seconds"] == pytest.approx(2 * (10 + 10))
    assert found["cost/kimg"] == 3.0
    assert found["cost/images_per_second"] == pytest.approx(150)


def test_steps_that_a_resumed_run_repeated_count_once(tmp_path):
    found = training_cost(curves(tmp_path, (10, 1.0, 100.0), (20, 2.0, 1.0), (20, 2.0, 100.0)), workers=1)
    assert found["cost/device_seconds"] == pytest.approx(20)


def test_curves_without_rates_have_no_cost(tmp_path):
    assert training_cost(tmp_path / "curves.jsonl", workers=1) == {}


def test_the_peak_memory_of_a_process_covers_what_it_has_used():
    held = torch.ones(2**26)  # a quarter of a GiB
    assert peak_memory_gib(torch.device("cpu")) > held.nbytes / 2**30
