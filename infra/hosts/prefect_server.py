"""Prefect's server on a host: flows in PostgreSQL, and a password."""

import secrets
import sys
from dataclasses import dataclass
from pathlib import Path

from infra.hosts.hosts import Host
from infra.hosts.postgres import PORT as POSTGRES_PORT
from infra.hosts.postgres import Postgres
from infra.hosts.server import Server, answers

PORT = 4200
ROLE, DATABASE = "prefect", "prefect"
_USER = "gantry"


@dataclass(frozen=True)
class Prefect:
    """A running server."""

    server: Server
    password: str

    @property
    def uri(self) -> str:
        """Address of its pages."""
        return f"http://{self.server.host.address}:{PORT}"

    @property
    def client(self) -> dict[str, str]:
        """Environment of a client."""
        return {
            "PREFECT_API_URL": f"{self.uri}/api",
            "PREFECT_API_AUTH_STRING": f"{_USER}:{self.password}",
        }


def start_prefect(host: Host, postgres: Postgres, log: Path) -> Prefect:
    """Start Prefect's server on ``host``; raises HostsError if it does not start."""
    password = secrets.token_hex(16)
    database = f"postgresql+asyncpg://{ROLE}@{postgres.server.host.address}:{POSTGRES_PORT}/{DATABASE}"
    environment = {
        "PATH": f"{sys.prefix}/bin:/usr/bin:/bin",
        "PGPASSWORD": postgres.passwords[ROLE],
        "PREFECT_HOME": "/var/lib/gantry-prefect",
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": database,
        "PREFECT_SERVER_API_AUTH_STRING": f"{_USER}:{password}",
        # Prefect writes its pages when it starts; the default place is beside its code, which hosts cannot write.
        "PREFECT_SERVER_UI_STATIC_DIRECTORY": "/var/lib/gantry-prefect/pages",
        "PREFECT_SERVER_UI_API_URL": f"http://{host.address}:{PORT}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    command = [f"{sys.prefix}/bin/prefect", "server", "start", f"--host={host.address}", f"--port={PORT}"]
    server = Server(
        "Prefect", host, command, ready=lambda: answers(host, PORT, "/api/health"), log=log, environment=environment
    )
    return Prefect(server, password)
