"""params.yaml is typed and checked whole; an error names the key and the nearest valid one."""

from pathlib import Path

import pytest
import yaml

from gan_core.errors import SettingsError
from pipelines.settings import load_settings
from tests.pipelines.settings_example import ROOT


def changed(tmp_path: Path, **values: object) -> Path:
    """A params.yaml with sections updated by ``values``."""
    plain = yaml.safe_load((ROOT / "params.yaml").read_text())
    for section, update in values.items():
        plain[section] = {**plain.get(section, {}), **update} if isinstance(update, dict) else update
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(plain))
    return path


def test_the_projects_own_settings_are_valid() -> None:
    settings = load_settings(ROOT / "params.yaml")
    assert settings.model.family == "dcgan"
    assert settings.train.workers == (1, 1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train": {"setps": 3}}, r"Unknown setting 'train.setps'. Did you mean 'steps'\?"),
        ({"model": {"widht": 3}}, r"Unknown setting 'model.widht'. Did you mean 'width'\?"),
        ({"model": {"family": "dcgam"}}, r"there is no family 'dcgam'. Did you mean 'dcgan'\?"),
        ({"trian": {}}, r"Unknown setting 'trian'. Did you mean 'train'\?"),
        ({"train": {"batch": "many"}}, r"train.batch: expected a whole number, got 'many'"),
        ({"train": {"generator_lr": -1}}, r"train.generator_lr: must be above 0"),
        ({"train": {"num_workers": [3, 1]}}, r"train.num_workers: must be at least 1 and rise"),
        ({"tune": {"space": {"train.lr": {"type": "log", "low": 1, "high": 2}}}}, r"no setting 'train.lr' to search"),
        ({"tune": {"space": {"model.slope": {"type": "log", "low": 0, "high": 2}}}}, r"above 0 on a log scale"),
        ({"tune": {"features": 100}}, r"tune.features: must be 64, 192, 768 or 2048"),
        ({"evaluate": {"samples": 1}}, r"evaluate.samples: must be at least 2"),
        ({"data": {"name": "../elsewhere"}}, r"data.name: .* is not a plain folder name"),
    ],
)
def test_an_impossible_setting_is_named_with_its_file(tmp_path: Path, values: dict, message: str) -> None:
    path = changed(tmp_path, **values)
    with pytest.raises(SettingsError, match=message) as error:
        load_settings(path)
    assert str(path) in str(error.value)


def test_without_params_the_error_says_where_to_run(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="root of a Gantry checkout"):
        load_settings(tmp_path / "params.yaml")


def test_a_pair_of_workers_is_elastic(tmp_path: Path) -> None:
    assert load_settings(changed(tmp_path, train={"num_workers": [1, 4]})).train.workers == (1, 4)


def test_a_relative_store_counts_from_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = changed(tmp_path)
    monkeypatch.chdir("/")
    assert load_settings(path).track.uri == f"sqlite:///{tmp_path}/var/mlflow.db"
    monkeypatch.setenv("GANTRY_TRACKING_URI", "http://server:5000")
    assert load_settings(path).track.uri == "http://server:5000"


def test_values_by_dotted_name_are_checked_again() -> None:
    settings = load_settings(ROOT / "params.yaml")
    assert settings.with_values({"train.generator_lr": 1e-3, "model.slope": 0.1}).model.config.slope == 0.1
    with pytest.raises(SettingsError, match="model.slope"):
        settings.with_values({"model.slope": 2.0})
