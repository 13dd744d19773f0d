"""Connect to a Prefect server: the one in PREFECT_API_URL, or the checkout's own, started when it is needed.

This module imports Prefect only when a client is needed, because the import takes seconds.
"""

import contextlib
import importlib.metadata
import json
import logging
import os
import shlex
import socket
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from gan_core.disk import NotEnoughSpaceError, require_free_space
from gan_core.errors import GantryError, StageError
from gan_core.files import read_json, write_json
from gan_core.locks import file_lock
from pipelines.flow.web import (
    START_SECONDS,
    address_of,
    checkout_auth,
    identify_server,
    listen,
    private_folder,
    run_server,
)
from pipelines.runtime.checkout import Checkout
from pipelines.runtime.environment import DEFAULTS, PREFECT_RETRIES
from pipelines.runtime.guard import is_process_alive, process_identity
from pipelines.tracking.sqlite_file import check_database, known_schemas, read_schema

LOG = logging.getLogger(__name__)

PORT = 4200
RETENTION_DAYS = 90
"""How long the checkout's own Prefect server keeps finished flow runs."""
NEW_DATABASE_SPACE = 8 << 20
"""Bytes of disk for a new database with its write-ahead log and some runs."""
DRAIN_SECONDS = 20.0
SPARE_SPACE = 1 << 20
"""Bytes. If less is free, an error of the server is blamed on the full disk."""
_LONG_LIVED, _OF_RUN = "server.json", "run-server.json"
"""Files with the address of a running server: one that runs until the user stops it, and one that ends with a run."""
_DATABASE_VARIABLES = ("PREFECT_SERVER_DATABASE_CONNECTION_URL", "PREFECT_API_DATABASE_CONNECTION_URL")
"""Variables with which a user chooses another database than the file in PREFECT_HOME."""


def prefect_environment(checkout: Checkout) -> dict[str, str]:
    """Variables that keep Prefect's files in the checkout and switch off its messages. Values in the environment are kept."""
    defaults = {
        "PREFECT_HOME": str(checkout.prefect),
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": str(int(START_SECONDS)),
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        # When it starts and then every hour, the server removes older runs with their logs and artifacts.
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
        "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(RETENTION_DAYS * 24 * 3600),
        # Otherwise Prefect starts a server without a password if its settings name no server.
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    } | {name: value for name, value in DEFAULTS.items() if name.startswith("PREFECT_")}
    if os.environ.get("PREFECT_API_URL"):
        defaults |= PREFECT_RETRIES
    return {name: os.environ.get(name, value) for name, value in defaults.items()}


@dataclass(frozen=True, kw_only=True)
class Connection:
    """How clients reach a Prefect server."""

    url: str
    """Address of its API."""
    auth: str | None
    """``user:password`` of a server of this checkout. None for the server in PREFECT_API_URL, whose key the environment has."""
    settings: Mapping[str, str]
    """Prefect's other settings, by the names of their environment variables."""

    @property
    def home(self) -> Path:
        """The folder of Prefect's own files."""
        return Path(self.settings["PREFECT_HOME"])

    def environment(self) -> dict[str, str]:
        """Variables that make Prefect in a child process use this server."""
        auth = {"PREFECT_API_AUTH_STRING": self.auth} if self.auth else {}
        return {**self.settings, "PREFECT_API_URL": self.url, **auth}

    @contextmanager
    def clients(self) -> Iterator[None]:
        """Make Prefect in this process use this server for the length of the block, even if Prefect was imported before.

        At the end of the block, this sends the log lines and events that Prefect still holds, for at most 20 s each, because
        the threads that send them keep the address they started with. Prefect passes its settings on to these threads and to
        the processes of its runner. Any other thread needs a copy of this context.
        """
        from prefect import settings
        from prefect.events.worker import EventsWorker
        from prefect.logging.handlers import APILogWorker

        known = {name: value for name, value in self.environment().items() if name.startswith("PREFECT_")}
        with settings.temporary_settings({getattr(settings, name): value for name, value in known.items()}):
            try:
                yield
            finally:
                for worker in (APILogWorker, EventsWorker):
                    worker.drain_all(timeout=DRAIN_SECONDS)


@contextmanager
def connect_prefect(
    checkout: Checkout, *, port: int | None = None, long_lived: bool = False, may_share: bool = False
) -> Iterator[Connection]:
    """Connect to a Prefect server for the length of the block.

    Uses the first of these that exists: the server in PREFECT_API_URL; the server that ``gantry ui`` or ``gantry serve`` runs
    for this checkout; with ``may_share``, the server of a run in progress; else it starts one on loopback. A server that it
    starts ends with the block, and also if this process is killed. Servers of the checkout ask for its password
    (:func:`pipelines.flow.web.checkout_auth`).

    Args:
        checkout: the checkout of the server.
        port: required port of a new server. Default: 4200, or any free port if 4200 is taken.
        long_lived: whether other runs of this checkout may use a new server too, because it outlives them.
        may_share: whether to use a server that ends with another run.

    Raises:
        StageError: the port is taken, or the server did not start. The message names its log.
    """
    settings = prefect_environment(checkout)
    private_folder(checkout.prefect)
    home = Path(settings["PREFECT_HOME"])
    home.mkdir(parents=True, exist_ok=True)
    if named := os.environ.get("PREFECT_API_URL"):
        yield Connection(url=named, auth=None, settings=settings)
        return
    kinds = (_LONG_LIVED, _OF_RUN) if may_share else (_LONG_LIVED,)

    def running() -> str | None:
        return next(filter(None, (_running_server(name, checkout) for name in kinds)), None)

    with ExitStack() as stack:
        if (url := running()) is None:
            with _alone_in_starting(home):
                url = running() or stack.enter_context(_start_server(checkout, settings, port, long_lived))
        yield Connection(url=url, auth=checkout_auth(checkout), settings=settings)


@contextmanager
def _alone_in_starting(home: Path) -> Iterator[None]:
    """Let one server at a time start in ``home``: each makes or upgrades the database, and two at once break each other."""
    lock = home / "start.lock"
    with file_lock(lock, timeout=0) as free:
        pass
    if not free:
        LOG.info("Waiting for another Prefect server of this checkout to start.")
    # One that hangs is given up by its own command.
    with file_lock(lock):
        yield


def is_gone(url: str, auth: str | None = None) -> bool:
    """Whether the server at ``url`` has ended. A server that answers slowly on a busy machine has not.

    Args:
        url: address of its API.
        auth: the password of a server of this checkout. With it, another server at the same address does not count.
    """
    if auth is not None:
        return identify_server(url.removesuffix("/api"), auth) in ("none", "other")
    place = urllib.parse.urlsplit(url)
    try:
        port = place.port or (443 if place.scheme == "https" else 80)
        socket.create_connection((place.hostname or "", port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False


@contextmanager
def explain_server_errors(connection: Connection, trouble: str = "does not answer", remedy: str = "") -> Iterator[None]:
    """Turn errors of Prefect's client in the block into a StageError, if the server does not answer or rejects the client.

    Args:
        connection: the server.
        trouble: what a server that cannot be reached does, for the message.
        remedy: end of the message: what to do.
    """
    url, auth = connection.url, connection.auth
    try:
        yield
    except GantryError:
        raise
    except Exception as error:
        if auth is not None:  # on a full disk, the server only says that it failed
            check_database_space(connection, error)
        named = "" if auth else " PREFECT_API_URL names it: start it, or unset the variable."
        api = (
            ""
            if url.rstrip("/").endswith("/api")
            else f" The address of the API ends with /api: {url.rstrip('/')}/api."
        )
        answering = "" if auth else f" PREFECT_API_URL names it: look at its log, or correct the variable.{api}"
        for cause in _causes(error):
            status = getattr(getattr(cause, "response", None), "status_code", None)
            if status in (401, 403):
                key = "its password is in the checkout" if auth else "set PREFECT_API_AUTH_STRING or PREFECT_API_KEY"
                raise StageError(f"The Prefect server at {url} rejects this client ({status}): {key}.") from error
            if "ephemeral Prefect API server" in str(cause):
                log = connection.home / "server.log"
                raise StageError(
                    f"Prefect did not start its own server in time ({cause}). The machine may be busy: run this again, or set "
                    f"PREFECT_API_URL to a running server. The log of this checkout's server is {log}."
                ) from error
            if status is not None:
                raise StageError(f"The Prefect server at {url} answers with an error ({status}).{answering}") from error
            if isinstance(cause, json.JSONDecodeError) or _is_foreign_answer(cause):
                raise StageError(f"What answers at {url} is not the API of a Prefect server.{answering}") from error
            if _is_connection_error(cause) or is_gone(url, auth):
                raise StageError(
                    f"The Prefect server at {url} {trouble} ({type(cause).__name__}).{named}{remedy}"
                ) from error
        raise


def check_database_space(connection: Connection, cause: BaseException | None = None) -> None:
    """Raise NotEnoughSpaceError from ``cause`` if the disk of the checkout's own Prefect database is full."""
    try:
        require_free_space(connection.home, SPARE_SPACE)
    except NotEnoughSpaceError as full:
        raise full from cause


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, its causes, and the members of exception groups among them."""
    yield error
    for below in (error.__cause__, *getattr(error, "exceptions", ())):
        if below is not None:
            yield from _causes(below)


def _is_foreign_answer(error: BaseException) -> bool:
    """Whether Prefect's client could not read an answer, because another kind of server gave it."""
    from pydantic import ValidationError  # here, because Prefect, which needs it, is imported late

    if not isinstance(error, ValidationError):
        return False
    from prefect.client.schemas import objects, responses  # what is sent has classes of other modules

    return any(hasattr(module, error.title) for module in (objects, responses))


def _is_connection_error(error: BaseException) -> bool:
    """Whether a client could not reach a server. Compares names of modules, so that httpx need not be imported."""
    return isinstance(error, ConnectionError) or type(error).__module__.partition(".")[0] in ("httpx", "httpcore")


def _running_server(name: str, checkout: Checkout) -> str | None:
    """The address of the server that the file ``name`` in this checkout names; None if that server does not run."""
    with contextlib.suppress(FileNotFoundError):
        note = read_json(checkout.prefect / name)
        # Another machine that shares the checkout may have written the file. The same address here is another server.
        if (
            is_process_alive(note["process"])
            and identify_server(note["url"].removesuffix("/api"), checkout_auth(checkout)) == "ours"
        ):
            LOG.info("Using the Prefect server at %s.", note["url"])
            return note["url"]
    return None


@contextmanager
def _start_server(checkout: Checkout, settings: Mapping[str, str], port: int | None, long_lived: bool) -> Iterator[str]:
    home = Path(settings["PREFECT_HOME"])
    log, database = home / "server.log", home / "prefect.db"
    if not any(os.environ.get(name) for name in _DATABASE_VARIABLES):
        if "?" in str(database):  # it would lie outside the folder that only the owner can open
            raise StageError(
                f"The path of Prefect's database, {database}, must not contain '?': Prefect cuts the path there. Rename the "
                "folder, or set PREFECT_HOME to a folder elsewhere."
            )
        check_database(
            database,
            title="Prefect database",
            contents="the history of flow runs (results, tracking and schedules are elsewhere)",
        )
        _check_version(database)
    require_free_space(home, SPARE_SPACE if database.is_file() else NEW_DATABASE_SPACE)
    listening = listen(PORT if port is None else port, only=port is not None)
    address = address_of(listening)
    environment = {
        **{name: value for name, value in os.environ.items() if name != "PREFECT_API_KEY"},
        **settings,
        "PREFECT_SERVER_API_AUTH_STRING": checkout_auth(checkout),
        "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": address,
        # Relative, so that the page uses the server it came from, under any name and through any tunnel.
        "PREFECT_SERVER_UI_API_URL": "/api",
    }
    LOG.info("Starting a Prefect server of this checkout at %s (log: %s).", address, log)
    with run_server("prefect", checkout, listening, environment, log) as address:
        # The identity of this process, with which the server ends. The server's own changes when it is restarted.
        note = {"url": f"{address}/api", "process": process_identity()}
        place = checkout.prefect / (_LONG_LIVED if long_lived else _OF_RUN)
        try:
            write_json(place, note)
            yield note["url"]
        finally:
            with contextlib.suppress(FileNotFoundError):
                if read_json(place) == note:  # another server may have written its own meanwhile
                    place.unlink()


def _check_version(database: Path) -> None:
    """Raise StageError if a later Prefect than the installed one has upgraded ``database``: its server would not start.

    A server upgrades the database of an earlier one when it starts.
    """
    found, (known, _) = read_schema(database), known_schemas("prefect", "server/database/_migrations/versions/sqlite")
    if found and known and found not in known:
        place = shlex.quote(str(database))
        raise StageError(
            f"The Prefect database {database} was upgraded by a later Prefect than the one installed here "
            f"({importlib.metadata.version('prefect')}). Install that one again. Or move the database away (mv {place} "
            f"{place}.later); a new one is then created, without the history of flow runs."
        )
