"""A database of another version of MLflow is reported with the remedy before a run, and wherever MLflow refuses it."""

import contextlib
import shutil
import sqlite3

import pytest

from gan_core.errors import TrackingError
from pipelines.tracking import sync
from pipelines.tracking.runlog import RunLog
from pipelines.tracking.schema import has_another_schema
from pipelines.tracking.sqlite_file import known_schemas
from pipelines.tracking.store import check_schema

OF_MLFLOW = ("mlflow", "store/db_migrations/versions")


def test_the_schema_of_the_installed_mlflow_is_found_without_importing_it(database_template, tmp_path):
    known, newest = known_schemas(*OF_MLFLOW)
    assert len(newest) == 1
    assert len(known) > 60
    assert not has_another_schema(database_template)
    assert not has_another_schema(tmp_path / "absent.db")
    (tmp_path / "empty.db").touch()
    assert not has_another_schema(tmp_path / "empty.db")


@pytest.mark.parametrize("age", ["earlier", "later"])
def test_a_database_of_another_mlflow_is_reported_with_the_remedy(database_template, tmp_path, age):
    path = tmp_path / "mlflow.db"
    shutil.copyfile(database_template, path)
    known, newest = known_schemas(*OF_MLFLOW)
    with contextlib.closing(sqlite3.connect(path)) as opened:
        revision = min(known - newest) if age == "earlier" else "f" * 12
        opened.execute("UPDATE alembic_version SET version_num = ?", (revision,))
        opened.commit()
    uri, track = f"sqlite:///{path}", tmp_path / "track"
    with RunLog(track, key="k", name="n"):
        pass
    remedy = rf"upgrade it \(mlflow db upgrade {uri}\)" if age == "earlier" else "Install that one again, or restore"
    with pytest.raises(TrackingError, match=rf"{path} was .* by an? {age} MLflow than MLflow 3.*{remedy}"):
        check_schema(uri)
    with pytest.raises(TrackingError, match=rf"{age} MLflow than .*{remedy}.*\. Then run: gantry track sync"):
        sync(track, tracking_uri=uri, experiment="e")
