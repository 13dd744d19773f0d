"""A trial of a family that translates is measured as evaluation measures it."""

from pathlib import Path

import pytest

from gan_core.data import PreparedDataset
from gan_core.metrics.assess import assess
from pipelines.settings.schema import parse_settings
from pipelines.tuning.trial import OBJECTIVE, Trial, trial_extractor
from tests.gan_core.families.translations import SMALL, write_data
from tests.pipelines.settings_example import small_settings


@pytest.mark.weights
@pytest.mark.parametrize("variant", ["pix2pix", "cyclegan"])
def test_the_objective_is_the_mean_fid_of_the_directions(tmp_path: Path, monkeypatch, variant: str) -> None:
    plain = small_settings().as_dict()
    plain["ingest"]["kind"] = {"pix2pix": "paired", "cyclegan": "unpaired"}[variant]
    plain["model"] = {"family": variant, **SMALL[variant]}
    plain["tune"] |= {"steps": 2, "report_every": 2, "samples": 8, "features": 64, "space": "auto"}
    settings = parse_settings(plain)
    data = write_data(variant, tmp_path / "data")
    job = {
        "settings": settings.as_dict(),
        "data": str(data),
        "work": str(tmp_path),
        "decoded": str(tmp_path / "decoded"),
        "statistics": str(tmp_path / "statistics"),
        "track": str(tmp_path / "track"),
        "run_key": "key",
        "threads": 1,
    }
    monkeypatch.setattr(Trial, "trial_id", "search_1")
    monkeypatch.setattr("ray.tune.trainable.trainable.DEFAULT_STORAGE_PATH", str(tmp_path / "results"))
    values = {"train.generator_lr": 3e-4}
    trial = Trial({**values, "job": job})
    result = trial.step()
    assert (result["step"], result["done"]) == (2, True)
    assert trial._trainer.config.generator_lr == 3e-4
    measured = assess(
        trial._trainer,
        PreparedDataset(data, tmp_path / "decoded"),
        split="train",
        count=8,
        seed=settings.tune.seed,
        extractor=trial_extractor(settings),
        generator_digest="g",
    )
    assert measured.objective.value == pytest.approx(result[OBJECTIVE], rel=1e-3)
    fids = [figure for figure in measured.figures if figure.name == "fid"]
    assert len(fids) == {"pix2pix": 1, "cyclegan": 3}[variant]
    trial.cleanup()
