"""Settings for a Ray cluster on this machine that only its owner can reach, and a watch over its processes.

With its default settings, Ray listens on all interfaces (even with ``_node_ip_address="127.0.0.1"``), keeps its token in a file
that everyone can read, opens its folder of logs and sockets to every user, and serves metrics without a token.
"""

import errno
import os
import secrets
import shutil
import signal
import socket
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
from pipelines.runtime.guard import is_process_alive, process_identity
from pipelines.runtime.redaction import register_secret

LOOPBACK = "127.0.0.1"
START_SECONDS = 120
_BELOW = "s"
"""Name of the folder for Ray, inside one that only the owner can enter: Ray opens its own folder to every user."""
# Length of s/session_2026-11-23_18-29-08_412881_1234567/sockets/plasma_store.4294967295 and a slash before it.
_LONGEST_BELOW = 80
_LONGEST_SOCKET = 107 if sys.platform == "linux" else 103
_KEPT_SESSIONS = 3
_CORE = {"gcs_server": "control store (GCS)", "raylet": "node manager (raylet)"}
"""The processes that Ray does not restart: what each is, by the name of its program."""


def new_token() -> str:
    """A token for one cluster. From now on, this process removes it from all that it prints."""
    token = secrets.token_hex(32)
    register_secret(token)
    return token


def private_environment(token: str) -> dict[str, str]:
    """Environment variables that start and use a Ray cluster so that only its owner can reach it.

    Every process of the cluster, and every process that connects to it, needs them before it imports Ray. Time limits that the
    user has set are kept; the token and the loopback interface are always set.
    """
    time_limits = {
        # Ray's default for both is half a minute, which is too short on a busy machine.
        "RAY_raylet_start_wait_time_s": str(START_SECONDS),
        "RAY_gcs_server_port_wait_time_s": str(START_SECONDS),
        # A control store that died does not come back. Ray's default is to wait a minute for it.
        "RAY_gcs_rpc_server_reconnect_timeout_s": "20",
        # Ray starts its workers at niceness 15: training would make no progress beside other computations.
        "RAY_worker_niceness": "0",
    }
    return {
        **{name: os.environ.get(name, value) for name, value in time_limits.items()},
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        # Keeps Ray on loopback. It is named after the systems where that is the default.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # These servers need no token and cannot be switched off. The impossible port -1 keeps them from starting.
        "AUTOSCALER_METRIC_PORT": "-1",
        "DASHBOARD_METRIC_PORT": "-1",
        # It looks whether a node is about to be taken away, in a process of its own. There is only one node.
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    }


@contextmanager
def private_ray(token: str) -> Iterator[None]:
    """Set :func:`private_environment` for this process and Ray in it for the length of the block.

    Ray reads these settings, the token included, from the environment of the process alone, and its C++ core keeps a copy.
    """
    settings = private_environment(token)
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    import ray._private.ray_constants as constants

    several_machines, constants.ENABLE_RAY_CLUSTER = constants.ENABLE_RAY_CLUSTER, False
    _reload_ray_settings()
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = several_machines
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        _reload_ray_settings()


def _reload_ray_settings() -> None:
    """Make Ray read the environment and the token again. It reads them when it is imported and keeps them."""
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]  # a compiled module

    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def session_folder(wanted: Path) -> str:
    """Make a folder in ``wanted`` for Ray's logs and sockets that only the owner can enter; remove old sessions from it.

    If the path is too long for a socket, or its file system has none (a Windows disk in WSL, SMB), the folder is in the
    system's temporary folder instead.

    Raises:
        StageError: the folder belongs to another user, or is not a folder.
    """
    temporary = [Path(parent) / f"gantry-ray-{os.getuid()}" for parent in (tempfile.gettempdir(), "/tmp")]
    fitting = [place for place in (wanted, *temporary) if len(os.fsencode(place)) + _LONGEST_BELOW <= _LONGEST_SOCKET]
    folder = temporary[-1]
    for folder in fitting or temporary[-1:]:
        _make_private(folder)
        if _takes_sockets(folder):
            break
    # Earlier versions of Gantry kept the sessions in the folder itself.
    for place in (folder, folder / _BELOW):
        sessions = sorted(path for path in place.glob("session_2*") if path.is_dir() and not path.is_symlink())
        for session in sessions[:-_KEPT_SESSIONS]:
            _remove_session(session)
    return str(folder / _BELOW)


def _make_private(folder: Path) -> None:
    """Make ``folder``, which only its owner can enter; raises StageError if it is another user's, or no folder."""
    with suppress(FileExistsError):  # a file or a link: the next lines raise
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        what = f"belongs to another user (uid {found.st_uid})" if stat.S_ISDIR(found.st_mode) else "is not a folder"
        raise StageError(
            f"Ray needs the folder {folder} for its sockets, but it {what}. Remove it, set TMPDIR to a folder of your own, or "
            "use a project with a shorter path."
        )
    folder.chmod(0o700)


def _takes_sockets(folder: Path) -> bool:
    """Whether the file system of ``folder`` has Unix sockets."""
    place = folder / f"{os.getpid()}.probe"
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.bind(str(place))
        except OSError as error:
            return error.errno not in (errno.EOPNOTSUPP, errno.EPERM)
    place.unlink()
    return True


def _remove_session(session: Path) -> None:
    # The name ends with the id of the process that started the session.
    owner = session.name.rpartition("_")[2]
    if owner.isdigit() and not psutil.pid_exists(int(owner)):
        shutil.rmtree(session, ignore_errors=True)


def core_processes() -> dict[str, str]:
    """The core processes of the cluster that this process started: the identity of each, by what it is."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if process.name() in _CORE:
                found[_CORE[process.name()]] = process_identity(process.pid)
    return found


class ProcessWatch:
    """Raises KeyboardInterrupt in the main thread when a core process of the cluster has died.

    Ray itself waits for a minute or more and then ends the process without an exception.

    Args:
        processes: identities of the processes, by what they are (:func:`core_processes`).
        every: seconds between two checks.
    """

    def __init__(self, processes: Mapping[str, str], every: float = 1.0) -> None:
        self._processes, self._every = dict(processes), every
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="ray-watch", daemon=True)
        self._main = threading.current_thread() is threading.main_thread()
        self.died: str | None = None
        """What has died and its process id, or None."""

    def find_dead(self) -> str | None:
        """Check the processes; return what has died and its process id, or None."""
        for what, process in self._processes.items():
            if self.died is None and not is_process_alive(process):
                self.died = f"{what}, process {process.rsplit(':', 2)[1]},"
        return self.died

    def __enter__(self) -> "ProcessWatch":
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
            if self.find_dead() and self._main:
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
                self._every = 5.0  # repeat it, in case a finaliser swallowed the exception


def _interrupt(number: int, frame: FrameType | None) -> None:
    # Of the exceptions of a signal handler, Ray passes on only KeyboardInterrupt and SystemExit.
    raise KeyboardInterrupt
