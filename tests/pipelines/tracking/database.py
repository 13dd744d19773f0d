"""A fresh MLflow database for a test: making one takes seconds, copying one takes none."""

import shutil
from pathlib import Path

import pytest

from pipelines.tracking.store import connect

_made: list[Path] = []


def make_template(factory: pytest.TempPathFactory) -> Path:
    """An empty database with MLflow's tables, made once a test session."""
    if not _made:
        path = factory.mktemp("template") / "mlflow.db"
        connect(f"sqlite:///{path}")
        _made.append(path)
    return _made[0]


def copy_of(template: Path, directory: Path) -> str:
    """The tracking URI of a copy of ``template`` in ``directory``."""
    shutil.copyfile(template, directory / "mlflow.db")
    return f"sqlite:///{directory / 'mlflow.db'}"
