"""Download a package through the registry's own client (pip, npm, apt-get), without installing or running it."""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from gan_core.errors import FetchError

STALL_SECONDS = 60
"""Timeout for a client that writes no data."""
_POLL_SECONDS = 0.2


class ClientError(FetchError):
    """The client is not installed, or cannot download the package."""


ProgressCallback = Callable[[int], None]
"""Called with the number of bytes downloaded so far."""


def download_wheel(requirement: str, folder: Path, on_progress: ProgressCallback) -> Path:
    """Download the wheel of ``requirement`` into ``folder`` with pip: this Python's pip, or else the one on the PATH."""
    # If the user has configured pip's timeout, respect it.
    patience = [] if "PIP_DEFAULT_TIMEOUT" in os.environ else ["--timeout", "15"]
    arguments = ["download", "--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--progress-bar", "off"]
    arguments += ["--retries", "1", "--disable-pip-version-check", *patience, "--dest", str(folder), requirement]
    pip = shutil.which("pip") or shutil.which("pip3")
    if importlib.util.find_spec("pip") is not None:
        command = [sys.executable, "-m", "pip", *arguments]
    elif pip:
        command = [pip, *arguments]
    else:
        raise ClientError(f"pip is not installed. Install it with: {sys.executable} -m ensurepip")
    _run(command, folder, on_progress, {"TMPDIR": str(folder)})
    return _only(folder, "*.whl", requirement)


def download_npm(package: str, folder: Path, on_progress: ProgressCallback) -> Path:
    """Download the tarball of ``package`` into ``folder`` with npm, without running its scripts."""
    npm = shutil.which("npm")
    if not npm:
        raise ClientError("npm is not installed. Install Node.js")
    command = [npm, "pack", package, "--pack-destination", str(folder), "--cache", str(folder / "cache")]
    _run([*command, "--ignore-scripts", "--fetch-retries=1", "--loglevel=error"], folder, on_progress, {})
    return _only(folder, "*.tgz", package)


def download_debian(package: str, folder: Path, on_progress: ProgressCallback) -> Path:
    """Download the ``.deb`` of ``package`` into ``folder`` with apt-get, from the machine's apt sources.

    If apt's package lists are missing (as in a fresh container) or outdated, they are fetched into ``folder``; the system's
    own lists do not change.
    """
    apt = shutil.which("apt-get")
    if not apt:
        raise ClientError("apt-get is not installed; this address works only on Debian and its derivatives")
    patience = [f"-oAcquire::{scheme}::Timeout=5" for scheme in ("http", "https")] + ["-oAcquire::Retries=1"]
    # When run as root, apt would switch to a user that cannot write to the folder.
    patience.append("-oAPT::Sandbox::User=root")
    try:
        _run([apt, *patience, "download", package], folder, on_progress, {"LC_ALL": "C"})
    except ClientError:
        private = [
            f"-oDir::State::Lists={folder / 'lists'}",
            f"-oDir::Cache={folder / 'cache'}",
            "-oDebug::NoLocking=1",
        ]
        (folder / "lists" / "partial").mkdir(parents=True)
        (folder / "cache" / "archives" / "partial").mkdir(parents=True)
        _run([apt, *patience, *private, "update"], folder, lambda done: None, {"LC_ALL": "C"})
        _run([apt, *patience, *private, "download", package], folder, on_progress, {"LC_ALL": "C"})
    return _only(folder, "*.deb", package)


@contextmanager
def debian_tar(archive: Path) -> Iterator[IO[bytes]]:
    """Stream the files of a ``.deb`` package as an uncompressed tar."""
    tool = shutil.which("dpkg-deb")
    if not tool:
        raise ClientError("dpkg-deb, which opens Debian packages, is not installed. Install dpkg")
    with subprocess.Popen([tool, "--fsys-tarfile", str(archive)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield process.stdout
        finally:
            # The reader stops once it has found its member; the rest is not needed.
            process.kill()


def _only(folder: Path, pattern: str, package: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise ClientError(f"the client downloaded {len(found)} {pattern} files for {package}, expected one")
    return found[0]


def _run(command: Sequence[str], folder: Path, on_progress: ProgressCallback, environment: Mapping[str, str]) -> None:
    """Run a client in ``folder`` and report progress; stop it if it stalls. Raises ClientError with its output."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            _watch(process, folder, on_progress, Path(command[0]).name)
        finally:
            if process.poll() is None:
                # Kill the whole process group, because npm and apt start child processes.
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        output.seek(0)
        words = [line.strip() for line in output.read().decode(errors="replace").splitlines() if line.strip()]
    if process.returncode != 0:
        errors = [line for line in words if "error" in line.lower() or line.startswith("E:")] or words
        reason = "; ".join(errors[:3]) or "it printed nothing"
        raise ClientError(f"{Path(command[0]).name} failed with exit status {process.returncode}: {reason}")


def _watch(process: subprocess.Popen[bytes], folder: Path, on_progress: ProgressCallback, name: str) -> None:
    seen, changed = [0], time.monotonic()
    while process.poll() is None:
        # Any file that grows shows that the client is at work: apt-get fetches many lists, the largest of which may come first.
        sizes = _sizes(folder)
        if sizes != seen:
            seen, changed = sizes, time.monotonic()
            on_progress(max(sizes, default=0))
        elif time.monotonic() - changed > STALL_SECONDS:
            raise ClientError(f"{name} was stopped after downloading nothing for {STALL_SECONDS} s")
        time.sleep(_POLL_SECONDS)
    on_progress(max(_sizes(folder), default=0))


def _sizes(folder: Path) -> list[int]:
    """Sizes of all files in ``folder``. The largest is the package: clients write it both to a cache and to the folder."""
    sizes = []
    for directory, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # a temporary file that the client has just deleted
                sizes.append(os.stat(os.path.join(directory, name)).st_size)
    return sorted(sizes)
