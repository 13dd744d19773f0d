"""The schema of MLflow's database: whether it is that of the installed MLflow, and what to do if it is not.

MLflow's own message recommends an upgrade also for a database that a later MLflow has upgraded, where that cannot help.
"""

import importlib.metadata
import re
import shlex
from pathlib import Path

from pipelines.runtime.redaction import redact_credentials
from pipelines.tracking.sqlite_file import known_schemas, read_schema

_REFUSED = re.compile(r"out-of-date database schema \(found version (\w+)")


def _installed() -> tuple[frozenset[str], frozenset[str]]:
    return known_schemas("mlflow", "store/db_migrations/versions")


def has_another_schema(database: Path) -> bool:
    """Whether the SQLite file ``database`` has another schema than the installed MLflow makes. False if that is not known."""
    found, newest = read_schema(database), _installed()[1]
    return bool(found and newest) and found not in newest


def explain_schema(error: BaseException, uri: str) -> str:
    """What to do if ``error`` is MLflow's refusal of the schema of the database ``uri``; empty for any other error."""
    refused = _REFUSED.search(str(error))
    if refused is None:
        return ""
    place, installed = redact_credentials(uri), f"MLflow {importlib.metadata.version('mlflow')}, which is installed"
    if refused[1] in _installed()[0]:
        return (
            f"The tracking database {place} was made by an earlier MLflow than {installed}. Make a copy of it, and upgrade it "
            f"(mlflow db upgrade {shlex.quote(place)})"
        )
    return (
        f"The tracking database {place} was upgraded by a later MLflow than {installed}. Install that one again, or restore "
        "the copy that was made before the upgrade"
    )
