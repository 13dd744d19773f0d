"""``make hosts``: three hosts, a Ray cluster over them, and the services, until Ctrl-C."""

import os
import shlex
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from gan_core.download.weights import inception_file
from gan_core.errors import FetchError
from infra.hosts.cluster import DRIVER, Cluster, cluster
from infra.hosts.driver import CODE, PROJECT, copy_weights
from infra.hosts.hosts import HostsError
from infra.hosts.server import write_secret

_WORKERS = ("b", "c")
_CPUS = max(1, (os.cpu_count() or 1) // len(_WORKERS))
_RC = "/root/.gantry-environment"


def main() -> None:
    """Start everything, say how to use it, and wait for Ctrl-C."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print("Starting three hosts with Ray, and PostgreSQL, S3, MLflow and Prefect (about a minute) ...", flush=True)
    with (
        tempfile.TemporaryDirectory(prefix="gantry-logs-") as folder,
        cluster(_WORKERS, Path(folder), cpus=_CPUS, subnet="10.77.0", reachable=True) as made,
    ):
        _prepare_project(made)
        print(_instructions(made, Path(folder)), flush=True)
        while all(host.alive for host in made.hosts.values()):
            time.sleep(1)
        print("A host has ended; ending the others.", file=sys.stderr)


def _prepare_project(made: Cluster) -> None:
    """Put the weights, the environment of a shell and a new project on the host that drives."""
    try:
        copy_weights(made.driver, inception_file())
    except FetchError as error:
        print(f"The hosts have no Inception weights, so the stage evaluate fails there: {error}", file=sys.stderr)
    lines = [f"export {name}={shlex.quote(value)}" for name, value in made.environment.items()]
    write_secret(made.driver, _RC, "\n".join([*lines, f"cd {PROJECT}", 'PS1="\\h:\\w# "', ""]))
    made.driver.run(["gantry", "init", PROJECT], cwd=CODE, environment=made.environment)


def _instructions(made: Cluster, folder: Path) -> str:
    services, passwords = made.services, folder / "passwords"
    passwords.touch(mode=0o600)
    login = services.mlflow.client
    passwords.write_text(
        f"MLflow   {login['MLFLOW_TRACKING_USERNAME']}:{login['MLFLOW_TRACKING_PASSWORD']}\n"
        f"Prefect  {services.prefect.client['PREFECT_API_AUTH_STRING']}\n"
    )
    lines = [
        "",
        f"MLflow     {services.mlflow.uri}",
        f"Prefect    {services.prefect.uri}",
        f"S3         {services.s3.endpoint}",
        f"Passwords  {passwords}",
        f"Logs       {folder}",
        "",
        f"Host {DRIVER} drives and offers no CPUs; {' and '.join(_WORKERS)} train, with {_CPUS} CPU(s) each.",
        f"Enter {DRIVER} and run the pipeline:",
        "",
        f"    {made.driver.enter} bash --rcfile {_RC}",
        "    gantry data fetch digits && gantry run && gantry promote && gantry sample digits@champion --n 16 --out sheet.png",
        "",
        "The other hosts:",
        *(f"    {name:9} {host.address:13} {host.enter} bash" for name, host in made.hosts.items() if name != DRIVER),
        "",
        "Ctrl-C ends everything.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    try:
        with suppress(KeyboardInterrupt):
            main()
    except HostsError as error:
        sys.exit(f"Error: {error}")
