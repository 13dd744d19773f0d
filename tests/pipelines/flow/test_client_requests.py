"""Requests of clients of the Prefect server to a served pipeline."""

import pytest

from gan_core.errors import SettingsError, StageError
from pipelines.flow.client_requests import OPEN_SECTIONS, ServedPipeline, resolve_request
from pipelines.settings.schema import Settings

SERVED = ServedPipeline(revision="origin/main", overrides={"track.uri": "http://tracking:5000", "train.steps": 5})
DEPLOYED = ServedPipeline(revision=None)


def test_a_request_without_parameters_runs_what_is_served():
    assert resolve_request(SERVED, None, {}) == ("origin/main", {"track.uri": "http://tracking:5000", "train.steps": 5})


def test_a_request_may_repeat_the_owners_values_and_change_training_settings():
    asked = {"track.uri": "http://tracking:5000", "train.steps": 7, "model.init": "he", "tune.space": "auto"}
    assert resolve_request(SERVED, "v1.0", asked) == ("v1.0", {**SERVED.overrides, **asked})


@pytest.mark.parametrize("revision", ["HEAD~2", "feature/x-1", "main@{1}", "0d1e2f3", "v1^{commit}"])
def test_a_plain_revision_is_accepted(revision):
    assert resolve_request(SERVED, revision, {})[0] == revision


@pytest.mark.parametrize(
    "revision",
    ["--upload-pack=touch /tmp/x", "-h", "", "a b", "HEAD:dvc.yaml", "/etc", "x;y", "a\nb", "$(id)", ":/fix"],
)
def test_a_revision_that_is_not_a_plain_name_is_rejected(revision):
    for served in (SERVED, DEPLOYED):
        with pytest.raises(StageError, match="cannot use the revision"):
            resolve_request(served, revision, {})


def test_a_run_of_a_deployment_must_name_its_revision():
    assert resolve_request(DEPLOYED, "v1.0", {}) == ("v1.0", {})
    with pytest.raises(StageError, match="cannot use the revision None"):
        resolve_request(DEPLOYED, None, {})


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
def test_settings_of_other_sections_are_rejected(name):
    with pytest.raises(
        SettingsError, match=r"cannot set .* or set it when you start the schedule \(gantry serve --set\)\."
    ):
        resolve_request(SERVED, None, {name: "x"})
    with pytest.raises(SettingsError, match=r"cannot set .* Commit it\.$"):
        resolve_request(DEPLOYED, "main", {name: "x"})


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
def test_a_value_that_could_be_a_path_an_address_or_a_command_is_rejected(value):
    with pytest.raises(SettingsError, match=r"cannot set 'model\.init' to"):
        resolve_request(SERVED, None, {"model.init": value})


def test_the_open_sections_are_sections_of_params_yaml():
    assert set(OPEN_SECTIONS) < set(Settings.__dataclass_fields__)
