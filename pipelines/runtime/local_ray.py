"""A Ray cluster on this machine that nobody but its owner reaches, and a watch over its processes.

By its own settings Ray listens on all interfaces, also with ``_node_ip_address="127.0.0.1"``, keeps its token in a file
that everyone may read, opens its folder of logs and sockets to every user, and serves metrics without a token.
"""

import os
import secrets
import shutil
import signal
import stat
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import psutil

from gan_core.errors import StageError
from pipelines.runtime.guard import identity, lives
from pipelines.runtime.redaction import keep_secret

LOOPBACK = "127.0.0.1"
START_SECONDS = 120
_BELOW = "s"
"""The folder that Ray is given, in one that only the owner may enter: Ray opens its own to every user."""
# s/session_2026-11-23_18-29-08_412881_1234567/sockets/plasma_store.4294967295 and a slash before it
_LONGEST_BELOW = 80
_LONGEST_SOCKET = 107 if sys.platform == "linux" else 103
_KEPT_SESSIONS = 3
_CORE = {"gcs_server": "control store (GCS)", "raylet": "node manager (raylet)"}
"""The processes that Ray does not start again, and what they are."""


def new_token() -> str:
    """A token for one cluster; it is a secret of this process from now on."""
    token = secrets.token_hex(32)
    keep_secret(token)
    return token


def private_environment(token: str) -> dict[str, str]:
    """The variables under which a Ray cluster is started and used so that its owner alone reaches it.

    Every process of the cluster and everything that connects to it needs them before it imports Ray. A user's own
    limits of time are kept; the token and the loopback interface are not up to the environment.
    """
    patience = {
        # Both are half a minute by default, which a busy machine may not make.
        "RAY_raylet_start_wait_time_s": str(START_SECONDS),
        "RAY_gcs_server_port_wait_time_s": str(START_SECONDS),
        # A control store that died does not come back here; after a minute by default.
        "RAY_gcs_rpc_server_reconnect_timeout_s": "20",
        # Ray starts its workers at niceness 15: beside anything else that computes, training would stand still.
        "RAY_worker_niceness": "0",
    }
    return {
        **{name: os.environ.get(name, value) for name, value in patience.items()},
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        # A switch named after the systems where Ray, unless it is set, stays on loopback.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # These servers ask for no token and have no switch. There is no port -1: they note that and do not start.
        "AUTOSCALER_METRIC_PORT": "-1",
        "DASHBOARD_METRIC_PORT": "-1",
    }


@contextmanager
def private_ray(token: str) -> Iterator[None]:
    """Have this process use Ray under :func:`private_environment` for the length of the block."""
    settings = private_environment(token)
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    import ray._private.ray_constants as constants

    several_machines, constants.ENABLE_RAY_CLUSTER = constants.ENABLE_RAY_CLUSTER, False
    _read_again()
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = several_machines
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        _read_again()


def _read_again() -> None:
    """Ray keeps what the environment said when it was imported, and the token that it used last."""
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]  # a compiled module

    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def session_folder(wanted: Path) -> str:
    """A folder for Ray's logs and sockets that only the owner may enter: in ``wanted``, freed of old sessions' logs.

    Where the path is too long for a socket, it is one in the system's folder for temporary files.

    Raises:
        StageError: that folder belongs to somebody else.
    """
    temporary = [Path(parent) / f"gantry-ray-{os.getuid()}" for parent in (tempfile.gettempdir(), "/tmp")]
    fitting = (place for place in (wanted, *temporary) if len(os.fsencode(place)) + _LONGEST_BELOW <= _LONGEST_SOCKET)
    folder = next(fitting, temporary[-1])
    with suppress(FileExistsError):  # a file or a link, which the next lines refuse
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        what = f"belongs to another user (uid {found.st_uid})" if stat.S_ISDIR(found.st_mode) else "is not a folder"
        raise StageError(
            f"{folder} is for Ray's sockets and {what}. Remove it, set TMPDIR to a folder of your own, or use a checkout with "
            "a shorter path."
        )
    folder.chmod(0o700)
    # Editions before this one had the sessions in the folder itself.
    for place in (folder, folder / _BELOW):
        sessions = sorted(path for path in place.glob("session_2*") if path.is_dir() and not path.is_symlink())
        for session in sessions[:-_KEPT_SESSIONS]:
            _remove_session(session)
    return str(folder / _BELOW)


def _remove_session(session: Path) -> None:
    # The name ends with the number of the process that started it.
    owner = session.name.rpartition("_")[2]
    if owner.isdigit() and not psutil.pid_exists(int(owner)):
        shutil.rmtree(session, ignore_errors=True)


def core_processes() -> dict[str, str]:
    """The identities of the processes that a cluster started by this process cannot do without, by what they are."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if process.name() in _CORE:
                found[_CORE[process.name()]] = identity(process.pid)
    return found


class Watch:
    """Interrupts the main thread (KeyboardInterrupt) when a process of the cluster has died.

    Ray itself waits for a minute and more, and then ends the process without an exception.

    Args:
        processes: identities of the processes, by what they are.
        every: seconds between two looks.
    """

    def __init__(self, processes: Mapping[str, str], every: float = 1.0) -> None:
        self._processes, self._every = dict(processes), every
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="ray-watch", daemon=True)
        self._main = threading.current_thread() is threading.main_thread()
        self.died: str | None = None
        """What has died, and its process number."""

    def look(self) -> str | None:
        """What has died by now, or None."""
        for what, process in self._processes.items():
            if self.died is None and not lives(process):
                self.died = f"{what}, process {process.rsplit(':', 2)[1]},"
        return self.died

    def __enter__(self) -> "Watch":
        if self._main:
            self._before = signal.signal(signal.SIGUSR1, _interrupt)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()
        if self._main:
            signal.signal(signal.SIGUSR1, self._before)

    def _watch(self) -> None:
        while not self._over.wait(self._every):
            if self.look() and self._main:
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
                self._every = 5.0  # again, should a finaliser have swallowed it


def _interrupt(number: int, frame: FrameType | None) -> None:
    # Ray passes on no exception from a signal's handler but this one and SystemExit.
    raise KeyboardInterrupt
