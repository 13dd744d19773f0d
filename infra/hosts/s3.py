"""An S3 server on a host: SeaweedFS, from the package index."""

import json
import secrets
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from infra.hosts.hosts import Host, HostsError
from infra.hosts.server import Server, accepts, write_secret

PORT = 8333
_ADMIN = "admin"
_BUCKET_SECONDS = 90.0


@dataclass(frozen=True)
class S3:
    """A running server with a bucket, and a user of the same name who can use only that bucket, for each of ``secrets``."""

    server: Server
    secrets: dict[str, str]
    """Secret keys by bucket."""

    @property
    def endpoint(self) -> str:
        """Its address."""
        return f"http://{self.server.host.address}:{PORT}"

    def _admin(self) -> dict[str, str]:
        return {"AWS_ACCESS_KEY_ID": _ADMIN, "AWS_SECRET_ACCESS_KEY": self.secrets[_ADMIN]}

    def client(self, bucket: str) -> dict[str, str]:
        """Environment of a client that uses ``bucket``."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": bucket,
            "AWS_SECRET_ACCESS_KEY": self.secrets[bucket],
            "AWS_REGION": "us-east-1",
        }


def start_s3(host: Host, buckets: Sequence[str], log: Path) -> S3:
    """Start the server on ``host`` and create the buckets.

    Raises:
        HostsError: the server does not start.
    """
    keys = {name: secrets.token_hex(16) for name in (_ADMIN, *buckets)}
    rights = {name: [f"{right}:{name}" for right in ("Read", "Write", "List", "Tagging")] for name in buckets}
    identities = [
        {
            "name": name,
            "credentials": [{"accessKey": name, "secretKey": key}],
            "actions": rights.get(name, ["Admin"]),
        }
        for name, key in keys.items()
    ]
    write_secret(host, "/etc/gantry-s3.json", json.dumps({"identities": identities}))
    host.run(["mkdir", "-p", "/var/lib/gantry-s3"])
    command = [
        *(f"{sys.prefix}/bin/weed", "server", "-dir=/var/lib/gantry-s3"),
        # Its own parts talk to each other on loopback; only S3 is open to the other hosts.
        *("-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3", f"-s3.ip.bind={host.address}", f"-s3.port={PORT}"),
        *("-s3.config=/etc/gantry-s3.json", "-s3.port.iceberg=0", "-s3.port.lance=0"),
        # A bucket takes about seven volumes.
        *("-volume.max=200", "-master.volumeSizeLimitMB=64", "-master.telemetry=false"),
    ]
    server = Server("The S3 server", host, command, ready=lambda: accepts(host, PORT), log=log)
    made = S3(server, keys)
    for bucket in buckets:
        _make_bucket(host, made, bucket)
    return made


def _make_bucket(host: Host, server: S3, bucket: str) -> None:
    """Create a bucket. SeaweedFS does so with the administrator's first object; it answers before it is ready for that."""
    program = (
        "import obstore; from obstore.store import from_url\n"
        f"store = from_url('s3://{bucket}', client_options={{'allow_http': True}})\n"
        "obstore.put(store, 'made', b''); obstore.delete(store, 'made')"
    )
    environment = {**server.client(bucket), **server._admin()}
    deadline = time.monotonic() + _BUCKET_SECONDS
    while (tried := host.run([sys.executable, "-c", program], environment=environment, check=False)).returncode:
        if time.monotonic() > deadline:
            raise HostsError(f"The S3 server on host {host.name} does not create buckets: {tried.stdout[-2000:]}")
        time.sleep(0.5)
