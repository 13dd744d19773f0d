"""A checkout that was moved or copied finds its own files in MLflow, and only those."""

import logging
import shutil
from pathlib import Path

import pytest

from pipelines.tracking.store import connect, ensure_experiment
from tests.pipelines.tracking.database import copy_of


@pytest.fixture
def original(database_template: Path, tmp_path: Path) -> Path:
    """A folder with a database, and a run with a file."""
    folder = tmp_path / "birds of prey" / "var"  # places are URIs, in which a space is escaped
    folder.mkdir(parents=True)
    log(folder, copy_of(database_template, folder), "first")
    return folder


def log(folder: Path, uri: str, name: str) -> str:
    """Record a run with a file; returns the run's id."""
    client = connect(uri)
    run = client.create_run(ensure_experiment(client, uri, "gantry"), run_name=name).info.run_id
    client.log_text(run, name, "name.txt")
    return run


def uri_of(folder: Path) -> str:
    return f"sqlite:///{folder / 'mlflow.db'}"


def runs(folder: Path) -> dict[str, str]:
    """The place of each run's files, by the name of the run."""
    client = connect(uri_of(folder))
    found = client.search_runs([client.get_experiment_by_name("gantry").experiment_id])
    return {run.info.run_name: run.info.artifact_uri for run in found}


def test_a_moved_checkout_finds_its_files(original, tmp_path, caplog):
    moved = tmp_path / "raptors" / "var"
    original.parent.rename(moved.parent)
    log(moved, uri_of(moved), "second")
    assert all(place.startswith(f"{moved.as_uri()}/mlartifacts/gantry/") for place in runs(moved).values())
    assert {path.read_text() for path in moved.rglob("name.txt")} == {"first", "second"}
    assert not original.exists()
    assert caplog.text.count("was moved or copied from") == 1
    assert f"which MLflow now finds in {moved}/mlartifacts (runs and models: 1)" in caplog.text


def test_a_copy_does_not_write_into_the_original(original, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(original, copy)
    log(copy, uri_of(copy), "second")
    assert [path.read_text() for path in original.rglob("name.txt")] == ["first"]
    assert {path.read_text() for path in copy.rglob("name.txt")} == {"first", "second"}
    assert runs(original)["first"].startswith(original.as_uri())


def test_a_copy_of_the_database_alone_uses_the_files_where_they_are(original, tmp_path, caplog):
    """As of a backup that someone looks into."""
    backup = tmp_path / "backup"
    backup.mkdir()
    shutil.copyfile(original / "mlflow.db", backup / "mlflow.db")
    assert runs(backup)["first"].startswith(original.as_uri())
    assert not caplog.records


def test_files_that_were_not_copied_are_named_once_and_stay_in_use(original, tmp_path, caplog):
    copy = tmp_path / "copy"
    (copy / "mlartifacts").mkdir(parents=True)
    shutil.copyfile(original / "mlflow.db", copy / "mlflow.db")
    assert runs(copy)["first"].startswith(original.as_uri())
    runs(copy)
    (message,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert message.endswith(f"cp -an '{original}/mlartifacts'/. {copy}/mlartifacts")
    shutil.copytree(original / "mlartifacts", copy / "mlartifacts", dirs_exist_ok=True)
    assert runs(copy)["first"].startswith(copy.as_uri())


def test_another_path_to_the_same_folder_changes_nothing(original, tmp_path, caplog):
    link = tmp_path / "link"
    link.symlink_to(original)
    assert runs(link)["first"].startswith(original.as_uri())
    assert not caplog.records
