"""Blob storage of Azure on loopback for tests: Azurite, which ``npm install --global azurite`` installs."""

import base64
import hmac
import os
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.s3_server import free_ports

ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The account that Azurite documents; it opens nothing else."""
_API = "2021-08-06"
_START_SECONDS = 60


@dataclass(frozen=True)
class AzureServer:
    """A running server."""

    endpoint: str
    container: str

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which clients reach it."""
        return {
            "AZURE_STORAGE_ENDPOINT": self.endpoint,
            "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": KEY,
        }


@contextmanager
def azure_server(folder: Path, container: str = "gantry") -> Iterator[AzureServer]:
    """Start a server with one container and its files in ``folder``; it is ended by its process id."""
    azurite = shutil.which("azurite-blob")
    if azurite is None:
        pytest.skip("azurite-blob is not installed")
    (port,) = free_ports(1)
    command = [
        *(azurite, "--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder), "--silent"),
        *("--skipApiVersionCheck", "--disableTelemetry"),
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        server = AzureServer(f"http://127.0.0.1:{port}/{ACCOUNT}", container)
        deadline = time.monotonic() + _START_SECONDS
        while not _create_container(server):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"Azurite did not start:\n{(folder / 'log').read_text()[-2000:]}")
            time.sleep(0.2)
        yield server
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _create_container(server: AzureServer) -> bool:
    """Create the container with a request signed by the account's key; False while the server does not answer."""
    date = datetime.now(UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
    resource = f"/{ACCOUNT}/{ACCOUNT}/{server.container}\nrestype:container"
    signed = "PUT" + "\n" * 12 + f"x-ms-date:{date}\nx-ms-version:{_API}\n{resource}"
    signature = base64.b64encode(hmac.digest(base64.b64decode(KEY), signed.encode(), "sha256")).decode()
    request = urllib.request.Request(
        f"{server.endpoint}/{server.container}?restype=container",
        method="PUT",
        headers={"x-ms-date": date, "x-ms-version": _API, "Authorization": f"SharedKey {ACCOUNT}:{signature}"},
    )
    try:
        with urllib.request.urlopen(request, timeout=5):
            return True
    except urllib.error.HTTPError:
        raise
    except OSError:
        return False
