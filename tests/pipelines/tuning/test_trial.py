"""A trial starts as training does, and is measured as evaluation measures."""

import dataclasses
from contextlib import ExitStack, nullcontext
from pathlib import Path

import pytest
import torch
from ray import tune

from gan_core.data import PreparedDataset
from gan_core.metrics import samples
from gan_core.metrics.assess import assess
from gan_core.training.start import open_start
from gan_core.training.trainer import Trainer
from pipelines.runtime.code import code_versions
from pipelines.settings.schema import Settings, parse_settings
from pipelines.tracking import RunLog
from pipelines.tracking.events import read_events
from pipelines.tracking.facts import read_facts
from pipelines.tuning.places import TrialsOnDisk
from pipelines.tuning.trial import LOSS, VALUE, Trial, TrialJob, trial_extractor
from tests.datasets import blobs, write_prepared
from tests.gan_core.families.translations import SMALL, write_data
from tests.gan_core.training.runs import final
from tests.pipelines.settings_example import small_settings


@pytest.mark.weights
def test_a_trial_starts_from_the_run_that_training_starts_from_and_a_lost_one_goes_on_with_the_same_bytes(
    tmp_path: Path, monkeypatch
) -> None:
    settings = small_settings(
        train__start_from="blobs@champion",
        train__warm_up_kimg=0.1,
        train__freeze_discriminator=1,
        tune__steps=4,
        tune__report_every=2,
        tune__samples=8,
        tune__features=64,
        tune__space={"train.generator_lr": {"type": "log", "low": 1e-4, "high": 1e-3}},
    )
    data = PreparedDataset(write_prepared(tmp_path / "data", blobs(32)), tmp_path / "decoded")
    config = dataclasses.replace(settings.train.trainer_config(), start_from=None, freeze_discriminator=0, steps=2)
    parent = Trainer("dcgan", settings.model.config, data, config, tmp_path / "run")
    parent.run()
    parent.export_start(tmp_path / "start")
    start = open_start(tmp_path / "start", "blobs/3")
    place = TrialsOnDisk(
        work=str(tmp_path),
        data=str(tmp_path / "data"),
        events=str(tmp_path / "track"),
        decoded=str(tmp_path / "decoded"),
        statistics=str(tmp_path / "statistics"),
        start=str(tmp_path / "start"),
    )
    job = TrialJob(
        settings=settings.as_dict(), place=place, run_key="key", versions=code_versions("tune"), start=start.record
    )
    monkeypatch.setattr("ray.tune.trainable.trainable.DEFAULT_STORAGE_PATH", str(tmp_path / "results"))

    def begin(name: str) -> Trial:
        monkeypatch.setattr(Trial, "trial_id", f"search_{name}")
        return tune.with_parameters(Trial, job=job)({"train.generator_lr": 3e-4})

    whole = begin("whole")
    first = whole._trainer.family.networks["discriminator"].state_dict()
    before = parent.family.networks["discriminator"].state_dict()
    assert all(torch.equal(first[name], before[name]) for name in before)
    assert whole.step()["step"] == 2
    assert whole._trainer.optimisers["generator"].lr == pytest.approx(3e-4 * 2 * settings.train.batch / 100)
    assert torch.equal(first["layers.0.weight"], before["layers.0.weight"]), "this layer is frozen"
    whole.save_checkpoint(str(tmp_path / "saved"))
    assert whole.step()["done"]
    tags = read_facts(whole._log.folder).tags
    assert (tags["gantry.parent"], tags["gantry.parent_digest"]) == ("blobs/3", start.digest)
    whole.cleanup()

    lost = begin("lost")
    lost.load_checkpoint(str(tmp_path / "saved"))
    assert lost.step()["done"]
    assert final(tmp_path / "trials" / "search_lost") == final(tmp_path / "trials" / "search_whole")
    lost.cleanup()


def started(
    tmp_path: Path, monkeypatch, variant: str, objective: str = "fid", path_samples: int = 0
) -> tuple[Trial, Settings, Path]:
    """A trial of two steps, its settings, and its data."""
    plain = small_settings().as_dict()
    if variant != "dcgan":
        plain["ingest"]["kind"] = {"pix2pix": "paired", "cyclegan": "unpaired"}[variant]
        plain["model"] = {"family": variant, **SMALL[variant]}
    plain["tune"] |= {"steps": 2, "report_every": 2, "samples": 8, "features": 64, "space": "auto"}
    plain["evaluate"] |= {"objective": objective, "path_samples": path_samples}
    settings = parse_settings(plain)
    data = (
        write_prepared(tmp_path / "data", blobs(32)) if variant == "dcgan" else write_data(variant, tmp_path / "data")
    )
    place = TrialsOnDisk(
        work=str(tmp_path),
        data=str(data),
        events=str(tmp_path / "track"),
        decoded=str(tmp_path / "decoded"),
        statistics=str(tmp_path / "statistics"),
    )
    job = TrialJob(settings=settings.as_dict(), place=place, run_key="key", versions=code_versions("tune"))
    monkeypatch.setattr(Trial, "trial_id", "search_1")
    monkeypatch.setattr("ray.tune.trainable.trainable.DEFAULT_STORAGE_PATH", str(tmp_path / "results"))
    values = {"train.generator_lr": 3e-4}
    return tune.with_parameters(Trial, job=job)(values), settings, data


@pytest.mark.weights
@pytest.mark.parametrize("variant", ["pix2pix", "cyclegan"])
def test_the_objective_is_the_mean_fid_of_the_directions(tmp_path: Path, monkeypatch, variant: str) -> None:
    trial, settings, data = started(tmp_path, monkeypatch, variant)
    result = trial.step()
    assert (result["step"], result["done"]) == (2, True)
    assert trial._trainer.config.generator_lr == 3e-4
    measured = assess(
        trial._trainer.generator,
        PreparedDataset(data, tmp_path / "decoded"),
        split="train",
        count=8,
        seed=settings.tune.seed,
        extractor=trial_extractor(settings),
        generator_digest="g",
    )
    assert measured.objective.value == pytest.approx(result[VALUE], rel=1e-3)
    assert result[LOSS] == result[VALUE], "a lower FID is better"
    fids = [figure for figure in measured.figures if figure.name == "fid"]
    assert len(fids) == {"pix2pix": 1, "cyclegan": 3}[variant]
    trial.cleanup()


@pytest.mark.weights
def test_an_objective_of_which_more_is_better_is_maximised(tmp_path: Path, monkeypatch) -> None:
    """Tune minimises the loss. The FID is recorded as well."""
    trial, settings, _ = started(tmp_path, monkeypatch, "pix2pix", objective="psnr")
    result = trial.step()
    assert result[VALUE] > 0
    assert result[LOSS] == -result[VALUE]
    kimg = 2 * settings.train.batch / 1000
    assert read_facts(trial._log.folder).metrics == {"psnr": result[VALUE], "fid": result["fid"], "kimg": kimg}
    steps = [event["image"][1] for event, _ in read_events(trial._log.folder) if event and "image" in event]
    assert steps == [0, 2], "MLflow's chart view opens at step 0"
    trial.cleanup()


@pytest.mark.weights
def test_a_path_length_as_objective_is_measured_in_fp32(tmp_path: Path, monkeypatch) -> None:
    """Elsewhere the features of a search are bf16, in which a step of a path is lost.

    The number of steps is tune.samples: the stage does not depend on evaluate.path_samples.
    """
    monkeypatch.setattr("pipelines.tuning.trial.has_bf16", lambda device: True)
    counts = []
    measure = samples.path_lengths
    monkeypatch.setattr(samples, "path_lengths", lambda *of, **how: counts.append(of[1]) or measure(*of, **how))
    trial, settings, _ = started(tmp_path, monkeypatch, "dcgan", objective="ppl_z", path_samples=4)
    assert trial_extractor(small_settings(tune__features=64)).precision == "bf16"
    assert trial_extractor(settings).precision == "fp32"
    result = trial.step()
    assert result[LOSS] == result[VALUE] > 0
    assert counts == [settings.tune.samples]
    trial.cleanup()


@pytest.mark.parametrize(("fails", "status"), [(False, "FINISHED"), (True, "FAILED")])
def test_the_run_of_a_trial_that_fails_is_marked_so(tmp_path: Path, monkeypatch, fails: bool, status: str) -> None:
    """Tune stops a trial after an error in the same way as after its last measurement."""
    trial = object.__new__(Trial)
    trial._failed, trial._open = False, ExitStack()
    trial._log = RunLog(tmp_path, key="trial", name="trial")
    monkeypatch.setattr(Trial, "_step", lambda self: 1 / 0 if fails else {})
    with pytest.raises(ZeroDivisionError) if fails else nullcontext():
        trial.step()
    trial.cleanup()
    last = [event for event, _ in read_events(tmp_path / "trial")][-1]
    assert last
    assert (last["kind"], last["status"]) == ("finish", status)
