"""``gantry settings``: what a newcomer finds of the settings without reading code."""

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from gan_core.errors import SettingsError
from gan_core.families import FAMILIES
from pipelines.commands.settings import settings
from tests.datasets import blobs, write_prepared
from tests.pipelines.settings_example import ROOT, small_settings


def told(*words: str) -> Result:
    return CliRunner().invoke(settings, [*words])


def names(output: str) -> set[str]:
    """The settings that are listed; each has to have a meaning below it."""
    lines = output.split("\n\n")[0].splitlines()
    found = {line.partition(":")[0] for line in lines if not line.startswith(" ")}
    bare = [line for line, below in zip(lines, [*lines[1:], ""], strict=True) if line[0] != " " and below[:1] != " "]
    assert not bare, "these say not what they mean"
    return found


def test_every_setting_is_listed_with_its_meaning():
    listed = names(told().output)
    values = small_settings().as_dict()
    sections = {f"{section}.{name}" for section, values in values.items() if section != "model" for name in values}
    expected = sections - {"train.augment"} | {f"train.augment.{name}" for name in values["train"]["augment"]}
    assert listed == expected | {"model.family", "model.preset"}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_setting_of_a_family_is_listed_with_its_meaning(family: str) -> None:
    assert {f"model.{name}" for name in vars(FAMILIES[family].Config())} == names(told(family).output)


def test_a_section_or_one_setting():
    assert names(told("flow").output) == {
        "flow.retries",
        "flow.retry_delay_s",
        "flow.timeout_s",
        "flow.max_takeovers",
        "flow.push_experiments",
        "flow.train_above",
        "flow.notify",
    }
    assert told("train.batch").output.splitlines()[0] == "train.batch: 64"
    assert told("model.family").output.splitlines()[0] == "model.family: required"


def test_an_unknown_name_is_an_error_with_the_nearest_name():
    for wrong, right in {"tran": "train", "train.bacth": "train.batch", "bigan": "biggan"}.items():
        error = told(wrong).exception
        assert isinstance(error, SettingsError)
        assert f"no section, setting or family '{wrong}'. Did you mean '{right}'" in str(error)
    assert "For the settings of a family: gantry settings FAMILY" in str(told("model.width").exception)


def differing(project: Path, monkeypatch: pytest.MonkeyPatch, **values: object) -> dict[str, dict]:
    """What --diff lists for the project's params.yaml with ``values`` by dotted name (dots as double underscores)."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    for name, value in values.items():
        section, _, key = name.partition("__")
        params[section][key] = value
    (project / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    monkeypatch.chdir(project)
    return {found["name"]: found for found in json.loads(told("--diff", "--json").output)}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    write_prepared(tmp_path / "data" / "prepared", blobs(64))
    return tmp_path


def test_diff_lists_what_departs_from_the_recipe_with_its_reason(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = differing(project, monkeypatch, train__generator_lr=5e-4, train__seed=9, train__log_every=1)
    assert (found["train.generator_lr"]["value"], found["train.generator_lr"]["recipe"]) == (5e-4, 2e-4)
    assert found["model.width"]["recipe"] == 48
    assert "on a CPU" in found["model.width"]["reason"]
    assert found["train.augment"]["recipe"]["kind"] == "diffaugment"
    assert not {"train.seed", "train.steps", "train.log_every"} & set(found), "no recipe says anything of these"


def test_diff_lists_no_setting_that_auto_chooses(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = yaml.safe_load((ROOT / "pipelines" / "template" / "params.yaml").read_text(encoding="utf-8"))
    (project / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    monkeypatch.chdir(project)
    assert told("--diff").output == "Nothing departs from the recipe of dcgan.\n"


def test_diff_lists_changed_ranges_of_the_search(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = {"model.slope": {"type": "uniform", "low": 0.0, "high": 0.3}}
    found = differing(project, monkeypatch, tune__space=space)
    assert found["tune.space.model.slope"]["value"]["high"] == 0.3
    assert found["tune.space.train.generator_lr"]["value"] is None


def test_diff_without_prepared_data_says_that_it_compares_with_the_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert differing(tmp_path, monkeypatch)["model.width"]["reason"] == "the default"
    assert "compared with the defaults, not with the recipe" in told("--diff").output


def test_json_without_diff_is_wrong_usage() -> None:
    assert told("--json").exit_code == 2
