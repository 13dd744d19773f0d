"""Databases for the tracking tests."""

from pathlib import Path

import pytest

from tests.pipelines.tracking.database import copy_of, make_template


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database, made once."""
    return make_template(tmp_path_factory)


@pytest.fixture
def uri(template: Path, tmp_path: Path) -> str:
    """Tracking URI of a fresh database in the test's own folder."""
    return copy_of(template, tmp_path)
