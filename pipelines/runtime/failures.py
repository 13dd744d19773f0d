"""Turn the error that ends a command into one line; the traceback of an unexpected error goes to a file."""

import errno
import os
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from pathlib import Path

from gan_core.disk import describe_os_error, find_disk_error
from gan_core.errors import GantryError
from pipelines.runtime.checkout import Checkout
from pipelines.runtime.redaction import redact_credentials

_CLIENTS = {
    "mlflow": "MLflow",
    "sqlalchemy": "The database",
    "sqlite3": "The database",
    "prefect": "Prefect",
    "httpx": "A server",
    "httpcore": "A server",
    "requests": "A server",
    "urllib3": "A server",
    "urllib": "A server",
    "http": "A server",
    "ssl": "A server",
    "socket": "A server",
    "fsspec": "The storage",
    "botocore": "The storage",
    "aiohttp": "A server",
    "ray": "Ray",
    "dvc": "DVC",
    "scmrepo": "Git",
    "pyarrow": "Arrow",
    "PIL": "Pillow",
}
"""What failed, by the package that defines the class of the error or, for Python's own classes, that raises it."""

_UNNAMED = (
    "no space left on device, somewhere that this command writes: the file that its output goes to, the project, or the "
    "temporary folder. Free some space there, or choose another folder."
)
_FULL = 1 << 20
"""Free bytes of a disk that is as good as full."""
_LIMITS = {
    errno.EMFILE: "Too many open files. Raise the limit of this shell (ulimit -n 4096), and run this again.",
    errno.ENFILE: "Too many open files on this machine. Close other programs, and run this again.",
    errno.EAGAIN: (
        "The system starts no more processes or threads for this user or container. Close other programs or raise the limit "
        "(ulimit -u, or the container's limit of processes), and run this again."
    ),
    errno.ENOMEM: "The system has no memory left for this. Close other programs, and run this again.",
}
"""Limits of the system that a command may reach, and what to do."""
MAX_LOGS = 20
"""Number of traceback files that are kept in one folder."""
_LOG = "gantry-error-"


def explain_error(error: BaseException) -> str:
    """The message of an error that ends a command, without secrets. It is one line, except that a GantryError may have more.

    Errors of Gantry, of the disk and of the operating system name a remedy. For other errors, the message names a file with
    the traceback. Only if the error comes from no known library does it ask for a bug report.
    """
    return redact_credentials(_explain(error))


def _explain(error: BaseException) -> str:
    if isinstance(error, GantryError):
        return str(error)
    if refused := find_disk_error(error):
        refused.filename = refused.filename or _place_of(refused)
        return describe_os_error(refused) if refused.filename else _UNNAMED
    if limit := _exhausted(error):
        return f"{limit} {_save_traceback(error)}"
    if isinstance(error, ConnectionError | TimeoutError) and (not isinstance(error, OSError) or error.filename is None):
        return f"A server did not answer ({_short(error)}). Check that it runs, and run this again. {_save_traceback(error)}"
    if isinstance(error, FileNotFoundError) and _has_no_current_folder():
        return "The current folder does not exist any more. Change to a folder that does, and run this again."
    if isinstance(error, OSError) and error.filename is not None and type(error).__module__ == "builtins":
        return describe_os_error(error)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return (
            "Out of memory. Close other programs, or make the batch, the pictures or the network smaller. "
            f"{_save_traceback(error)}"
        )
    packages = [kind.__module__.split(".")[0] for kind in type(error).__mro__] + [_raised_by(error)]
    if client := next((_CLIENTS[package] for package in packages if package in _CLIENTS), None):
        return f"{client} failed: {type(error).__name__}: {_short(error)}. {_save_traceback(error)}"
    return (
        f"Unexpected error ({type(error).__name__}: {_short(error)}). This is a bug in Gantry: please report it. "
        f"{_save_traceback(error)}"
    )


def _exhausted(error: BaseException) -> str | None:
    """Which limit of the system ``error`` reports, and how to raise it; None for any other error."""
    if isinstance(error, RuntimeError) and str(error) == "can't start new thread":
        return _LIMITS[errno.EAGAIN]
    # Not a write to a pipe that would have to wait, whose error has the same number and words of its own.
    if not isinstance(error, OSError) or error.errno not in _LIMITS or error.strerror != os.strerror(error.errno):
        return None
    limit = _LIMITS[error.errno]
    return f"{error.filename}: {limit[:1].lower()}{limit[1:]}" if error.filename else limit


def _place_of(error: OSError) -> str | None:
    """The place of a disk error that names none, such as that of standard output; None if it cannot be told.

    Of a full disk: the first of the usual places that is on one.
    """
    if error.errno != errno.ENOSPC:
        return tempfile.gettempdir()
    outputs = [os.path.realpath(f"/proc/self/fd/{number}") for number in (1, 2)]
    for place in (*filter(os.path.isfile, outputs), tempfile.gettempdir(), os.path.abspath(os.curdir)):
        with suppress(OSError):
            usage = os.statvfs(place)
            if usage.f_bavail * usage.f_frsize < _FULL or (usage.f_files and not usage.f_favail):
                return place
    return None


def _has_no_current_folder() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False


def _raised_by(error: BaseException) -> str:
    """The package whose code raised ``error``: the innermost one outside Python's standard library, or ""."""
    frames = list(traceback.walk_tb(error.__traceback__))
    packages = [str(frame.f_globals.get("__name__", "")).split(".")[0] for frame, _ in frames]
    return next((package for package in reversed(packages) if package not in sys.stdlib_module_names), "")


def _short(error: BaseException) -> str:
    """The first line of an error's message without its full stop, at most 300 characters."""
    line = next(iter(str(error).strip().splitlines()), "").strip().rstrip(".")
    return line[:300] or "no reason given"


def _save_traceback(error: BaseException) -> str:
    """Write the traceback of ``error`` to a file that only its owner can read; return a sentence that names the file.

    The newest :data:`MAX_LOGS` traceback files of this user are kept in the folder; older ones are removed.
    """
    text = redact_credentials("".join(traceback.format_exception(error)))
    folder = _log_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # mkstemp gives mode 0600: a traceback may quote data.
        descriptor, path = tempfile.mkstemp(prefix=time.strftime(f"{_LOG}%Y%m%d-%H%M%S-"), suffix=".log", dir=folder)
        with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
        _remove_old(folder)
    except OSError as failed:
        return f"Its traceback cannot be written to {folder.resolve()} ({failed.strerror}):\n{text}"
    return f"Its traceback is in {Path(path).resolve()}."


def _log_folder() -> Path:
    """The folder for traceback files: ``var`` of the checkout at the current folder, else the system's temporary folder."""
    with suppress(OSError):  # the current folder does not exist any more
        checkout = Checkout.at()
        if checkout.params.is_file():
            return checkout.var
    return Path(tempfile.gettempdir())


def _remove_old(folder: Path) -> None:
    logs = [path for path in folder.glob(f"{_LOG}*.log") if path.lstat().st_uid == os.geteuid()]
    for path in sorted(logs, key=lambda path: path.lstat().st_mtime_ns)[:-MAX_LOGS]:
        path.unlink(missing_ok=True)
