"""The way to MLflow: how to connect, and what its errors mean. MLflow is imported on first use (seconds)."""

import contextlib
import logging
import os
import sqlite3
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gan_core.disk import with_place
from gan_core.errors import TrackingError
from gan_core.files import remove_stale, replacing
from gan_core.locks import file_lock
from pipelines.runtime.redaction import redact_credentials
from pipelines.settings.tracking_uri import SQLITE, URI_VARIABLES, resolve_uri
from pipelines.tracking.sqlite_file import check_database, damaged, is_damage

if TYPE_CHECKING:
    from mlflow import MlflowClient

KEY_TAG, PARENT_TAG = "gantry.key", "mlflow.parentRunId"
MLFLOW_PORT = 5000
"""The default port of MLflow's pages in ``gantry ui``."""
# A person's server may be away; waiting for it is the shipper's business, not MLflow's (246 s by its own settings).
# Nor may MLflow ask again by itself: a server that was only slow would make the same run or version twice.
_PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "30", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
_REFUSALS = {
    "ALREADY_EXISTS",
    "BAD_REQUEST",
    "INVALID_PARAMETER_VALUE",
    "INVALID_STATE",
    "NOT_FOUND",
    "RESOURCE_ALREADY_EXISTS",
    "RESOURCE_DOES_NOT_EXIST",
}
_MAKING_SECONDS = 60.0
_TITLE, _KEEPS = "tracking database", "the earlier runs and registered versions"
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RunRef:
    """A run on the tracking server."""

    run_id: str


def connect(uri: str, *, make: bool = True) -> "MlflowClient":
    """A client of the tracking server or database at ``uri``; a database is made when it is missing, if ``make``.

    A SQLite file is opened under a lock beside it: processes that make its tables at the same time would collide.
    A server is not contacted here.

    Raises:
        TrackingError: there is no such database, and it is not to be made; or it is damaged.
    """
    _settings()
    check_store(uri)
    from mlflow import MlflowClient

    uri = resolve_uri(uri)
    if not uri.startswith(SQLITE):
        return MlflowClient(uri, uri)
    database = Path(uri.removeprefix(SQLITE))
    if not make and not _there(uri):
        raise TrackingError(
            f"There is no tracking database {database} yet. Run the pipeline first (gantry run), or check {uri_setting()}."
        )
    database.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(database.with_name(f".{database.name}.lock")), quiet("mlflow"):
        if _is_unfinished(database):
            _make_database(database)
        remove_stale(database)  # of a process that was killed while it made it, after another one had
        client = MlflowClient(uri, uri)
        # The registry has a store of its own over the same file; opening it makes its tables.
        client.search_registered_models(max_results=1)
    return client


def check_store(uri: str) -> None:
    """Raise TrackingError where ``uri`` names a SQLite file that is damaged. Nothing else is asked, and MLflow not imported."""
    if (uri := resolve_uri(uri)).startswith(SQLITE) and (file := uri.removeprefix(SQLITE)) not in ("", ":memory:"):
        check_database(Path(file), title=_TITLE, keeps=_KEEPS)


def _is_unfinished(database: Path) -> bool:
    """Whether there is no database, or one whose making was cut short: MLflow makes an experiment last of all.

    One that was written to a moment ago may be in the making, by a server say, and is left alone.
    """
    if not database.exists():
        return True
    if time.time() - database.stat().st_mtime < _MAKING_SECONDS:
        return False
    with contextlib.closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)) as opened:
        try:
            return opened.execute("SELECT 1 FROM experiments").fetchone() is None
        except sqlite3.OperationalError as error:  # anything else (locked, no database at all) is for MLflow to say
            return "no such table" in str(error)
        except sqlite3.DatabaseError:
            return False


def _make_database(database: Path) -> None:
    """Make MLflow's database whole or not at all: one that a kill cuts short could never be opened again."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    _LOG.info("Making the tracking database %s.", database)
    with replacing(database) as temporary:
        # MLflow writes this place between quotes into a statement of SQL; a URI has none.
        store = SqlAlchemyStore(f"{SQLITE}{temporary}", (database.parent / "mlartifacts").absolute().as_uri())
        store.engine.dispose()


def ensure_experiment(client: "MlflowClient", uri: str, name: str) -> str:
    """The id of the experiment ``name``, made when it is missing.

    Beside a SQLite file artifacts go to the folder ``mlartifacts``; a server knows where its own go.

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
            # The kind makes MLflow's pages show runs and metrics first, in place of prompts and traces.
            kind = {"mlflow.experimentKind": "custom_model_development"}
            return client.create_experiment(name, artifact_location=_artifact_location(uri, name), tags=kind)
        except Exception as error:
            if not is_refusal(error):  # a refusal: another process made it between the two calls
                raise
    raise TrackingError(
        f"The MLflow experiment '{name}' at {redact_credentials(uri)} can neither be found nor made. Look at the server's log."
    )


def find_run(tracking_uri: str, experiment: str, key: str) -> RunRef | None:
    """The run that carries ``key``, or None when the server does not know it (yet).

    Raises:
        TrackingError: the server cannot be reached.
    """
    with reaching(tracking_uri):
        if not _there(tracking_uri):
            return None
        client = connect(tracking_uri)
        found = client.get_experiment_by_name(experiment)
        run_id = find_run_id(client, found.experiment_id, key) if found else None
    if found is None or run_id is None:
        return None
    return RunRef(run_id=run_id)


def run_page(tracking_uri: str, experiment_id: str, run_id: str) -> str:
    """Where MLflow's pages show a run; of a store without pages of its own, where ``gantry ui`` shows them."""
    served = tracking_uri.startswith(("http://", "https://"))
    root = redact_credentials(tracking_uri).rstrip("/") if served else f"http://127.0.0.1:{MLFLOW_PORT}"
    return f"{root}/#/experiments/{experiment_id}/runs/{run_id}"


def find_run_id(client: "MlflowClient", experiment_id: str, key: str) -> str | None:
    """The id of the run tagged with ``key`` that is not deleted (the oldest, were there several), or None."""
    query = f"tags.`{KEY_TAG}` = '{key}'"
    runs = client.search_runs([experiment_id], query, max_results=1, order_by=["attributes.start_time ASC"])
    return runs[0].info.run_id if runs else None


@contextmanager
def reaching(uri: str) -> Iterator[None]:
    """Turn MLflow's errors into a TrackingError that names the server and what to do; those of files here stay as they are."""
    _settings()
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as error:
        if isinstance(error, OSError) and error.filename is not None:  # a file here, of which the server knows nothing
            raise
        place = resolve_uri(uri)
        if place.startswith(SQLITE) and (refused := with_place(error, place.removeprefix(SQLITE))):
            raise refused from error
        if place.startswith(SQLITE) and is_damage(error):
            file = Path(place.removeprefix(SQLITE))
            raise TrackingError(damaged(file, short(error), title=_TITLE, keeps=_KEEPS)) from error
        what = "refused" if is_refusal(error) else "cannot be reached or failed"
        remedy = "" if is_refusal(error) else f" Check {uri_setting()} and that the server runs."
        raise TrackingError(f"The tracking server {redact_credentials(uri)} {what}: {short(error)}.{remedy}") from error


def is_refusal(error: BaseException) -> bool:
    """Whether the server answered and will not take this, now or later; otherwise it may be asked again."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        return getattr(error, "error_code", None) in _REFUSALS
    # Uploads of files answer with plain HTTP errors. Who may not log in today may do so tomorrow, and busy is not no.
    status = getattr(getattr(error, "response", None), "status_code", 0)
    return 400 <= status < 500 and status not in (401, 403, 407, 408, 425, 429)


def uri_setting() -> str:
    """Where a person changes the tracking URI: the environment, when it is set there, wins."""
    named = next(filter(os.environ.get, URI_VARIABLES), None)
    return f"{named} in the environment" if named else "track.uri in params.yaml"


def short(error: BaseException) -> str:
    """What an error says, in one line of at most 300 characters, without its full stop and without secrets.

    A connection that failed is wrapped by each library on the way: what the system said of it is all that tells.
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
    """Settings of MLflow that have to stand before it is imported; a user's own are left alone."""
    quiet_ones = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    }
    for name, value in {**_PATIENCE, **quiet_ones}.items():
        os.environ.setdefault(name, value)
    # These report each retry, and a database that is full or locked with a traceback: who asked says it once, in a line.
    for name, least in (("urllib3.connectionpool", logging.ERROR), ("mlflow.store.db.utils", logging.CRITICAL)):
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(least)


def _there(uri: str) -> bool:
    """Whether there is something to ask: a server, or a database that was made."""
    uri = resolve_uri(uri)
    return not uri.startswith(SQLITE) or Path(uri.removeprefix(SQLITE)).is_file()


def _artifact_location(uri: str, experiment: str) -> str | None:
    uri = resolve_uri(uri)
    if not uri.startswith(SQLITE):
        return None
    return (Path(uri.removeprefix(SQLITE)).parent / "mlartifacts" / experiment).as_uri()


@contextmanager
def quiet(name: str, least: int = logging.WARNING) -> Iterator[None]:
    """Keep a library's messages below the level ``least`` off the screen."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(least)
    try:
        yield
    finally:
        logger.setLevel(level)
