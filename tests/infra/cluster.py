"""A Ray cluster and an S3 server on hosts that share no files."""

import secrets
import shutil
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from infra.hosts.driver import CODE, copy_code
from infra.hosts.hosts import SERVICES, Host, hosts
from infra.hosts.ray_node import PORT, ray_environment, start_ray
from infra.hosts.s3 import S3, start_s3
from infra.hosts.server import Server, accepts
from tests.infra import bad_proxy

CHECKOUT = Path(__file__).parents[2]
BIN = Path(sys.prefix) / "bin"
PROJECT = CODE
"""The drivers' copy of the code. No other host has one."""
HEAD = "driver"
"""The driver that has Ray's head."""
_BUCKET = "gantry"
_PROXY_PORT = 8334
_BAD = "/tmp/bad"


@dataclass(frozen=True)
class Cluster:
    """Hosts for drivers (no CPUs for Ray; the first has Ray's head), for workers, and the one for services."""

    hosts: dict[str, Host]
    environment: dict[str, str]
    """Of the drivers."""
    node_environment: Mapping[str, str]
    """Of Ray's nodes."""
    s3: S3
    logs: Path
    """Folder on this machine."""
    cpus: int
    """Of each worker's host."""
    spare: list[str]
    """Hosts on which nothing runs yet."""
    joined: list[str] = field(default_factory=list)
    """Hosts that joined as workers, also those that have been killed since."""

    @property
    def workers(self) -> list[str]:
        """Names of the running hosts for workers."""
        return [name for name in self.joined if self.hosts[name].alive]

    def drive(self, program: str, *words: str, log: Path, host: str = HEAD):
        """Start a program with the project's code on a driver's host."""
        script = self.hosts[host].files(f"{PROJECT}/program.py")
        script.write_text(program)
        command = [str(BIN / "python"), "program.py", *words]
        return self.hosts[host].start(command, cwd=PROJECT, environment=self.environment, log=log)

    def hosts_that_train(self) -> list[str]:
        """Names of the hosts on which a training worker runs."""
        return [name for name in self.workers if "RayTrainWorker" in self.hosts[name].run(["ps", "-eo", "args"]).stdout]

    def add_worker(self) -> str:
        """Let the next spare host join; returns its name."""
        name = self.spare.pop(0)
        start_ray(self.hosts[name], self.node_environment, cpus=self.cpus, head=self.hosts[HEAD])
        self.joined.append(name)
        return name

    def add_driver(self) -> str:
        """Make the next spare host a driver, beside :data:`HEAD`; returns its name."""
        name = self.spare.pop(0)
        copy_project(self.hosts[name])
        start_ray(self.hosts[name], self.node_environment, cpus=0, head=self.hosts[HEAD])
        return name

    def keep_logs(self) -> None:
        """Copy what Ray has logged on its head to :attr:`logs`."""
        for session in self.hosts[HEAD].files("/tmp/ray").glob("session_2*"):
            shutil.copytree(session / "logs", self.logs / "ray", ignore_dangling_symlinks=True, dirs_exist_ok=True)

    @contextmanager
    def s3_answering_badly(self) -> Iterator[None]:
        """Let S3 answer every second connection with 503, and the others slowly, for the length of the block."""
        bad = self.hosts[SERVICES].files(_BAD)
        bad.touch()
        try:
            yield
        finally:
            bad.unlink()


@contextmanager
def cluster(subnet: str, folder: Path, *, cpus: int = 2, spare: int = 0) -> Iterator[Cluster]:
    """Start the hosts with Ray and S3 for the length of the block; logs go to ``folder``.

    The hosts for workers are ``b`` and ``c``, until others join.

    Args:
        subnet: of the hosts.
        folder: for logs.
        cpus: of each worker's host.
        spare: number of hosts on which nothing runs before :meth:`Cluster.add_worker` or :meth:`Cluster.add_driver`.
    """
    spares = [f"s{number}" for number in range(1, spare + 1)]
    with hosts([HEAD, "b", "c", *spares], subnet) as made, ThreadPoolExecutor() as pool:
        services, head = made[SERVICES], made[HEAD]
        storage = pool.submit(start_s3, services, [_BUCKET], folder / "s3.log")
        copy_project(head)
        s3 = storage.result()
        endpoint = {"AWS_ENDPOINT_URL": _start_proxy(services, s3, folder / "proxy.log")}
        node = {**ray_environment(secrets.token_hex(32)), **s3.client(_BUCKET), **endpoint, "OMP_NUM_THREADS": "1"}
        start_ray(head, node, cpus=0)
        driver = {
            "RAY_ADDRESS": f"{head.address}:{PORT}",
            "GANTRY_STORAGE_URI": f"s3://{_BUCKET}/run",
            "PYTHONPATH": PROJECT,
        }
        started = Cluster(made, {**node, **driver}, node, s3, folder, cpus, ["b", "c", *spares])
        list(pool.map(lambda _: started.add_worker(), range(2)))
        yield started


def copy_project(host: Host) -> None:
    """Copy the code and ``params.yaml`` to a host."""
    copy_code(host, "tests")
    shutil.copy(CHECKOUT / "params.yaml", host.files(PROJECT))


def _start_proxy(services: Host, s3: S3, log: Path) -> str:
    """Start the proxy that can answer badly, before the S3 server; returns its address."""
    services.files("/tmp/bad_proxy.py").write_text(Path(bad_proxy.__file__).read_text())
    words = [str(_PROXY_PORT), s3.endpoint.removeprefix("http://"), _BAD]
    Server(
        "The proxy of S3",
        services,
        [str(BIN / "python"), "/tmp/bad_proxy.py", services.address, *words],
        ready=lambda: accepts(services, _PROXY_PORT),
        log=log,
    )
    return f"http://{services.address}:{_PROXY_PORT}"
