"""The Prefect server: the one that PREFECT_API_URL names, or one of the checkout's own for as long as it is needed.

This module imports nothing of Prefect, whose settings are read once, when it is imported: call :func:`server` first.
"""

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gan_core.errors import StageError
from gan_core.files import read_json, write_json
from pipelines.stages.alive import guarded, identity, lives
from pipelines.stages.work import var_directory

LOG = logging.getLogger(__name__)

START_SECONDS = 120.0
"""Two busy cores need 16 s and more; Prefect's own limit of 20 s is too tight there."""
PORT = 4200
_LASTING, _PASSING = "server.json", "run-server.json"
"""Notes of servers: of one that lasts as long as a person wants, and of one that ends with a run."""


def prefect_environment(root: Path) -> dict[str, str]:
    """The variables that keep Prefect inside the checkout and silent; what the environment has already, wins."""
    defaults = {
        "PREFECT_HOME": str(var_directory(root) / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": str(int(START_SECONDS)),
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        # What Gantry says in a run belongs to the run's log.
        "PREFECT_LOGGING_EXTRA_LOGGERS": "pipelines",
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
        "DO_NOT_TRACK": "true",
    }
    return {name: os.environ.get(name, value) for name, value in defaults.items()}


@contextmanager
def server(root: Path, *, port: int | None = None, lasting: bool = False, guest: bool = False) -> Iterator[str]:
    """The API address of a Prefect server, with the environment set so that Prefect and child processes use it.

    In turn: the one that PREFECT_API_URL names; the one that ``gantry ui`` or ``gantry serve`` keeps in this checkout; for
    a ``guest`` also that of a run in progress; one of its own on loopback, ended with the block and with this process,
    however that ends.

    Args:
        root: the checkout.
        port: where the own one listens, and nowhere else; by default 4200 or, where that is taken, any free port.
        lasting: whether runs of this checkout may use it too: it lasts longer than they do.
        guest: whether one that ends with somebody's run will do.

    Raises:
        StageError: the port is taken, or the server did not start; names its log.
    """
    before = {name: os.environ.get(name) for name in (*prefect_environment(root), "PREFECT_API_URL")}
    os.environ.update(prefect_environment(root))
    Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)
    try:
        url = before["PREFECT_API_URL"] or _kept(_LASTING, root) or (_kept(_PASSING, root) if guest else None)
        if url:
            os.environ["PREFECT_API_URL"] = url
            yield url
        else:
            with _own(root, port, lasting) as url:
                os.environ["PREFECT_API_URL"] = url
                yield url
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def healthy(url: str) -> bool:
    """Whether a Prefect API, or MLflow's pages, answer at ``url``."""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def is_gone(url: str) -> bool:
    """Whether nothing listens at ``url`` any more; what answers late on a busy machine is still there."""
    place = urllib.parse.urlsplit(url)
    try:
        port = place.port or (443 if place.scheme == "https" else 80)
        socket.create_connection((place.hostname or "", port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False


def free_port(preferred: int) -> int:
    """``preferred`` where nothing listens there on loopback, otherwise any free port."""
    for port in (preferred, 0):
        with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return probe.getsockname()[1]
    raise StageError("No port is free on 127.0.0.1.")


def _kept(name: str, root: Path) -> str | None:
    """The address of the server that the note ``name`` in this checkout tells of, where it runs."""
    with contextlib.suppress(FileNotFoundError):
        note = read_json(var_directory(root) / "prefect" / name)
        if lives(note["process"]) and healthy(note["url"]):
            LOG.info("Using the Prefect server at %s.", note["url"])
            return note["url"]
    return None


@contextmanager
def _own(root: Path, port: int | None, lasting: bool) -> Iterator[str]:
    home = Path(os.environ["PREFECT_HOME"])
    wanted, port = port, free_port(PORT if port is None else port)
    if wanted not in (None, port):  # whoever answers there would be taken for the server that is started below
        raise StageError(
            f"Port {wanted} of this machine is taken. Choose another: --port of gantry serve, --prefect-port of gantry ui."
        )
    url = f"http://127.0.0.1:{port}/api"
    log = home / "server.log"
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    # The page that it serves has to know the address that the browser is to ask.
    environment = {**os.environ, "PREFECT_UI_API_URL": url, "PREFECT_SERVER_UI_API_URL": url}
    LOG.info("Starting a Prefect server of this checkout at http://127.0.0.1:%d (log: %s).", port, log)
    with log.open("ab") as output:
        process = subprocess.Popen(
            guarded(command), stdout=output, stderr=output, env=environment, start_new_session=True
        )
    note = {"url": url, "process": identity(process.pid)}
    place = var_directory(root) / "prefect" / (_LASTING if lasting else _PASSING)
    try:
        deadline = time.monotonic() + START_SECONDS
        while process.poll() is not None or not healthy(url):
            if process.poll() is not None or time.monotonic() > deadline:
                raise StageError(f"The Prefect server did not start on port {port}. Its log is {log}.")
            time.sleep(0.2)
        write_json(place, note)
        yield url
    finally:
        with contextlib.suppress(FileNotFoundError):
            if read_json(place) == note:  # another may have written its own meanwhile
                place.unlink()
        process.send_signal(signal.SIGTERM)
        process.wait()
