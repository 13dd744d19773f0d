"""Which addresses never go through a proxy: those of this machine, and of the Ray cluster that the environment names."""

import socket
from collections.abc import Mapping

import psutil

_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")
_EXCLUSIONS = ("no_proxy", "NO_PROXY", "no_grpc_proxy")
"""Where they are listed; gRPC, which Ray speaks, reads ``no_grpc_proxy`` alone where it is set."""
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def without_proxy(environment: Mapping[str, str]) -> dict[str, str]:
    """``NO_PROXY``, ``no_proxy`` and ``no_grpc_proxy`` for this process and its children; empty where there is no proxy.

    What the user excludes stays excluded. All are set, and to the same: libraries differ in which one they read,
    and some read the first that they find. Health checks, MLflow, Prefect and Ray talk to servers on loopback; through a
    proxy each of them would wait for minutes and fail.
    """
    if not any(environment.get(name) or environment.get(name.upper()) for name in _PROXIES):
        return {}
    given = ",".join(environment.get(name, "") for name in _EXCLUSIONS)
    hosts = dict.fromkeys(host.strip() for host in given.split(",") if host.strip())
    if "*" not in hosts:
        hosts.update(dict.fromkeys(_LOOPBACK))
        if address := environment.get("RAY_ADDRESS"):
            head = address.rpartition("://")[2].rpartition(":")[0].strip("[]")
            hosts.update(dict.fromkeys([*filter(None, [head]), *own_addresses()]))
    return dict.fromkeys(_EXCLUSIONS, ",".join(hosts))


def own_addresses() -> list[str]:
    """The addresses of this machine's network interfaces, IPv4 and IPv6."""
    found = [address for addresses in psutil.net_if_addrs().values() for address in addresses]
    families = (socket.AF_INET, socket.AF_INET6)
    return sorted({one.address.partition("%")[0] for one in found if one.family in families})
