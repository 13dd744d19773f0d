"""Connect to MLflow and explain its errors. MLflow is imported on first use, which takes seconds."""

import contextlib
import logging
import os
import re
import sqlite3
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gan_core.disk import disk_error_at
from gan_core.errors import TrackingError
from gan_core.files import atomic_write, remove_stale
from gan_core.locks import file_lock
from pipelines.runtime.redaction import redact_credentials
from pipelines.settings.tracking_uri import SQLITE, URI_VARIABLES, resolve_uri
from pipelines.tracking.moved import FILES, correct_places
from pipelines.tracking.schema import explain_schema, has_another_schema
from pipelines.tracking.sqlite_file import check_database, damage_message, is_damage

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

KEY_TAG, PARENT_TAG = "gantry.key", "mlflow.parentRunId"
MLFLOW_PORT = 5000
"""Default port of the MLflow UI in ``gantry ui``."""
# The shipper waits for an unavailable server, so MLflow must not (246 s by default). MLflow must not retry either: a slow
# server would create the same run or version twice.
_HTTP_SETTINGS = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "30", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
_REFUSALS = {
    "ALREADY_EXISTS",
    "INVALID_PARAMETER_VALUE",
    "INVALID_STATE",
    "NOT_FOUND",
    "RESOURCE_ALREADY_EXISTS",
    "RESOURCE_DOES_NOT_EXIST",
}
# MLflow reports every error of SQLAlchemy but the operational ones as BAD_REQUEST: also a lost connection, a full pool, a
# conflict with a request at the same time, or a damaged file. These messages alone are about the values themselves.
_BAD_VALUE = re.compile(
    r"DataError|\bStringDataRightTruncation|\bNumericValueOutOfRange|\bUntranslatableCharacter|\bCharacterNotInRepertoire"
    r"|\bInvalidTextRepresentation|\(builtins\.(?:ValueError|TypeError|OverflowError)\)"
)
_DATABASES = ("postgresql", "mysql", "mssql")
_CREATION_SECONDS = 60.0
_TITLE, _CONTENTS = "tracking database", "the earlier runs and registered versions"
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RunRef:
    """A run on the tracking server."""

    run_id: str


def connect(uri: str, *, create: bool = True) -> "MlflowClient":
    """A client of the tracking server or database at ``uri``. A missing database is created if ``create``.

    A SQLite file is opened under a lock beside it, because processes that create its tables at the same time would
    collide. If it was moved or copied with its files, the places of the files in it are corrected. Another database is asked
    for a connection; an MLflow server is not contacted.

    Raises:
        TrackingError: the database is damaged, or it does not exist and ``create`` is False.
        ConnectionError: the database's server refuses the connection.
    """
    _settings()
    check_store(uri)
    from mlflow import MlflowClient

    uri = resolve_uri(uri)
    if not uri.startswith(SQLITE):
        if uri.startswith(_DATABASES):
            _check_connection(uri)
        return MlflowClient(uri, uri)
    database = Path(uri.removeprefix(SQLITE))
    if not create and database_is_missing(uri):
        raise TrackingError(
            f"The tracking database {database} does not exist. Run the pipeline first (gantry run), or check {uri_setting()}."
        )
    database.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(database.with_name(f".{database.name}.lock")), silence_logger("mlflow"):
        if _is_unfinished(database):
            _make_database(database)
        remove_stale(database)  # left by a process that was killed while it created the same database
        client = MlflowClient(uri, uri)
        # The registry has a separate store over the same file; opening it creates its tables.
        client.search_registered_models(max_results=1)
        correct_places(database)
    return client


def check_store(uri: str) -> None:
    """Raise TrackingError if ``uri`` is a damaged SQLite file. Checks nothing else, and does not import MLflow."""
    if (uri := resolve_uri(uri)).startswith(SQLITE) and (file := uri.removeprefix(SQLITE)) not in ("", ":memory:"):
        check_database(Path(file), title=_TITLE, contents=_CONTENTS)


def check_schema(uri: str) -> None:
    """Raise TrackingError if ``uri`` is a SQLite file of another version of MLflow than the installed one, which refuses it.

    Imports MLflow only if the file has another schema: MLflow upgrades some of them by itself.
    """
    if (place := resolve_uri(uri)).startswith(SQLITE) and has_another_schema(Path(place.removeprefix(SQLITE))):
        with explain_server_errors(uri):
            connect(uri, create=False)


def ensure_database(uri: str) -> None:
    """Make the SQLite file that ``uri`` names, if it does not exist.

    For MLflow's own server, which would make it without a lock, perhaps at the same time as a run.
    """
    if database_is_missing(uri):
        with explain_server_errors(uri):
            connect(uri)


def _check_connection(uri: str) -> None:
    """Connect once to a database. MLflow itself would try for two minutes before it reports that nobody answers."""
    from sqlalchemy import create_engine
    from sqlalchemy.exc import OperationalError

    engine = create_engine(uri)
    try:
        engine.connect().close()
    except OperationalError as error:
        raise ConnectionError(str(error.orig)) from None
    finally:
        engine.dispose()


def _is_unfinished(database: Path) -> bool:
    """Whether the database is missing or its creation was interrupted: MLflow creates an experiment last.

    A file that was modified recently may still be in creation, for example by a server, and does not count.
    """
    if not database.exists():
        return True
    if time.time() - database.stat().st_mtime < _CREATION_SECONDS:
        return False
    with contextlib.closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)) as opened:
        try:
            return opened.execute("SELECT 1 FROM experiments").fetchone() is None
        except sqlite3.OperationalError as error:  # MLflow reports anything else (locked, not a database)
            return "no such table" in str(error)
        except sqlite3.DatabaseError:
            return False


def _make_database(database: Path) -> None:
    """Create MLflow's database atomically, because MLflow cannot open one whose creation was interrupted."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    _LOG.info("Creating the tracking database %s.", database)
    with atomic_write(database) as temporary:
        # MLflow puts this location in quotes into an SQL statement; a URI contains no quotes.
        store = SqlAlchemyStore(f"{SQLITE}{temporary}", (database.parent / FILES).absolute().as_uri())
        store.engine.dispose()


def ensure_experiment(client: "MlflowClient", uri: str, name: str) -> str:
    """The id of the experiment ``name``, which is created if missing.

    The artifacts of a SQLite store go to the folder ``mlartifacts`` beside it; a server chooses the location itself.

    Raises:
        TrackingError: the experiment was deleted.
    """
    for _ in range(2):
        experiment = client.get_experiment_by_name(name)
        if experiment is not None:
            if experiment.lifecycle_stage != "active":
                raise TrackingError(
                    f"The MLflow experiment '{name}' at {redact_credentials(uri)} was deleted. Restore it (mlflow experiments "
                    f"restore --experiment-id {experiment.experiment_id}) or change track.experiment in params.yaml."
                )
            return experiment.experiment_id
        try:
            # With this kind, the MLflow UI shows runs and metrics first instead of prompts and traces.
            kind = {"mlflow.experimentKind": "custom_model_development"}
            return client.create_experiment(name, artifact_location=_artifact_location(uri, name), tags=kind)
        except Exception as error:
            if not is_refusal(error):  # a refusal: another process created it between the two calls
                raise
    raise TrackingError(
        f"The MLflow experiment '{name}' at {redact_credentials(uri)} can be neither found nor created. Check the server's log."
    )


def find_run(tracking_uri: str, experiment: str, key: str) -> RunRef | None:
    """The run with the key ``key``, or None if the server does not have it (yet).

    Raises:
        TrackingError: the server cannot be reached.
    """
    with explain_server_errors(tracking_uri):
        if database_is_missing(tracking_uri):
            return None
        client = connect(tracking_uri)
        found = client.get_experiment_by_name(experiment)
        run_id = find_run_id(client, found.experiment_id, key) if found else None
    if found is None or run_id is None:
        return None
    return RunRef(run_id=run_id)


def run_url(tracking_uri: str, experiment_id: str, run_id: str) -> str:
    """Address of a run in the MLflow UI; for a database, in the UI that ``gantry ui`` starts."""
    served = tracking_uri.startswith(("http://", "https://"))
    root = redact_credentials(tracking_uri).rstrip("/") if served else f"http://127.0.0.1:{MLFLOW_PORT}"
    return f"{root}/#/experiments/{experiment_id}/runs/{run_id}"


def find_run_id(client: "MlflowClient", experiment_id: str, key: str) -> str | None:
    """The id of the oldest run with the key ``key`` that is not deleted, or None."""
    runs = find_runs(client, experiment_id, key)
    return runs[0].info.run_id if runs else None


def find_runs(client: "MlflowClient", experiment_id: str, key: str) -> "list[Run]":
    """The runs with the key ``key`` that are not deleted, oldest first."""
    query = f"tags.`{KEY_TAG}` = '{key}'"
    return list(client.search_runs([experiment_id], query, order_by=["attributes.start_time ASC"]))


@contextmanager
def explain_server_errors(uri: str) -> Iterator[None]:
    """Convert MLflow's errors to a TrackingError that names the server and the remedy. Errors of local files pass through."""
    _settings()
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as error:
        if isinstance(error, OSError) and error.filename is not None:  # a local file, not the server
            raise
        place = resolve_uri(uri)
        if place.startswith(SQLITE) and (refused := disk_error_at(error, place.removeprefix(SQLITE))):
            raise refused from error
        if place.startswith(SQLITE) and is_damage(error):
            file = Path(place.removeprefix(SQLITE))
            raise TrackingError(damage_message(file, error_summary(error), title=_TITLE, contents=_CONTENTS)) from error
        if why := explain_schema(error, place):
            raise TrackingError(f"{why}.") from error
        what = "refused the request" if is_refusal(error) else "cannot be reached or failed"
        remedy = "" if is_refusal(error) else f" Check {uri_setting()} and that the server is running."
        raise TrackingError(
            f"The tracking server {redact_credentials(uri)} {what}: {error_summary(error)}.{remedy}"
        ) from error


def is_refusal(error: BaseException) -> bool:
    """Whether the server has refused a request permanently. Otherwise the request may be retried."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        code = getattr(error, "error_code", None)
        return code in _REFUSALS or (code == "BAD_REQUEST" and bool(_BAD_VALUE.search(str(error))))
    # File uploads raise plain HTTP errors. Authentication, timeouts and rate limits may succeed on a retry.
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", 0)
    if status == 404 and "error_code" not in str(getattr(response, "text", "")):
        return False  # not of MLflow: a proxy in front of a server that restarts does not know the server
    return 400 <= status < 500 and status not in (401, 403, 407, 408, 425, 429)


def uri_setting() -> str:
    """Name of the setting that determines the tracking URI. The environment takes precedence over params.yaml."""
    named = next(filter(os.environ.get, URI_VARIABLES), None)
    return f"{named} in the environment" if named else "track.uri in params.yaml"


def error_summary(error: BaseException) -> str:
    """The message of an error in one line of at most 300 characters, without final full stop and without secrets.

    For a failed connection, which each library wraps again, this is the message of the operating system.
    """
    text = str(error).strip()
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            text = f"{cause.strerror}: {cause.filename}" if cause.filename else cause.strerror
        elif isinstance(cause, TimeoutError):
            text = "no answer in time"
        cause = cause.__cause__ or cause.__context__
    line = redact_credentials(text or type(error).__name__).splitlines()[0]
    return textwrap.shorten(line.rstrip("."), 300, placeholder=" ...")


def _settings() -> None:
    """Set MLflow's environment variables and log levels before it is imported, unless the user has set them.

    MLflow takes these from the environment alone. They are set here, not at the start of the process, because a retried
    request creates a second run: that must not depend on who calls.
    """
    for name, value in {**_HTTP_SETTINGS, "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}.items():
        os.environ.setdefault(name, value)
    # These log every retry, and a traceback for a full or locked database; the caller reports the error in one line.
    for name, least in (("urllib3.connectionpool", logging.ERROR), ("mlflow.store.db.utils", logging.CRITICAL)):
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(least)


def database_is_missing(uri: str) -> bool:
    """Whether ``uri`` is a SQLite file that does not exist."""
    uri = resolve_uri(uri)
    return uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE)).is_file()


def _artifact_location(uri: str, experiment: str) -> str | None:
    uri = resolve_uri(uri)
    if not uri.startswith(SQLITE):
        return None
    return (Path(uri.removeprefix(SQLITE)).parent / FILES / experiment).as_uri()


@contextmanager
def silence_logger(name: str, level: int = logging.WARNING) -> Iterator[None]:
    """Suppress a library's log messages below ``level`` during the block."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)
