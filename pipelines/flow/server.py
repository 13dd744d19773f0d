"""The Prefect server: the one that PREFECT_API_URL names, or one of the checkout's own for as long as it is needed.

This module imports nothing of Prefect, whose settings are read once, when it is imported: call :func:`server` first.
"""

import contextlib
import logging
import os
import socket
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gan_core.disk import NoRoomError, require_room
from gan_core.errors import GantryError, StageError
from gan_core.files import read_json, write_json
from pipelines.flow.web import START_SECONDS, address_of, listen, own_auth, own_server, private_folder, whose
from pipelines.runtime.checkout import Checkout
from pipelines.runtime.guard import identity, lives
from pipelines.tracking.sqlite_file import check_database

LOG = logging.getLogger(__name__)

PORT = 4200
RETENTION_DAYS = 90
"""How long the checkout's own Prefect server keeps a flow run that has ended."""
NEW_ROOM = 8 << 20
"""Bytes that a new database with its write-ahead log takes, and some runs."""
SPARE_ROOM = 1 << 20
"""Bytes. With less than this left, a failure of the server is the disk's."""
_LASTING, _PASSING = "server.json", "run-server.json"
"""Notes of servers: of one that lasts as long as a person wants, and of one that ends with a run."""
_DATABASE_VARIABLES = ("PREFECT_SERVER_DATABASE_CONNECTION_URL", "PREFECT_API_DATABASE_CONNECTION_URL")
"""Where a user names another database than the file in PREFECT_HOME."""


def prefect_environment(checkout: Checkout) -> dict[str, str]:
    """The variables that keep Prefect inside the checkout and silent; what the environment has already, wins."""
    defaults = {
        "PREFECT_HOME": str(checkout.prefect),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": str(int(START_SECONDS)),
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        # At its start and each hour after it, the server removes older runs with their logs and artifacts.
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
        "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(RETENTION_DAYS * 24 * 3600),
        # Prefect would start a server without a password where its settings name none.
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
        # What Gantry says in a run belongs to the run's log.
        "PREFECT_LOGGING_EXTRA_LOGGERS": "pipelines",
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
        "DO_NOT_TRACK": "true",
    }
    return {name: os.environ.get(name, value) for name, value in defaults.items()}


@contextmanager
def server(checkout: Checkout, *, port: int | None = None, lasting: bool = False, guest: bool = False) -> Iterator[str]:
    """The API address of a Prefect server, with the environment set so that Prefect and child processes use it.

    In turn: the one that PREFECT_API_URL names; the one that ``gantry ui`` or ``gantry serve`` keeps in this checkout; for
    a ``guest`` also that of a run in progress; one of its own on loopback, ended with the block and with this process,
    however that ends. One of this checkout asks for its password (:func:`pipelines.flow.web.own_auth`), which the
    environment has for the length of the block.

    Args:
        checkout: whose.
        port: where the own one listens, and nowhere else; by default 4200 or, where that is taken, any free port.
        lasting: whether runs of this checkout may use it too: it lasts longer than they do.
        guest: whether one that ends with somebody's run will do.

    Raises:
        StageError: the port is taken, or the server did not start; names its log.
    """
    defaults = prefect_environment(checkout)
    before = {name: os.environ.get(name) for name in (*defaults, "PREFECT_API_URL", "PREFECT_API_AUTH_STRING")}
    os.environ.update(defaults)
    private_folder(checkout.prefect)
    Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)
    try:
        if named := before["PREFECT_API_URL"]:
            yield named
        elif url := _kept(_LASTING, checkout) or (_kept(_PASSING, checkout) if guest else None):
            os.environ |= {"PREFECT_API_URL": url, "PREFECT_API_AUTH_STRING": own_auth(checkout)}
            yield url
        else:
            with _own(checkout, port, lasting) as url:
                os.environ |= {"PREFECT_API_URL": url, "PREFECT_API_AUTH_STRING": own_auth(checkout)}
                yield url
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def is_gone(url: str, auth: str | None = None) -> bool:
    """Whether the server at ``url`` is there no more; one that answers late on a busy machine still is.

    Args:
        url: of its API.
        auth: the password of a server of this checkout: then another server in its place does not count.
    """
    if auth is not None:
        return whose(url.removesuffix("/api"), auth) in ("nobody's", "another's")
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
def answering(url: str, auth: str | None, trouble: str = "does not answer", then: str = "") -> Iterator[None]:
    """Turn what Prefect's client raises in the block, where its server does not answer or refuses, into a StageError.

    Args:
        url: of the server's API.
        auth: its password, where it is a server of this checkout; None for one that PREFECT_API_URL names.
        trouble: what has become of a server that does not answer, for the message.
        then: how to go on.
    """
    try:
        yield
    except GantryError:
        raise
    except Exception as error:
        if auth is not None:  # the server says no more than that it failed
            with_room(error)
        named = "" if auth else " PREFECT_API_URL names it: start it, or unset that."
        for cause in _causes(error):
            status = getattr(getattr(cause, "response", None), "status_code", None)
            if status in (401, 403):
                remedy = "its password is in the checkout" if auth else "set PREFECT_API_AUTH_STRING or PREFECT_API_KEY"
                raise StageError(f"The Prefect server at {url} refuses this client ({status}): {remedy}.") from error
            if "ephemeral Prefect API server" in str(cause):
                log = Path(os.environ.get("PREFECT_HOME", "")) / "server.log"
                raise StageError(
                    f"Prefect did not start a server of its own in time ({cause}). The machine may be busy: run this again, or "
                    f"set PREFECT_API_URL to a server that runs. The log of this checkout's server is {log}."
                ) from error
            if status is not None:
                raise StageError(f"The Prefect server at {url} answers with an error ({status}).{named}") from error
            if _of_connection(cause) or is_gone(url, auth):
                raise StageError(
                    f"The Prefect server at {url} {trouble} ({type(cause).__name__}).{named}{then}"
                ) from error
        raise


def with_room(cause: BaseException | None = None) -> None:
    """Raise NoRoomError, from ``cause``, where the disk of the checkout's own Prefect database is full."""
    try:
        require_room(os.environ["PREFECT_HOME"], SPARE_ROOM)
    except NoRoomError as full:
        raise full from cause


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error, what it was raised from, and those that it groups."""
    yield error
    for below in (error.__cause__, *getattr(error, "exceptions", ())):
        if below is not None:
            yield from _causes(below)


def _of_connection(error: BaseException) -> bool:
    """Whether a client could not reach a server. Prefect and what it asks with are imported by whoever raised it."""
    return isinstance(error, ConnectionError) or type(error).__module__.partition(".")[0] in ("httpx", "httpcore")


def _kept(name: str, checkout: Checkout) -> str | None:
    """The address of the server that the note ``name`` in this checkout tells of, where it runs."""
    with contextlib.suppress(FileNotFoundError):
        note = read_json(checkout.prefect / name)
        # The note may be of another machine that shares the checkout: here the same address is a stranger's.
        if lives(note["process"]) and whose(note["url"].removesuffix("/api"), own_auth(checkout)) == "ours":
            LOG.info("Using the Prefect server at %s.", note["url"])
            return note["url"]
    return None


@contextmanager
def _own(checkout: Checkout, port: int | None, lasting: bool) -> Iterator[str]:
    home = Path(os.environ["PREFECT_HOME"])
    log, database = home / "server.log", home / "prefect.db"
    if not any(os.environ.get(name) for name in _DATABASE_VARIABLES):
        check_database(
            database,
            title="Prefect database",
            contents="the history of flow runs (results, tracking and schedules are elsewhere)",
        )
    require_room(home, SPARE_ROOM if database.is_file() else NEW_ROOM)
    listening = listen(PORT if port is None else port, only=port is not None)
    address = address_of(listening)
    environment = {
        **{name: value for name, value in os.environ.items() if name != "PREFECT_API_KEY"},
        "PREFECT_SERVER_API_AUTH_STRING": own_auth(checkout),
        "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": address,
        # The page asks the server that it came from, by whatever name and through whatever tunnel.
        "PREFECT_SERVER_UI_API_URL": "/api",
    }
    LOG.info("Starting a Prefect server of this checkout at %s (log: %s).", address, log)
    with own_server("prefect", checkout, listening, environment, log) as address:
        # Of this process, which the server ends with: the server's own changes when it is started again.
        note = {"url": f"{address}/api", "process": identity()}
        place = checkout.prefect / (_LASTING if lasting else _PASSING)
        try:
            write_json(place, note)
            yield note["url"]
        finally:
            with contextlib.suppress(FileNotFoundError):
                if read_json(place) == note:  # another may have written its own meanwhile
                    place.unlink()
