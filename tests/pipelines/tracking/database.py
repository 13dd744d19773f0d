"""MLflow databases for tests, copied from a template because creating one takes seconds."""

import shutil
from pathlib import Path

import pytest

from pipelines.tracking.store import connect

_made: list[Path] = []


def make_template(factory: pytest.TempPathFactory) -> Path:
    """An empty database with MLflow's tables, created once per test session."""
    if not _made:
        path = factory.mktemp("template") / "mlflow.db"
        connect(f"sqlite:///{path}")
        _made.append(path)
    return _made[0]


def copy_of(template: Path, directory: Path) -> str:
    """The tracking URI of a copy of ``template`` in ``directory``."""
    shutil.copyfile(template, directory / "mlflow.db")
    return f"sqlite:///{directory / 'mlflow.db'}"
