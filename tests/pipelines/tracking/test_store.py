"""Connecting to MLflow: what an error says, and what a question leaves behind."""

import contextlib
import os
import sqlite3
import subprocess
import sys

import pytest

from gan_core.errors import SettingsError, TrackingError
from pipelines.registry.promote import promote, rollback
from pipelines.settings.tracking_uri import resolve_uri
from pipelines.tracking import find_run
from pipelines.tracking.store import _is_unfinished, connect, ensure_experiment, reaching, short
from tests.pipelines.toy import wait_for
from tests.pipelines.tracking.database import copy_of

AWAY = "http://127.0.0.1:9"


@pytest.mark.parametrize(
    ("variable", "place"), [(None, "track.uri in params.yaml"), (AWAY, "GANTRY_TRACKING_URI in the environment")]
)
def test_a_server_that_is_away_is_named_with_the_systems_own_words_and_where_to_change_it(
    monkeypatch, caplog, variable, place
):
    monkeypatch.delenv("GANTRY_TRACKING_URI", raising=False)
    if variable:
        monkeypatch.setenv("GANTRY_TRACKING_URI", variable)
    with pytest.raises(TrackingError) as raised, reaching(AWAY):
        connect(AWAY).search_experiments()
    assert str(raised.value) == (
        f"The tracking server {AWAY} cannot be reached or failed: Connection refused. "
        f"Check {place} and that the server runs."
    )
    assert "Retrying" not in caplog.text


def test_a_long_message_is_cut_between_words():
    told = short(ValueError("word " * 100 + "\nmore"))
    assert len(told) <= 300
    assert told.endswith("word ...")
    assert short(ValueError()) == "ValueError"


def test_a_file_that_is_missing_is_named(tmp_path):
    with pytest.raises(OSError, match="gone") as raised:
        (tmp_path / "gone").read_bytes()
    assert short(raised.value) == f"No such file or directory: {tmp_path / 'gone'}"


def test_a_trouble_with_a_file_here_is_not_blamed_on_the_server(tmp_path):
    with pytest.raises(FileNotFoundError), reaching(AWAY):
        (tmp_path / "gone").read_bytes()


def test_a_password_is_not_shown():
    with pytest.raises(TrackingError) as raised, reaching("http://me:s3cret@127.0.0.1:9"):
        connect("http://me:s3cret@127.0.0.1:9").search_experiments()
    assert "s3cret" not in str(raised.value)
    assert "http://127.0.0.1:9 " in str(raised.value)


def test_a_question_makes_no_database(tmp_path, monkeypatch):
    monkeypatch.delenv("GANTRY_TRACKING_URI", raising=False)
    uri = f"sqlite:///{tmp_path / 'var' / 'mlflow.db'}"
    for ask in (promote, rollback):
        with pytest.raises(TrackingError, match=r"no tracking database .*mlflow\.db yet\. Run the pipeline first"):
            ask("digits", tracking_uri=uri)
    assert find_run(uri, "gantry", "key") is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a b#c'd%41e\"f", "a\nb", "x" * 200])
def test_a_database_is_made_in_a_folder_of_any_name(tmp_path, name):
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
    with pytest.raises(SettingsError, match=r"cannot be at .*/what\?/var/mlflow\.db: .*GANTRY_TRACKING_URI"):
        resolve_uri("sqlite:///var/mlflow.db", tmp_path / "what?")


def test_a_database_whose_making_was_killed_is_made_again(tmp_path):
    """MLflow makes its tables one after the other, and never opens a database again that has some of them."""
    database = tmp_path / "mlflow.db"
    code = f"from pipelines.tracking.store import connect; connect('sqlite:///{database}')"
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    wait_for(lambda: any(path.stat().st_size for path in tmp_path.rglob("mlflow.db")), 90, "the first table")
    process.kill()
    process.wait()
    (left,) = tmp_path.glob(".mlflow.db.gantry-*")
    (left / "mlflow.db-journal").touch()  # where it was killed in the midst of a write
    os.utime(left, (0, 0))
    connect(f"sqlite:///{database}").search_experiments()
    assert database.is_file()
    assert not left.exists()


def test_a_database_that_was_left_half_made_is_made_again_once_nobody_can_be_at_it(tmp_path):
    database = tmp_path / "mlflow.db"
    with contextlib.closing(sqlite3.connect(database)) as half:
        half.execute("CREATE TABLE evaluation_datasets (x)")
        half.commit()
    assert not _is_unfinished(database), "a server may be making it"
    os.utime(database, (0, 0))
    assert connect(f"sqlite:///{database}").search_experiments()


def test_a_database_that_is_whole_is_never_made_again(template, tmp_path):
    uri = copy_of(template, tmp_path)
    connect(uri).create_experiment("kept")
    os.utime(tmp_path / "mlflow.db", (0, 0))
    assert connect(uri).get_experiment_by_name("kept")


def test_a_database_that_fails_is_one_error_without_a_traceback(template, tmp_path, capfd):
    uri = copy_of(template, tmp_path)
    client = connect(uri)
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        database.execute("CREATE TRIGGER full BEFORE INSERT ON experiments BEGIN SELECT no_such_function(); END")
        database.commit()
    with pytest.raises(TrackingError, match="no such function"), reaching(uri):
        client.create_experiment("new")
    assert "Traceback" not in capfd.readouterr().err
