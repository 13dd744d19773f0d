"""What a client of the Prefect server may ask of a served pipeline."""

import pytest

from gan_core.errors import SettingsError, StageError
from pipelines.flow.submitted import OPEN_SECTIONS, Served, settle
from pipelines.settings.schema import Settings

SERVED = Served(revision="origin/main", overrides={"track.uri": "http://tracking:5000", "train.steps": 5})


def test_a_client_that_asks_for_nothing_gets_what_is_served():
    assert settle(SERVED, None, {}) == ("origin/main", {"track.uri": "http://tracking:5000", "train.steps": 5})


def test_what_the_owner_fixed_may_be_repeated_and_a_setting_of_training_changed():
    asked = {"track.uri": "http://tracking:5000", "train.steps": 7, "model.init": "he", "tune.space": "auto"}
    assert settle(SERVED, "v1.0", asked) == ("v1.0", {**SERVED.overrides, **asked})


@pytest.mark.parametrize("revision", ["HEAD~2", "feature/x-1", "main@{1}", "0d1e2f3", "v1^{commit}"])
def test_a_revision_by_name_is_taken(revision):
    assert settle(SERVED, revision, {})[0] == revision


@pytest.mark.parametrize(
    "revision",
    ["--upload-pack=touch /tmp/x", "-h", "", "a b", "HEAD:dvc.yaml", "/etc", "x;y", "a\nb", "$(id)", ":/fix"],
)
def test_a_revision_that_is_no_plain_name_is_refused(revision):
    with pytest.raises(StageError, match="cannot have the revision"):
        settle(SERVED, revision, {})


@pytest.mark.parametrize(
    "name",
    [
        "data.name",
        "ingest.max_reject_share",
        "track.uri",
        "track.experiment",
        "register.name",
        "flow.retries",
        "own",
        "",
    ],
)
def test_settings_of_other_sections_are_the_owners(name):
    with pytest.raises(SettingsError, match="cannot set"):
        settle(SERVED, None, {name: "x"})


@pytest.mark.parametrize(
    "value",
    [
        "/etc/passwd",
        "../up",
        "http://evil.example",
        "$(id)",
        "a b",
        "x;y",
        ["ok", "a/b"],
        {"type": "a/b"},
        {"a/b": 1},
        "",
        "..",
    ],
)
def test_a_value_that_could_be_a_path_an_address_or_a_command_is_refused(value):
    with pytest.raises(SettingsError, match=r"cannot set 'model\.init' to"):
        settle(SERVED, None, {"model.init": value})


def test_the_open_sections_are_sections_of_params_yaml():
    assert set(OPEN_SECTIONS) < set(Settings.__dataclass_fields__)
