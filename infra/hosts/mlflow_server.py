"""MLflow's server on a host: runs in PostgreSQL, files in S3, and a password."""

import secrets
import sys
from dataclasses import dataclass
from pathlib import Path

from infra.hosts.hosts import Host
from infra.hosts.postgres import PORT as POSTGRES_PORT
from infra.hosts.postgres import Postgres
from infra.hosts.s3 import S3
from infra.hosts.server import Server, answers, write_secret

PORT = 5000
ROLE, DATABASES, BUCKET = "mlflow", ("mlflow", "mlflow_auth"), "mlflow"
_USER = "gantry"
_CONFIG = "/etc/gantry-mlflow.ini"


@dataclass(frozen=True)
class Mlflow:
    """A running server."""

    server: Server
    password: str

    @property
    def uri(self) -> str:
        """Its address."""
        return f"http://{self.server.host.address}:{PORT}"

    @property
    def client(self) -> dict[str, str]:
        """Environment of a client. It needs no key of S3: files travel through the server."""
        return {
            "MLFLOW_TRACKING_URI": self.uri,
            "MLFLOW_TRACKING_USERNAME": _USER,
            "MLFLOW_TRACKING_PASSWORD": self.password,
        }


def start_mlflow(host: Host, postgres: Postgres, s3: S3, log: Path) -> Mlflow:
    """Start MLflow's server on ``host``; raises HostsError if it does not start."""
    password, database = secrets.token_hex(16), f"postgresql://{ROLE}@{postgres.server.host.address}:{POSTGRES_PORT}"
    config = {
        "database_uri": f"{database}/{DATABASES[1]}",
        "default_permission": "NO_PERMISSIONS",
        "authorization_function": "mlflow.server.auth:authenticate_request_basic_auth",
        # Without this each request computes a password hash: a registration took 37 s in place of 3 s.
        "auth_cache_ttl_seconds": "60",
    }
    write_secret(host, _CONFIG, "\n".join(["[mlflow]", *(f"{name} = {value}" for name, value in config.items()), ""]))
    environment = {
        **s3.client(BUCKET),
        "PATH": f"{sys.prefix}/bin:/usr/bin:/bin",
        "PGPASSWORD": postgres.passwords[ROLE],
        "MLFLOW_BACKEND_STORE_URI": f"{database}/{DATABASES[0]}",
        "MLFLOW_ARTIFACTS_DESTINATION": f"s3://{BUCKET}/artifacts",
        "MLFLOW_AUTH_CONFIG_PATH": _CONFIG,
        "MLFLOW_AUTH_ADMIN_USERNAME": _USER,
        "MLFLOW_AUTH_ADMIN_PASSWORD": password,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(16),
        # A request with any other Host header is refused.
        "MLFLOW_SERVER_ALLOWED_HOSTS": f"{host.address}:{PORT},{host.name}:{PORT}",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    command = [f"{sys.prefix}/bin/mlflow", "server", f"--host={host.address}", f"--port={PORT}"]
    command += ["--app-name=basic-auth", "--workers=1"]
    server = Server(
        "MLflow", host, command, ready=lambda: answers(host, PORT, "/health"), log=log, environment=environment
    )
    return Mlflow(server, password)
