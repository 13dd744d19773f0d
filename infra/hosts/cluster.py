"""Hosts with a Ray cluster over them, all services on one, and Gantry's code on one that drives."""

import secrets
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from infra.hosts.driver import ENVIRONMENT, copy_code
from infra.hosts.hosts import SERVICES, Host, hosts
from infra.hosts.ray_node import PORT, ray_environment, start_ray
from infra.hosts.services import Services, start_services

DRIVER = "a"


@dataclass(frozen=True)
class Cluster:
    """Running hosts. The one named ``a`` drives: it has the code, the head of Ray, and no CPUs for Ray."""

    hosts: dict[str, Host]
    services: Services
    environment: dict[str, str]
    """Of the driver: addresses and keys of everything."""

    @property
    def driver(self) -> Host:
        """The host that drives."""
        return self.hosts[DRIVER]


@contextmanager
def cluster(
    workers: Sequence[str], logs: Path, *, cpus: int, subnet: str, others: Sequence[str] = (), reachable: bool = False
) -> Iterator[Cluster]:
    """Start everything for the length of the block.

    Args:
        workers: names of the hosts that train.
        logs: folder on this machine for the output of the services.
        cpus: CPUs of each worker.
        subnet: see :func:`hosts`.
        others: names of hosts on which nothing runs.
        reachable: see :func:`hosts`.

    Raises:
        HostsError: this machine does not permit hosts, a package is missing, or something did not start.
    """
    with hosts([DRIVER, *workers, *others], subnet, reachable=reachable) as made:
        services = start_services(made[SERVICES], logs)
        ray = ray_environment(secrets.token_hex(32)) | services.storage
        start_ray(made[DRIVER], ray, cpus=0)
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda name: start_ray(made[name], ray, cpus=cpus, head=made[DRIVER]), workers))
        copy_code(made[DRIVER])
        address = {"RAY_ADDRESS": f"{made[DRIVER].address}:{PORT}"}
        yield Cluster(made, services, {**ray, **services.client, **ENVIRONMENT, **address})
