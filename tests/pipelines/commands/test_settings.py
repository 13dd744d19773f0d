"""``gantry settings``: what a newcomer finds of the settings without reading code."""

import pytest
from click.testing import CliRunner, Result

from gan_core.errors import SettingsError
from gan_core.families import FAMILIES
from pipelines.commands.settings import settings
from tests.pipelines.settings_example import small_settings


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
    assert names(told("flow").output) == {"flow.retries", "flow.retry_delay_s", "flow.timeout_s"}
    assert told("train.batch").output.splitlines()[0] == "train.batch: 64"
    assert told("model.family").output.splitlines()[0] == "model.family: has to be given"


def test_what_there_is_not_is_named_with_what_is_near():
    for wrong, right in {"tran": "train", "train.bacth": "train.batch", "bigan": "biggan"}.items():
        error = told(wrong).exception
        assert isinstance(error, SettingsError)
        assert f"no section, setting or family '{wrong}'. Did you mean '{right}'" in str(error)
    assert "Those of a family: gantry settings FAMILY" in str(told("model.width").exception)
