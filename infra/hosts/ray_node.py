"""Ray on hosts: one node a host, none open to those without the token."""

import os
import sys
from collections.abc import Mapping

from infra.hosts.hosts import Host

PORT = 6379
_TIMEOUT = 180.0


def ray_environment(token: str) -> dict[str, str]:
    """Environment of every node and of every driver of a cluster with this token."""
    return {
        "PATH": f"{sys.prefix}/bin:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "RAY_USAGE_STATS_ENABLED": "0",
        # A dead host is noticed within 10 s.
        "RAY_health_check_period_ms": "2000",
        "RAY_health_check_timeout_ms": "4000",
        "RAY_health_check_failure_threshold": "3",
        # These servers need no token and cannot be switched off. The impossible port -1 keeps them from starting.
        "AUTOSCALER_METRIC_PORT": "-1",
        "DASHBOARD_METRIC_PORT": "-1",
    }


def start_ray(host: Host, environment: Mapping[str, str], *, cpus: int, head: Host | None = None) -> None:
    """Start Ray on ``host``, in a cluster of its own or in that of ``head``.

    Args:
        host: where to start it.
        environment: :func:`ray_environment`, and what workers need, such as keys of the storage.
        cpus: CPUs that it offers; 0 for a host that only drives.
        head: the host of the cluster's control store; None if it is this one.

    Raises:
        HostsError: it did not start.
    """
    place = [f"--address={head.address}:{PORT}"] if head else ["--head", f"--port={PORT}", "--include-dashboard=false"]
    command = [
        "ray",
        "start",
        *place,
        f"--node-ip-address={host.address}",
        f"--num-cpus={cpus}",
        "--disable-usage-stats",
    ]
    host.run(command, environment=environment, timeout=_TIMEOUT)
