"""``gantry track`` lists waiting events and sends them."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient

from gan_core.errors import TrackingError
from pipelines.commands.track import track
from pipelines.tracking import RunLog, find_run


@pytest.fixture
def checkout(tmp_path, uri, monkeypatch):
    """A folder with params.yaml in which runs were logged and nothing was sent."""
    shutil.copyfile("params.yaml", tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GANTRY_TRACKING_URI", uri)
    with RunLog(Path("var/track"), key="a", name="train") as log:
        log.log_metrics({"m": 1.0, "bad?": 1.0}, step=1)
    return tmp_path


def status() -> list[dict]:
    return json.loads(CliRunner().invoke(track, ["status", "--json"], catch_exceptions=False).output)


def test_status_lists_waiting_events_and_sync_sends_them(checkout, uri):
    (row,) = status()
    assert (row["name"], row["status"], row["events"], row["waiting"], row["run_id"]) == (
        "train",
        "FINISHED",
        3,
        3,
        None,
    )
    told = CliRunner().invoke(track, ["sync", "--json"], catch_exceptions=False)
    assert json.loads(told.output)["sent"] == 3
    (row,) = status()
    assert (row["waiting"], row["refused"]) == (0, 1)
    assert row["run_id"] == find_run(uri, "gantry", "a").run_id
    assert "Nothing to send" in CliRunner().invoke(track, ["sync"], catch_exceptions=False).output
    assert "train" in CliRunner().invoke(track, ["status"], catch_exceptions=False).output


def test_what_a_restored_backup_of_the_database_lacks_is_sent_again(checkout, uri):
    database, sync = Path(uri.removeprefix("sqlite:///")), ["sync"]
    CliRunner().invoke(track, sync, catch_exceptions=False)
    backup = database.read_bytes()
    with RunLog(Path("var/track"), key="b", name="evaluate") as log:
        log.log_metrics({"fid": 12.5}, step=1)
    CliRunner().invoke(track, sync, catch_exceptions=False)
    database.write_bytes(backup)

    assert "Nothing to send" in CliRunner().invoke(track, sync, catch_exceptions=False).output
    assert "6 events sent" in CliRunner().invoke(track, [*sync, "--again"], catch_exceptions=False).output
    client = MlflowClient(uri)
    for key, metric in (("a", "m"), ("b", "fid")):
        assert len(client.get_metric_history(find_run(uri, "gantry", key).run_id, metric)) == 1
    assert [row["refused"] for row in status()] == [1, 0]


def test_sync_reports_an_unreachable_server(checkout, monkeypatch):
    monkeypatch.setenv("GANTRY_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(
        TrackingError, match=r"Cannot send the events.*Check GANTRY_TRACKING_URI.*then run: gantry track sync"
    ):
        CliRunner().invoke(track, ["sync", "--json"], catch_exceptions=False)


def test_logs_are_found_in_the_folder_that_the_environment_names(checkout, monkeypatch):
    monkeypatch.setenv("GANTRY_VAR", str(checkout / "elsewhere"))
    RunLog(checkout / "elsewhere" / "track", key="b", name="other").close()
    assert [row["name"] for row in status()] == ["other"]


def test_having_no_logs_is_not_an_error(tmp_path, monkeypatch):
    shutil.copyfile("params.yaml", tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)
    assert "No runs" in CliRunner().invoke(track, ["status"], catch_exceptions=False).output
    assert "Nothing to send" in CliRunner().invoke(track, ["sync"], catch_exceptions=False).output
