"""Overrides change params.yaml as a user would, and every mistake in them is an error that names it."""

import os
import shutil
from pathlib import Path

import pytest
import yaml

from gan_core.errors import SettingsError
from pipelines.flow.overrides import apply_overrides, check_settings, parse_override
from pipelines.runtime.checkout import Checkout
from pipelines.runtime.code import TEMPLATE
from pipelines.settings.params import read_params
from pipelines.settings.schema import load_settings


def test_overrides_keep_comments_and_an_unknown_name_is_an_error(tmp_path):
    params = tmp_path / "params.yaml"
    params.write_text("train:\n  steps: 900  # updates\n  lr: 2.0e-4\n")
    apply_overrides(Checkout.at(tmp_path), {"train.steps": 10})
    assert yaml.safe_load(params.read_text()) == {"train": {"steps": 10, "lr": 2.0e-4}}
    assert "# updates" in params.read_text()
    for name, message in [
        ("train.stpes", "no setting 'train.stpes' in params.yaml. Did you mean 'steps'"),
        ("tarin.steps", "no setting 'tarin.steps' in params.yaml. Did you mean 'train'"),
        ("train.steps.more", "no setting 'train.steps.more'"),
        ("train", "'train' is a section of params.yaml. Set one of its settings: steps, lr"),
    ]:
        with pytest.raises(SettingsError, match=message):
            apply_overrides(Checkout.at(tmp_path), {name: 1})
    assert "steps: 10" in params.read_text()


def test_overrides_keep_quotes_and_add_those_that_a_text_needs(tmp_path: Path) -> None:
    params = tmp_path / "params.yaml"
    params.write_text("register:\n  name: '12:30'\n  intended_use: \"no\"\n  data_licence: x\n")
    apply_overrides(Checkout.at(tmp_path), dict([parse_override('register.data_licence="on"')]))
    assert read_params(params) == {"register": {"name": "12:30", "intended_use": "no", "data_licence": "on"}}


def test_a_setting_missing_in_params_yaml_may_be_overridden(tmp_path: Path) -> None:
    params, root = tmp_path / "params.yaml", Path(__file__).parents[3]
    shutil.copy(root / "dvc.yaml", tmp_path)
    shutil.copy(root / "params.yaml", params)
    assert "pairs" not in yaml.safe_load(params.read_text())["ingest"]
    apply_overrides(Checkout.at(tmp_path), {"ingest.pairs": "greyscale"})
    assert yaml.safe_load(params.read_text())["ingest"]["pairs"] == "greyscale"
    apply_overrides(Checkout.at(tmp_path), {"ingest.piars": "greyscale"})
    with pytest.raises(SettingsError, match=r"ingest.piars.*pairs"):
        check_settings(Checkout.at(tmp_path), {**os.environ, "PYTHONPATH": str(root)})


def test_a_setting_of_a_section_missing_in_params_yaml_may_be_overridden(tmp_path: Path) -> None:
    params, root = tmp_path / "params.yaml", Path(__file__).parents[3]
    shutil.copy(root / "dvc.yaml", tmp_path)
    shutil.copy(TEMPLATE / "params.yaml", params)
    wanted = {"flow.retries": 2, "train.augment.kind": "ada"}
    apply_overrides(Checkout.at(tmp_path), wanted)
    settings = load_settings(params)
    assert (settings.flow.retries, settings.train.augment.kind) == (2, "ada")
    apply_overrides(Checkout.at(tmp_path), {"tarin.steps": 5})
    with pytest.raises(SettingsError, match=r"'tarin'. Did you mean 'train'"):
        check_settings(Checkout.at(tmp_path), {**os.environ, "PYTHONPATH": str(root)})


def test_a_mapping_may_be_overridden_with_a_word(tmp_path: Path) -> None:
    params = tmp_path / "params.yaml"
    params.write_text("seconds: 1\ntune:\n  space:\n    model.slope: {type: uniform, low: 0.0, high: 0.4}\n")
    apply_overrides(Checkout.at(tmp_path), {"tune.space": "auto", "seconds": 2})
    assert yaml.safe_load(params.read_text()) == {"seconds": 2, "tune": {"space": "auto"}}


def test_an_override_changes_no_other_setting_that_shares_its_section(tmp_path: Path) -> None:
    params = tmp_path / "params.yaml"
    params.write_text(
        "train: &fast\n  steps: 9  # updates\n  lr: &rate 2.0e-4\n  optimizer: {betas: [0.0, 0.9], name: 'no'}\n"
        "tune: *fast\nother:\n  <<: *fast\n  warmup: *rate\n  minutes: 3\n"
    )
    before = read_params(params)
    changes = {"tune.steps": 1, "other.optimizer.name": "adam", "train.lr": 1.0, "other.minutes": 5}
    apply_overrides(Checkout.at(tmp_path), changes)
    before["tune"] = {**before["tune"], "steps": 1}
    before["other"] = {**before["other"], "optimizer": {"betas": [0.0, 0.9], "name": "adam"}, "minutes": 5}
    before["train"] = {**before["train"], "lr": 1.0}
    assert read_params(params) == before


def test_a_time_budget_and_a_number_of_steps_replace_each_other(tmp_path: Path) -> None:
    params, root = tmp_path / "params.yaml", Path(__file__).parents[3]
    shutil.copy(root / "dvc.yaml", tmp_path)
    shutil.copy(root / "params.yaml", params)

    def given(**overrides: float | None) -> tuple:
        apply_overrides(Checkout.at(tmp_path), {f"train.{name}": value for name, value in overrides.items()})
        train = yaml.safe_load(params.read_text())["train"]
        return train.get("steps"), train.get("minutes")

    assert given(minutes=None) == (3000, None)
    assert given(minutes=15) == (None, 15)
    assert given(steps=100) == (100, None)
    assert given(steps=100, minutes=15) == (100, 15), "both are given here: an error when the settings are checked"


def test_an_override_is_a_name_and_a_yaml_value():
    assert parse_override("train.steps=100") == ("train.steps", 100)
    assert parse_override("ingest.size=[64, 64]") == ("ingest.size", [64, 64])
    assert parse_override("track.uri=sqlite:///a=b") == ("track.uri", "sqlite:///a=b")
    with pytest.raises(SettingsError, match="Write NAME=VALUE"):
        parse_override("train.steps")
    with pytest.raises(SettingsError, match=r"--set train.seed: .*read 010 as different numbers"):
        parse_override("train.seed=010")
    with pytest.raises(SettingsError, match=r"--set data.name: .*2024-06-01 as a date"):
        parse_override("data.name=2024-06-01")
    with pytest.raises(SettingsError, match=r"--set tune: 'steps' appears twice"):
        parse_override("tune={steps: 1, steps: 2}")
