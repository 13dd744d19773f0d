"""The section ``flow`` of params.yaml."""

import pytest

from gan_core.errors import SettingsError
from pipelines.settings.flow import FlowSettings, load_flow_settings


def test_a_missing_file_or_section_means_the_defaults(tmp_path):
    assert load_flow_settings(tmp_path / "params.yaml") == FlowSettings()
    (tmp_path / "params.yaml").write_text("train: {steps: 1}\n")
    assert load_flow_settings(tmp_path / "params.yaml") == FlowSettings()


def test_settings_are_read_with_their_types(tmp_path):
    (tmp_path / "params.yaml").write_text("flow: {retries: 2, retry_delay_s: 1, timeout_s: {train: 3600}}\n")
    assert load_flow_settings(tmp_path / "params.yaml") == FlowSettings(
        retries=2, retry_delay_s=1.0, timeout_s={"train": 3600.0}
    )


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("{retires: 1}", "Unknown setting 'flow.retires'. Did you mean 'retries'"),
        ("{retries: -1}", "flow.retries: must be 0 or more"),
        ("{timeout_s: {train: 0}}", "flow.timeout_s.train: must be above 0"),
        ("{retries: many}", "flow.retries: expected a whole number"),
    ],
)
def test_an_error_names_the_setting_and_the_file(tmp_path, section, message):
    (tmp_path / "params.yaml").write_text(f"flow: {section}\n")
    with pytest.raises(SettingsError, match=f"params.yaml: {message}"):
        load_flow_settings(tmp_path / "params.yaml")


def test_a_time_limit_of_an_unknown_stage_is_refused():
    settings = FlowSettings(timeout_s={"trian": 1.0})
    with pytest.raises(SettingsError, match=r"flow.timeout_s: unknown stage 'trian'. Did you mean 'train'"):
        settings.check_stages(["ingest", "train"])
    FlowSettings(timeout_s={"train": 1.0}).check_stages(["ingest", "train"])
