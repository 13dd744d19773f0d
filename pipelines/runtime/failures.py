"""What the command line says of an error that ends it: one line, and for what nobody expected the place of its traceback."""

import os
import sys
import tempfile
import time
import traceback
from pathlib import Path

from gan_core.disk import refusal, what_failed
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
"""Whom an error comes from, by the package that defines its class or, of Python's own classes, that raises it."""

MAX_LOGS = 20
"""Tracebacks that are kept in one folder."""
_LOG = "gantry-error-"


def explain(error: BaseException) -> str:
    """One line for people about an error that ends a command, without secrets; it may be followed by what a GantryError says.

    An error of Gantry's own, of the disk or of the system names its remedy. What comes of a library or of nowhere known gets
    the place of a file with its traceback; only the last asks for a report.
    """
    return redact_credentials(_explain(error))


def _explain(error: BaseException) -> str:
    if isinstance(error, GantryError):
        return str(error)
    if refused := refusal(error):
        refused.filename = refused.filename or tempfile.gettempdir()
        return what_failed(refused)
    if isinstance(error, ConnectionError | TimeoutError) and (not isinstance(error, OSError) or error.filename is None):
        return f"A server did not answer ({_short(error)}). Check that it runs, and run this again. {_kept(error)}"
    if isinstance(error, OSError) and error.filename is not None and type(error).__module__ == "builtins":
        return what_failed(error)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return f"Out of memory. Close other programs, or make the batch, the pictures or the network smaller. {_kept(error)}"
    packages = [kind.__module__.split(".")[0] for kind in type(error).__mro__] + [_raised_by(error)]
    if client := next((_CLIENTS[package] for package in packages if package in _CLIENTS), None):
        return f"{client} failed: {type(error).__name__}: {_short(error)}. {_kept(error)}"
    return (
        f"Gantry met an error that it does not know ({type(error).__name__}: {_short(error)}). This is a fault of Gantry's: "
        f"please report it. {_kept(error)}"
    )


def _raised_by(error: BaseException) -> str:
    """The package whose code raised ``error``, whatever class it has: the innermost that is not Python's own; or ""."""
    frames = list(traceback.walk_tb(error.__traceback__))
    packages = [str(frame.f_globals.get("__name__", "")).split(".")[0] for frame, _ in frames]
    return next((package for package in reversed(packages) if package not in sys.stdlib_module_names), "")


def _short(error: BaseException) -> str:
    """The first line of what an error says, at most 300 characters of it, without a full stop."""
    line = next(iter(str(error).strip().splitlines()), "").strip().rstrip(".")
    return line[:300] or "no reason given"


def _kept(error: BaseException) -> str:
    """Write the traceback of ``error`` to a file that only its owner reads, and say where it is.

    The newest :data:`MAX_LOGS` of such files of this user's stay in the folder; older ones are removed.
    """
    text = redact_credentials("".join(traceback.format_exception(error)))
    checkout = Checkout.at()
    folder = checkout.var if checkout.params.is_file() else Path(tempfile.gettempdir())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Of mode 0600: a traceback may quote data.
        descriptor, path = tempfile.mkstemp(prefix=time.strftime(f"{_LOG}%Y%m%d-%H%M%S-"), suffix=".log", dir=folder)
        with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
        _remove_old(folder)
    except OSError as failed:
        return f"Its traceback cannot be written to {folder.resolve()} ({failed.strerror}):\n{text}"
    return f"Its traceback is in {Path(path).resolve()}."


def _remove_old(folder: Path) -> None:
    logs = [path for path in folder.glob(f"{_LOG}*.log") if path.lstat().st_uid == os.geteuid()]
    for path in sorted(logs, key=lambda path: path.lstat().st_mtime_ns)[:-MAX_LOGS]:
        path.unlink(missing_ok=True)
