"""Downloading one package through a registry's own client, without installing or running anything of it."""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from gan_core.errors import FetchError

STALL_SECONDS = 60
"""A client that writes nothing for this long is stopped."""
_POLL_SECONDS = 0.2


class ClientError(FetchError):
    """The client is missing, or could not get the package."""


Show = Callable[[int], None]
"""Called with the bytes on disk so far."""


def download_wheel(requirement: str, folder: Path, show: Show) -> Path:
    """Download the wheel of ``requirement`` into ``folder`` with pip: this Python's own, else the one on the path."""
    # pip's own time-out and retries, where the user has set them, know the index better than we do.
    patience = [] if "PIP_DEFAULT_TIMEOUT" in os.environ else ["--timeout", "15"]
    arguments = ["download", "--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--progress-bar", "off"]
    arguments += ["--retries", "1", "--disable-pip-version-check", *patience, "--dest", str(folder), requirement]
    pip = shutil.which("pip") or shutil.which("pip3")
    if importlib.util.find_spec("pip") is not None:
        command = [sys.executable, "-m", "pip", *arguments]
    elif pip:
        command = [pip, *arguments]
    else:
        raise ClientError(f"pip is not installed; install it with: {sys.executable} -m ensurepip")
    _run(command, folder, show, {"TMPDIR": str(folder)})
    return _only(folder, "*.whl", requirement)


def download_npm(package: str, folder: Path, show: Show) -> Path:
    """Download the tarball of ``package`` into ``folder`` with npm; its scripts are not run."""
    npm = shutil.which("npm")
    if not npm:
        raise ClientError("npm is not installed; install Node.js")
    command = [npm, "pack", package, "--pack-destination", str(folder), "--cache", str(folder / "cache")]
    _run([*command, "--ignore-scripts", "--fetch-retries=1", "--loglevel=error"], folder, show, {})
    return _only(folder, "*.tgz", package)


def download_debian(package: str, folder: Path, show: Show) -> Path:
    """Download the ``.deb`` of ``package`` into ``folder`` with apt-get, from the machine's own sources.

    Where apt's package lists are missing (a fresh container) or stale, they are fetched into ``folder``, not into the
    system.
    """
    apt = shutil.which("apt-get")
    if not apt:
        raise ClientError("apt-get is not installed; this address serves Debian and its relatives only")
    patience = [f"-oAcquire::{scheme}::Timeout=5" for scheme in ("http", "https")] + ["-oAcquire::Retries=1"]
    # As root, apt would drop to a user that cannot write here, and warn about it.
    patience.append("-oAPT::Sandbox::User=root")
    try:
        _run([apt, *patience, "download", package], folder, show, {"LC_ALL": "C"})
    except ClientError:
        private = [
            f"-oDir::State::Lists={folder / 'lists'}",
            f"-oDir::Cache={folder / 'cache'}",
            "-oDebug::NoLocking=1",
        ]
        (folder / "lists" / "partial").mkdir(parents=True)
        (folder / "cache" / "archives" / "partial").mkdir(parents=True)
        _run([apt, *patience, *private, "update"], folder, lambda done: None, {"LC_ALL": "C"})
        _run([apt, *patience, *private, "download", package], folder, show, {"LC_ALL": "C"})
    return _only(folder, "*.deb", package)


@contextmanager
def debian_tar(archive: Path) -> Iterator[IO[bytes]]:
    """Stream the files of a ``.deb`` as an uncompressed tar."""
    tool = shutil.which("dpkg-deb")
    if not tool:
        raise ClientError("dpkg-deb is not installed; it opens Debian packages")
    with subprocess.Popen([tool, "--fsys-tarfile", str(archive)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None  # asked for above
        try:
            yield process.stdout
        finally:
            # A reader that found its member stops early; the rest is of no use to anyone.
            process.kill()


def _only(folder: Path, pattern: str, package: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise ClientError(f"the client left {len(found)} files {pattern} for {package}, expected one")
    return found[0]


def _run(command: Sequence[str], folder: Path, show: Show, environment: Mapping[str, str]) -> None:
    """Run a client in ``folder``, watch its files grow, stop it when nothing comes any more; raise with its words."""
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
            _watch(process, folder, show, Path(command[0]).name)
        finally:
            if process.poll() is None:
                # The whole session: npm and apt work in children of their own.
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        output.seek(0)
        words = [line.strip() for line in output.read().decode(errors="replace").splitlines() if line.strip()]
    if process.returncode != 0:
        telling = [line for line in words if "error" in line.lower() or line.startswith("E:")] or words
        reason = "; ".join(telling[:3]) or "it said nothing"
        raise ClientError(f"{Path(command[0]).name} exited with {process.returncode}: {reason}")


def _watch(process: subprocess.Popen[bytes], folder: Path, show: Show, name: str) -> None:
    seen, changed = 0, time.monotonic()
    while process.poll() is None:
        # The largest file: clients write the package once into a cache and once beside it.
        size = _largest(folder)
        if size != seen:
            seen, changed = size, time.monotonic()
            show(size)
        elif time.monotonic() - changed > STALL_SECONDS:
            raise ClientError(f"{name} brought nothing for {STALL_SECONDS} s and was stopped")
        time.sleep(_POLL_SECONDS)
    show(_largest(folder))


def _largest(folder: Path) -> int:
    largest = 0
    for directory, _, names in os.walk(folder):
        for name in names:
            try:
                largest = max(largest, os.stat(os.path.join(directory, name)).st_size)
            except FileNotFoundError:
                continue  # a client's temporary file that went while we looked
    return largest
