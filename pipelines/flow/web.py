"""A web server of Prefect or MLflow on this machine, for the owner of a checkout alone.

- Its password is the checkout's own: made once, in ``var/prefect/auth``, which the owner alone may read, and passed on
  by the environment. :mod:`pipelines.flow.door` asks for it.
- Its port is taken before it is started, and it inherits the socket. Nobody can come in between.
- It proves that it is this checkout's server by an answer that takes the password to compute, and that says nothing of it.
"""

import contextlib
import errno
import logging
import os
import secrets
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Literal

from gan_core.errors import StageError
from gan_core.files import replacing
from gan_core.locks import lock
from pipelines.flow.door import AUTH_VARIABLE, PROOF_PATH, SIGN_IN_PATH, proof
from pipelines.runtime.checkout import Checkout
from pipelines.runtime.guard import guarded
from pipelines.runtime.redaction import keep_secret

LOG = logging.getLogger(__name__)

START_SECONDS = 120.0
"""Two busy cores need 16 s and more to start Prefect's server."""
RESTARTS = 3
"""How often a server whose process was killed is started again."""
WATCH_SECONDS = 0.5
"""How often its process is looked at."""
ANSWER_SECONDS = 5.0
"""How long an answer that proves whose a server is may take."""
HOSTS = ("127.0.0.1", "::1")
"""Where to listen: the first that this machine has."""
USER = "gantry"
_NO_SUCH_ADDRESS = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""This machine is never asked through a proxy."""


def own_auth(checkout: Checkout) -> str:
    """``user:password`` of the servers of ``checkout``, made when there is none that only its owner can read.

    Raises:
        OSError: the file can be neither read nor written; names it.
    """
    path = checkout.auth
    folder = os.open(private_folder(path.parent), os.O_RDONLY)
    try:
        lock(folder)  # of two processes, the second takes what the first has made
        with contextlib.suppress(FileNotFoundError):
            # One that others could read once is no secret any more.
            if not stat.S_IMODE(path.stat().st_mode) & 0o077 and (auth := path.read_text(encoding="ascii").strip()):
                return _known(auth)
        made = f"{USER}:{secrets.token_urlsafe(32)}"
        with replacing(path) as temporary:
            temporary.touch(mode=0o600)
            temporary.write_text(f"{made}\n", encoding="ascii")
        return _known(made)
    finally:
        os.close(folder)


def _known(auth: str) -> str:
    keep_secret(auth)
    keep_secret(auth.partition(":")[2])
    return auth


def private_folder(path: Path) -> Path:
    """Make ``path`` a folder that nobody but its owner can look into."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        path.chmod(0o700)
    return path


def sign_in_page(checkout: Checkout, name: str, address: str) -> Path:
    """A file that leads a browser to the pages at ``address``, signed in. Only the owner can read it: it holds the password.

    A browser is given the file, not the address, which every user could read among the browser's arguments.
    """
    user, _, password = own_auth(checkout).partition(":")
    target = address.replace("://", f"://{user}:{urllib.parse.quote(password)}@", 1) + SIGN_IN_PATH
    path = checkout.auth.with_name(f"sign-in-{name}.html")
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(f'<!doctype html><title>{name}</title><meta http-equiv="refresh" content="0; url={target}">\n')
    return path


def listen(preferred: int, *, only: bool = False, hosts: tuple[str, ...] = HOSTS) -> socket.socket:
    """A socket that listens on loopback.

    Args:
        preferred: its port.
        only: whether no other port will do; otherwise, where this one is taken, any free one is used.
        hosts: addresses to try in turn.

    Raises:
        StageError: the port is taken, or this machine has no loopback address.
    """
    for host in hosts:
        for port in (preferred,) if only else (preferred, 0):
            listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
            try:
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listening.bind((host, port))
                # Two sockets may be bound to a port; only one may listen.
                listening.listen(128)
            except OSError as error:
                listening.close()
                if error.errno in _NO_SUCH_ADDRESS:
                    break
                if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                    raise
                continue
            if port != preferred:
                LOG.info("Port %d is taken; listening on port %d.", preferred, listening.getsockname()[1])
            return listening
        else:
            raise StageError(
                f"Port {preferred} of this machine is taken or not yours to use. Choose another: --port of gantry serve, "
                "--prefect-port and --mlflow-port of gantry ui."
            )
    raise StageError(f"This machine has no loopback address ({', '.join(hosts)}): bring its loopback interface up.")


def address_of(listening: socket.socket) -> str:
    """The address of a listening socket: ``http://127.0.0.1:4200``."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextmanager
def own_server(
    app: Literal["prefect", "mlflow"],
    checkout: Checkout,
    listening: socket.socket,
    environment: Mapping[str, str],
    log: Path,
) -> Iterator[str]:
    """The address of a server of this checkout, such as ``http://127.0.0.1:4200``; ended with the block and this process.

    A server that is killed in between is started again, :data:`RESTARTS` times. Its socket stays open meanwhile, so that
    clients wait in place of being refused.

    Args:
        app: whose.
        checkout: its root is the server's working directory.
        listening: from :func:`listen`.
        environment: all of its environment but the password.
        log: where its output goes.

    Raises:
        StageError: it did not start; names its log.
    """
    auth = own_auth(checkout)
    address = address_of(listening)
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pipelines.flow.door", app, str(listening.fileno())]

    def start() -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            return subprocess.Popen(
                guarded(command),
                cwd=checkout.root,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**environment, AUTH_VARIABLE: auth},
                pass_fds=(listening.fileno(),),
                start_new_session=True,
            )

    process = start()
    with listening:
        try:
            deadline = time.monotonic() + START_SECONDS
            while process.poll() is not None or whose(address, auth) != "ours":
                if process.poll() is not None or time.monotonic() > deadline:
                    raise StageError(_not_started(f"The {TITLES[app]} server at {address}", process, log))
                time.sleep(0.2)
        except BaseException:
            _end(process)
            raise
        with _kept_alive(process, start, listening, f"The {TITLES[app]} server at {address} has ended (log: {log})"):
            yield address


def _not_started(server: str, process: subprocess.Popen[bytes], log: Path) -> str:
    """What to say of a server that did not start: why, as far as it is known, and what to do."""
    if process.poll() is None:
        return (
            f"{server} did not answer within {START_SECONDS:.0f} s while it started. The machine may be busy: end other "
            f"programs and run this again. Its log is {log}."
        )
    said = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    last = f" with: {said[-1][:300].rstrip('.')}" if said else ""
    return f"{server} ended while it started{last}. Correct that and run this again. Its log is {log}."


@contextmanager
def _kept_alive(
    process: subprocess.Popen[bytes], start: Callable[[], subprocess.Popen[bytes]], listening: socket.socket, ended: str
) -> Iterator[None]:
    """Start a server again for as long as the block lasts when its process ends; end it with the block.

    When it has ended once more than :data:`RESTARTS` times, its socket is closed: clients are refused from then on.
    """
    current, over = [process], threading.Event()

    def keep() -> None:
        for left in reversed(range(RESTARTS + 1)):
            while current[0].poll() is None:
                if over.wait(WATCH_SECONDS):
                    return
            if over.is_set():
                return
            if not left:
                LOG.error("%s again and again; it is not started any more.", ended)
                listening.close()
                return
            LOG.warning("%s; starting it again.", ended)
            try:
                current[0] = start()
            except OSError as error:  # memory or processes are short
                LOG.error("It cannot be started: %s.", error)
                listening.close()
                return

    keeper = threading.Thread(target=keep, name="server-keeper", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        over.set()
        keeper.join()
        _end(current[0])


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    process.wait()


TITLES = {"prefect": "Prefect", "mlflow": "MLflow"}


def whose(address: str, auth: str) -> Literal["ours", "another's", "silent", "nobody's"]:
    """Who answers at ``address``: the server that knows ``auth``, another one, nothing in time, or nothing at all.

    The password is not sent.
    """
    nonce = secrets.token_hex(16)
    port = urllib.parse.urlsplit(address).port or 80
    try:
        with _DIRECT.open(f"{address}{PROOF_PATH}?nonce={nonce}", timeout=ANSWER_SECONDS) as answer:
            said = answer.read(1000).decode("latin-1")
    except OSError as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ConnectionRefusedError):
            return "nobody's"
        return "another's" if hasattr(error, "code") else "silent"
    except HTTPException:
        return "another's"
    return "ours" if secrets.compare_digest(said.encode(), proof(auth, port, nonce).encode()) else "another's"
