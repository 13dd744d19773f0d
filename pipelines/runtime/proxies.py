"""Exclude addresses from the proxy: those of this machine, and that of the Ray cluster in RAY_ADDRESS."""

import socket
from collections.abc import Mapping

import psutil

_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")
_EXCLUSIONS = ("no_proxy", "NO_PROXY", "no_grpc_proxy")
"""Variables that list excluded hosts. If ``no_grpc_proxy`` is set, gRPC (which Ray uses) reads only that one."""
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def proxy_exclusions(environment: Mapping[str, str]) -> dict[str, str]:
    """Values of ``NO_PROXY``, ``no_proxy`` and ``no_grpc_proxy`` for this process and its children; empty without a proxy.

    Hosts that the user excludes stay excluded. All three variables get the same value, because libraries differ in which one
    they read. Health checks, MLflow, Prefect and Ray talk to servers on loopback; through a proxy each of them would wait for
    minutes and fail.
    """
    if not any(environment.get(name) or environment.get(name.upper()) for name in _PROXIES):
        return {}
    given = ",".join(environment.get(name, "") for name in _EXCLUSIONS)
    hosts = dict.fromkeys(host.strip() for host in given.split(",") if host.strip())
    if "*" not in hosts:
        hosts.update(dict.fromkeys(_LOOPBACK))
        if address := environment.get("RAY_ADDRESS"):
            head = address.rpartition("://")[2].rpartition(":")[0].strip("[]")
            hosts.update(dict.fromkeys([*filter(None, [head]), *local_addresses()]))
    return dict.fromkeys(_EXCLUSIONS, ",".join(hosts))


def local_addresses() -> list[str]:
    """The addresses of this machine's network interfaces, IPv4 and IPv6."""
    found = [address for addresses in psutil.net_if_addrs().values() for address in addresses]
    families = (socket.AF_INET, socket.AF_INET6)
    return sorted({one.address.partition("%")[0] for one in found if one.family in families})
