"""Run a web server of Prefect or MLflow on this machine that only the owner of the checkout can use.

- Its password is made once for the checkout, saved in ``var/prefect/auth``, which only the owner can read, and passed in the
  environment. :mod:`pipelines.flow.auth_middleware` checks it.
- Its socket is opened before it starts, and it inherits the socket, so that no other program can take the port in between.
- It proves that it is this checkout's server by an answer that needs the password but does not reveal it.
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
from gan_core.files import atomic_write
from gan_core.locks import lock
from pipelines.flow.auth_middleware import AUTH_VARIABLE, PROOF_PATH, SIGN_IN_PATH, proof
from pipelines.runtime.checkout import VAR_VARIABLE, Checkout
from pipelines.runtime.guard import guarded_command
from pipelines.runtime.redaction import register_secret

LOG = logging.getLogger(__name__)

START_SECONDS = 120.0
"""Time limit for a server to start. Prefect's needs 16 s or more on two busy cores."""
RESTARTS = 3
"""Maximum number of restarts of a server that was killed."""
WATCH_SECONDS = 0.5
"""Seconds between two checks whether the server's process still runs."""
ANSWER_SECONDS = 5.0
"""Time limit for the answer by which a server identifies itself."""
HOSTS = ("127.0.0.1", "::1")
"""Addresses to listen on: the first that this machine has is used."""
USER = "gantry"
_NO_SUCH_ADDRESS = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Opens addresses of this machine without a proxy."""


def checkout_auth(checkout: Checkout) -> str:
    """``user:password`` of the servers of ``checkout``. Made new if there is no file that only the owner can read.

    Raises:
        OSError: the file can be neither read nor written.
        StageError: the file system keeps no permissions, so that others can read the file.
    """
    path = checkout.auth
    folder = os.open(private_folder(path.parent), os.O_RDONLY)
    try:
        lock(folder)  # of two processes, the second uses the password that the first has made
        with contextlib.suppress(FileNotFoundError):
            # A password that others could read is no longer a secret.
            if not stat.S_IMODE(path.stat().st_mode) & 0o077 and (auth := path.read_text(encoding="ascii").strip()):
                return _register_secret(auth)
        made = f"{USER}:{secrets.token_urlsafe(32)}"
        with atomic_write(path) as temporary:
            temporary.touch(mode=0o600)
            temporary.write_text(f"{made}\n", encoding="ascii")
        if stat.S_IMODE(path.stat().st_mode) & 0o077:  # the next call would make another password
            path.unlink()
            raise StageError(
                f"The password of this checkout's servers cannot be kept in {path.parent}: the file system there has no "
                f"permissions, so that others could read it. Set {VAR_VARIABLE} to a folder on one that has, such as "
                "~/gantry-var."
            )
        return _register_secret(made)
    finally:
        os.close(folder)


def _register_secret(auth: str) -> str:
    register_secret(auth)
    register_secret(auth.partition(":")[2])
    return auth


def private_folder(path: Path) -> Path:
    """Make ``path`` a folder that only its owner can open."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        path.chmod(0o700)
    return path


def sign_in_page(checkout: Checkout, name: str, address: str) -> Path:
    """Write a file that redirects a browser to ``address`` and signs it in. Only the owner can read it: it has the password.

    The browser gets the file, not the address, because every user can read the browser's arguments.
    """
    user, _, password = checkout_auth(checkout).partition(":")
    target = address.replace("://", f"://{user}:{urllib.parse.quote(password)}@", 1) + SIGN_IN_PATH
    path = checkout.auth.with_name(f"sign-in-{name}.html")
    with atomic_write(path) as temporary:  # two commands may write it at once
        temporary.touch(mode=0o600)
        page = f'<!doctype html><title>{name}</title><meta http-equiv="refresh" content="0; url={target}">\n'
        temporary.write_text(page, encoding="utf-8")
    return path


def listen(preferred: int, *, only: bool = False, hosts: tuple[str, ...] = HOSTS) -> socket.socket:
    """Open a socket that listens on loopback.

    Args:
        preferred: its port; 0 for any free one.
        only: whether the port is required. If False and the port is taken, any free one is used.
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
                # Two sockets can be bound to a port, but only one can listen.
                listening.listen(128)
            except OSError as error:
                listening.close()
                if error.errno in _NO_SUCH_ADDRESS:
                    break
                if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                    raise
                continue
            if preferred and port != preferred:
                LOG.info("Port %d is taken; listening on port %d.", preferred, listening.getsockname()[1])
            return listening
        else:
            raise StageError(
                f"Port {preferred} of this machine is in use, or you have no permission to use it. Choose another with --port "
                "of gantry serve or gantry play, or --prefect-port and --mlflow-port of gantry ui."
            )
    raise StageError(f"This machine has no loopback address ({', '.join(hosts)}). Bring its loopback interface up.")


def address_of(listening: socket.socket) -> str:
    """The address of a listening socket: ``http://127.0.0.1:4200``."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextmanager
def run_server(
    app: Literal["prefect", "mlflow"],
    checkout: Checkout,
    listening: socket.socket,
    environment: Mapping[str, str],
    log: Path,
) -> Iterator[str]:
    """Run a server of this checkout for the length of the block; yields its address, such as ``http://127.0.0.1:4200``.

    The server also ends if this process is killed. A server that is killed is restarted up to :data:`RESTARTS` times. Its
    socket stays open meanwhile, so that clients wait and are not refused.

    Args:
        app: the web app to serve.
        checkout: its root is the server's working directory.
        listening: a socket from :func:`listen`.
        environment: the server's environment, without the password.
        log: file for the server's output.

    Raises:
        StageError: the server did not start. The message names its log.
    """
    auth = checkout_auth(checkout)
    address = address_of(listening)
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pipelines.flow.auth_middleware", app, str(listening.fileno())]
    begin = log.stat().st_size if log.is_file() else 0

    def start() -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            return subprocess.Popen(
                guarded_command(command),
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
            while process.poll() is not None or identify_server(address, auth) != "ours":
                if process.poll() is not None or time.monotonic() > deadline:
                    raise StageError(_not_started(f"The {TITLES[app]} server at {address}", process, log, begin))
                time.sleep(0.2)
        except BaseException:
            _end(process)
            raise
        with _kept_alive(process, start, listening, f"The {TITLES[app]} server at {address} has ended (log: {log})"):
            yield address


def _not_started(server: str, process: subprocess.Popen[bytes], log: Path, begin: int) -> str:
    """The error message of a server that did not start: the reason, if known, and a remedy.

    ``begin`` is the size of the log when it was started: what stands before is of earlier servers.
    """
    if process.poll() is None:
        return (
            f"{server} did not start within {START_SECONDS:.0f} s. The machine may be busy: close other programs and run this "
            f"again. Its log is {log}."
        )
    with log.open("rb") as file:
        file.seek(begin)
        text = file.read().decode("utf-8", "replace")
    said = [line.strip() for line in text.splitlines() if line.strip()]
    last = f"with: {said[-1][:300].rstrip('.')}" if said else f"without a message (status {process.returncode})"
    remedy = "Fix this and run the command again." if said else "Run this again."
    return f"{server} ended during its start {last}. {remedy} Its log is {log}."


@contextmanager
def _kept_alive(
    process: subprocess.Popen[bytes], start: Callable[[], subprocess.Popen[bytes]], listening: socket.socket, ended: str
) -> Iterator[None]:
    """Restart a server when its process ends, for the length of the block; then end it.

    After :data:`RESTARTS` restarts, its socket is closed, and clients are refused from then on.
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
                LOG.error("%s several times; it is not restarted any more.", ended)
                listening.close()
                return
            LOG.warning("%s; restarting it.", ended)
            try:
                current[0] = start()
            except OSError as error:  # too little memory or too many processes
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


def identify_server(address: str, auth: str) -> Literal["ours", "other", "no answer", "none"]:
    """Which server answers at ``address``, without sending the password.

    Returns:
        "ours" for the server that knows ``auth``, "other" for another one, "no answer" for one that does not answer in time,
        and "none" if the connection is refused.
    """
    nonce = secrets.token_hex(16)
    port = urllib.parse.urlsplit(address).port or 80
    try:
        with _DIRECT.open(f"{address}{PROOF_PATH}?nonce={nonce}", timeout=ANSWER_SECONDS) as answer:
            said = answer.read(1000).decode("latin-1")
    except OSError as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ConnectionRefusedError):
            return "none"
        return "other" if hasattr(error, "code") else "no answer"
    except HTTPException:
        return "other"
    return "ours" if secrets.compare_digest(said.encode(), proof(auth, port, nonce).encode()) else "other"
