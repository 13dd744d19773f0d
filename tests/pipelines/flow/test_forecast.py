"""A forecast takes the speed of an earlier run where there is one, and else says that it estimates."""

import os

import pytest
import torch

from gan_core.data import PreparedDataset
from pipelines.flow.forecast import forecast, measured_runs
from pipelines.tracking.runlog import RunLog
from pipelines.training.run_tags import device_name, run_tags
from tests.datasets import blobs, write_prepared
from tests.pipelines.settings_example import small_settings

CPU = torch.device("cpu")
SETTINGS = small_settings(train__steps=100, train__batch=16)
IMAGES = 100 * 16 * SETTINGS.train.discriminator_steps


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> PreparedDataset:
    return PreparedDataset(write_prepared(tmp_path_factory.mktemp("data"), blobs(64)))


def record(
    events, dataset, key: str, rates: list[float], *, threads: int = 2, workers: int = 1, family: str = "dcgan"
) -> None:
    """Write the event log of a training run."""
    with RunLog(events, key=key, name="train") as log:
        log.log_params({"model": {"family": family}})
        log.set_tags(run_tags(CPU, threads, workers, dataset))
        for step, rate in enumerate(rates):
            log.log_metrics({"rate/images_per_second": rate}, step)


def expect(events, dataset, **how):
    return forecast(SETTINGS, dataset, CPU, **{"threads": 2, "workers": 1, "events": events, **how})


def test_the_speed_of_the_latest_run_of_the_family_on_the_device_counts(tmp_path, dataset) -> None:
    record(tmp_path, dataset, "old", [50.0])
    os.utime(tmp_path / "old/events.jsonl", (1, 1))
    record(tmp_path, dataset, "new", [1.0, 100.0, 100.0, 100.0])
    record(tmp_path, dataset, "other-threads", [7.0], threads=3)
    record(tmp_path, dataset, "other-family", [7.0], family="r3gan")
    found = expect(tmp_path, dataset)
    assert (found.steps, found.seconds) == (100, pytest.approx(IMAGES / 100)), (
        "the first row, which includes the warm-up, does not count"
    )
    assert found.source.startswith("measured: 100.0 images/s in run new of dcgan at ")
    assert device_name(CPU, 2) in found.source


def test_another_number_of_workers_scales_the_speed_and_says_so(tmp_path, dataset) -> None:
    record(tmp_path, dataset, "run", [100.0])
    found = expect(tmp_path, dataset, workers=2)
    assert found.seconds == pytest.approx(IMAGES / 200)
    assert "scaled from 1 to 2 workers" in found.source


def test_a_budget_in_minutes_has_as_many_steps_as_the_measured_speed_allows(tmp_path, dataset) -> None:
    settings = SETTINGS.with_values({"train.minutes": 3})
    how = {"threads": 2, "workers": 1, "events": tmp_path, "elsewhere": True}
    assert forecast(settings, dataset, CPU, **how).steps is None, "no speed is known"
    record(tmp_path, dataset, "run", [100.0])
    found = forecast(settings, dataset, CPU, **{**how, "elsewhere": False})
    assert (found.steps, found.seconds) == (180 * 100 // (IMAGES // 100), 180)


def test_without_an_earlier_run_the_time_is_named_an_estimate(tmp_path, dataset) -> None:
    found = expect(tmp_path, dataset)
    assert found.source.startswith("estimate")
    assert found.seconds is not None
    assert 0 < found.seconds < 3600


def test_a_gpu_that_is_not_here_has_no_estimate(tmp_path, dataset) -> None:
    record(tmp_path, dataset, "run", [100.0])
    assert expect(tmp_path, dataset, elsewhere=True).seconds is None


def test_a_run_without_a_measured_speed_is_left_out(tmp_path, dataset) -> None:
    record(tmp_path, dataset, "run", [])
    assert not list(measured_runs(tmp_path))


def test_a_checkpoint_has_the_size_that_the_trainer_writes(tmp_path, dataset) -> None:
    from gan_core.training.trainer import Trainer

    settings = SETTINGS.with_values({"train.steps": 2, "train.checkpoint_every": 2})
    trainer = Trainer(
        settings.model.family,
        settings.model.config,
        dataset,
        settings.train.trainer_config(),
        tmp_path / "run",
        device="cpu",
    )
    trainer.run()
    written = max((tmp_path / "run").glob("step-*"))
    size = sum(path.stat().st_size for path in written.rglob("*"))
    assert expect(tmp_path, dataset).checkpoint == pytest.approx(size, rel=0.1)
