"""Connecting to MLflow: error messages, and the creation of databases."""

import contextlib
import os
import sqlite3
import subprocess
import sys

import pytest
import requests
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST

from gan_core.errors import SettingsError, TrackingError
from pipelines.registry.promote import promote, rollback
from pipelines.settings.tracking_uri import resolve_uri
from pipelines.tracking import find_run
from pipelines.tracking.store import (
    _is_unfinished,
    connect,
    ensure_database,
    ensure_experiment,
    error_summary,
    explain_server_errors,
    is_refusal,
)
from tests.pipelines.toy import wait_for
from tests.pipelines.tracking.database import copy_of

AWAY = "http://127.0.0.1:9"


@pytest.mark.parametrize(
    ("variable", "place"), [(None, "track.uri in params.yaml"), (AWAY, "GANTRY_TRACKING_URI in the environment")]
)
def test_an_unreachable_server_is_named_with_the_system_error_and_the_setting(monkeypatch, caplog, variable, place):
    monkeypatch.delenv("GANTRY_TRACKING_URI", raising=False)
    if variable:
        monkeypatch.setenv("GANTRY_TRACKING_URI", variable)
    with pytest.raises(TrackingError) as raised, explain_server_errors(AWAY):
        connect(AWAY).search_experiments()
    assert str(raised.value) == (
        f"The tracking server {AWAY} cannot be reached or failed: Connection refused. "
        f"Check {place} and that the server is running."
    )
    assert "Retrying" not in caplog.text


def test_a_database_that_refuses_connections_is_asked_once_without_mlflow(monkeypatch):
    monkeypatch.setattr("mlflow.MlflowClient", None)  # MLflow would retry for two minutes
    with (
        pytest.raises(TrackingError, match="port 9 failed: Connection refused"),
        explain_server_errors("postgresql://"),
    ):
        connect("postgresql://me@127.0.0.1:9/mlflow")


def test_a_long_message_is_truncated_between_words():
    message = error_summary(ValueError("word " * 100 + "\nmore"))
    assert len(message) <= 300
    assert message.endswith("word ...")
    assert error_summary(ValueError()) == "ValueError"


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(OSError, match="gone") as raised:
        (tmp_path / "gone").read_bytes()
    assert error_summary(raised.value) == f"No such file or directory: {tmp_path / 'gone'}"


def test_an_error_of_a_local_file_is_not_reported_as_a_server_error(tmp_path):
    with pytest.raises(FileNotFoundError), explain_server_errors(AWAY):
        (tmp_path / "gone").read_bytes()


def test_a_password_is_not_shown():
    with pytest.raises(TrackingError) as raised, explain_server_errors("http://me:s3cret@127.0.0.1:9"):
        connect("http://me:s3cret@127.0.0.1:9").search_experiments()
    assert "s3cret" not in str(raised.value)
    assert "http://127.0.0.1:9 " in str(raised.value)


def test_a_query_creates_no_database(tmp_path, monkeypatch):
    monkeypatch.delenv("GANTRY_TRACKING_URI", raising=False)
    uri = f"sqlite:///{tmp_path / 'var' / 'mlflow.db'}"
    for ask in (promote, rollback):
        with pytest.raises(
            TrackingError, match=r"The tracking database .*mlflow\.db does not exist\. Run the pipeline first"
        ):
            ask("digits", tracking_uri=uri)
    assert find_run(uri, "gantry", "key") is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a b#c'd%41e\"f", "a\nb", "x" * 200])
def test_a_database_is_created_in_a_folder_of_any_name(tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    (tmp_path / "figure.txt").write_text("1")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    client = connect(uri)
    run = client.create_run(ensure_experiment(client, uri, "digits"))
    client.log_artifact(run.info.run_id, str(tmp_path / "figure.txt"))
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["figure.txt"]
    assert [path for path in folder.rglob("figure.txt")] == [*(folder / "mlartifacts").rglob("figure.txt")]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "figure.txt"])


def test_a_question_mark_in_the_path_of_a_database_is_refused_with_the_path(tmp_path):
    with pytest.raises(SettingsError, match=r"/what\?/var/mlflow\.db, must not contain .*GANTRY_TRACKING_URI"):
        resolve_uri("sqlite:///var/mlflow.db", tmp_path / "what?")


def test_a_database_whose_creation_was_killed_is_created_again(tmp_path):
    """MLflow creates its tables one by one, and cannot open a database that has only some of them."""
    database = tmp_path / "mlflow.db"
    code = f"from pipelines.tracking.store import connect; connect('sqlite:///{database}')"
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    wait_for(lambda: any(path.stat().st_size for path in tmp_path.rglob("mlflow.db")), 90, "the first table")
    process.kill()
    process.wait()
    (left,) = tmp_path.glob(".mlflow.db.gantry-*")
    (left / "mlflow.db-journal").touch()  # left by a kill during a write
    os.utime(left, (0, 0))
    ensure_database(f"sqlite:///{database}")
    assert database.is_file()
    assert not left.exists()


def test_an_incomplete_database_is_created_again_once_it_is_old(tmp_path):
    database = tmp_path / "mlflow.db"
    with contextlib.closing(sqlite3.connect(database)) as half:
        half.execute("CREATE TABLE evaluation_datasets (x)")
        half.commit()
    assert not _is_unfinished(database), "a server may be making it"
    os.utime(database, (0, 0))
    assert connect(f"sqlite:///{database}").search_experiments()


def test_a_complete_database_is_never_created_again(database_template, tmp_path):
    uri = copy_of(database_template, tmp_path)
    connect(uri).create_experiment("kept")
    os.utime(tmp_path / "mlflow.db", (0, 0))
    assert connect(uri).get_experiment_by_name("kept")


def test_a_failing_database_gives_one_error_without_a_traceback(database_template, tmp_path, capfd):
    uri = copy_of(database_template, tmp_path)
    client = connect(uri)
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        database.execute("CREATE TRIGGER full BEFORE INSERT ON experiments BEGIN SELECT no_such_function(); END")
        database.commit()
    with pytest.raises(TrackingError, match="no such function"), explain_server_errors(uri):
        client.create_experiment("new")
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("message", "refused"),
    [
        ("(psycopg2.errors.StringDataRightTruncation) value too long for type character varying(250)", True),
        ("(pymysql.err.DataError) (1406, \"Data too long for column 'value' at row 1\")", True),
        ("(builtins.ValueError) A string literal cannot contain NUL (0x00) characters.", True),
        ("(psycopg2.InterfaceError) connection already closed", False),
        ("QueuePool limit of size 5 overflow 10 reached, connection timed out, timeout 30.00", False),
        ('(psycopg2.errors.UniqueViolation) duplicate key value violates unique constraint "dataset_pk"', False),
        ("(sqlite3.DatabaseError) database disk image is malformed", False),
    ],
)
def test_an_error_of_the_database_is_a_refusal_only_if_it_is_about_the_value(message, refused):
    """MLflow gives all of these the same code."""
    assert is_refusal(MlflowException(message, error_code=BAD_REQUEST)) is refused


@pytest.mark.parametrize(
    ("status", "text", "refused"),
    [
        (404, "404 page not found", False),
        (404, '{"error_code": "RESOURCE_DOES_NOT_EXIST"}', True),
        (413, "", True),
        (429, "", False),
    ],
)
def test_a_proxy_that_does_not_know_the_server_at_the_moment_refuses_nothing(status, text, refused):
    response = requests.Response()
    response.status_code, response._content = status, text.encode()
    assert is_refusal(requests.HTTPError("upload failed", response=response)) is refused
