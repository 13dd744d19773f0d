"""A damaged database is reported with its path and the remedy before it is used."""

import contextlib
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException

from gan_core.errors import TrackingError
from pipelines.flow.server import connect_prefect
from pipelines.runtime.checkout import Checkout
from pipelines.tracking import sync
from pipelines.tracking.runlog import RunLog
from pipelines.tracking.sqlite_file import check_database
from pipelines.tracking.store import connect, explain_server_errors, find_run

RANDOM = bytes(range(256)) * 64


def checked(path: Path) -> None:
    check_database(path, title="tracking database", contents="the earlier runs")


def damage(path: Path, how: str) -> None:
    """Replace a database with something that is not a database."""
    if how == "random":
        path.write_bytes(RANDOM)
    elif how == "truncated":
        path.write_bytes(path.read_bytes()[:5000])
    else:
        path.unlink()
        path.mkdir()


@pytest.mark.parametrize("how", ["random", "truncated", "folder"])
def test_every_access_to_a_damaged_database_names_the_file_and_the_remedy(database_template, tmp_path, how):
    path = tmp_path / "mlflow.db"
    shutil.copyfile(database_template, path)
    damage(path, how)
    uri, track = f"sqlite:///{path}", tmp_path / "track"
    with RunLog(track, key="k", name="n"):
        pass
    named = f"tracking database {re.escape(str(path))} is .*(Move it away|mv .*mlflow.db.damaged)"
    with pytest.raises(TrackingError, match=named):
        checked(path)
    with pytest.raises(TrackingError, match=named):
        connect(uri)
    with pytest.raises(TrackingError, match=f"mlflow.db is {'a folder' if how == 'folder' else 'damaged'}"):
        sync(track, tracking_uri=uri, experiment="e")
    if how != "folder":
        with pytest.raises(TrackingError, match=named):
            find_run(uri, "e", "k")


def test_damage_found_during_use_names_the_file(tmp_path):
    error = MlflowException("(sqlite3.DatabaseError) database disk image is malformed")
    named = r"mlflow.db is damaged \(.*malformed\).*\.recover.*mlflow.db.damaged"
    with pytest.raises(TrackingError, match=named), explain_server_errors(f"sqlite:///{tmp_path / 'mlflow.db'}"):
        raise error


def test_a_valid_a_missing_and_an_empty_database_are_accepted(database_template, tmp_path):
    checked(database_template)
    checked(tmp_path / "absent.db")
    (tmp_path / "empty.db").touch()
    checked(tmp_path / "empty.db")
    connect(f"sqlite:///{tmp_path / 'empty.db'}").search_experiments()


def test_a_locked_database_is_not_damaged(database_template, tmp_path):
    path = tmp_path / "mlflow.db"
    shutil.copyfile(database_template, path)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        checked(path)


def test_the_check_leaves_the_locks_of_a_transaction_of_this_process(database_template, tmp_path):
    """Otherwise another process could write at the same time, which destroys the database."""
    path = tmp_path / "mlflow.db"
    shutil.copyfile(database_template, path)
    writes = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('BEGIN IMMEDIATE')"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        checked(path)
        other = subprocess.run([sys.executable, "-c", writes, str(path)], capture_output=True, text=True)
    assert "database is locked" in other.stderr


@pytest.mark.parametrize("how", ["random", "folder"])
def test_the_database_of_prefect_is_checked_before_its_server_starts(tmp_path, monkeypatch, how):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.delenv("GANTRY_VAR", raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    path = tmp_path / "prefect/prefect.db"
    path.parent.mkdir()
    path.touch()
    damage(path, how)
    with (
        pytest.raises(TrackingError, match=f"Prefect database {re.escape(str(path))} is"),
        connect_prefect(Checkout.at(tmp_path)),
    ):
        pass
    assert not (tmp_path / "prefect/server.log").exists()
