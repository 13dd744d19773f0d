"""How the CPU cores and GPUs of a cluster's nodes are divided among processes. A process runs on a single node.

Ray waits without end, and without a message, for a process that fits no node: here that is an error before anything starts.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from gan_core.errors import SettingsError


@dataclass(frozen=True, kw_only=True)
class Node:
    """The resources of a node of the cluster."""

    name: str
    cpus: int
    gpus: int = 0

    def __str__(self) -> str:
        return f"{self.name}: {self.cpus} CPU core(s), {self.gpus} GPU(s)"


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """Resources of each of several equal processes."""

    processes: int
    """Number of processes that run at the same time."""
    cpus: int
    """CPU cores of each."""
    gpus: float
    """GPUs of each: 1, a share of one, or 0 if the cluster has none."""


def cluster_nodes() -> list[Node]:
    """The nodes of the connected Ray cluster that are alive."""
    import ray

    alive = [node for node in ray.nodes() if node["Alive"]]
    return [_node(node["NodeManagerHostname"], node.get("Resources", {})) for node in alive]


def usable_cpus() -> int:
    """CPU cores of this machine that this process may use.

    Ray knows the quota of a container, but not the cores that Slurm, ``taskset`` or a cpuset leave to a process: it would count
    all of the machine, and a worker would start a thread for each.
    """
    from ray._private.utils import get_num_cpus

    counted = int(get_num_cpus())
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        counted = min(counted, len(os.sched_getaffinity(0)))
    return max(1, counted)


def _node(name: str, resources: dict[str, Any]) -> Node:
    return Node(name=name, cpus=int(resources.get("CPU", 0)), gpus=int(resources.get("GPU", 0)))


def allocate(
    nodes: Sequence[Node],
    minimum: int,
    maximum: int,
    *,
    setting: str,
    what: str,
    share_gpus: bool = False,
    gpu_share: float | None = None,
    gpu_share_setting: str = "",
) -> Allocation:
    """Divide ``nodes`` among as many processes as fit, at most ``maximum``, with as many CPU cores for each as possible.

    Each gets a GPU if the cluster has any, or with ``share_gpus`` a share of one if there are fewer GPUs than processes.

    Args:
        nodes: of the cluster.
        minimum: smallest useful number of processes.
        maximum: largest number of processes to use.
        setting: name of the setting with these numbers, for the error.
        what: what a process is, for the error: ``workers``.
        share_gpus: whether several processes may use one GPU.
        gpu_share: GPUs of each process, above 0 and at most 1; None chooses.
        gpu_share_setting: name of the setting with this share, for the error.

    Raises:
        SettingsError: fewer than ``minimum`` fit, or there is no GPU to share.
    """
    with_gpu = any(node.gpus for node in nodes)
    if gpu_share is not None and not with_gpu:
        raise SettingsError(
            f"{gpu_share_setting}: each of the {what} is to have {gpu_share:g} GPU(s), and the cluster has none "
            f"({'; '.join(map(str, nodes)) or 'no nodes'}). Set it to null, or add a machine with a GPU."
        )
    shares: Sequence[int] = range(1, maximum + 1) if share_gpus and with_gpu else (1,)
    if gpu_share is not None:
        shares = (int(1 / gpu_share + 1e-9),)
    # The smallest number of processes per GPU with which the most processes fit.
    k = max(shares, key=lambda k: (min(maximum, _fitting(nodes, 1, k if with_gpu else 0)), -k))
    processes = min(maximum, _fitting(nodes, 1, k if with_gpu else 0))
    if processes < minimum:
        needs = "a GPU and a CPU core" if with_gpu else "a CPU core"
        hidden = " CUDA_VISIBLE_DEVICES= in the environment hides GPUs." if with_gpu else ""
        raise SettingsError(
            f"{setting}: {minimum} {what} need {needs} each, and {processes} of them fit into the cluster "
            f"({'; '.join(map(str, nodes)) or 'no nodes'}). Lower it, or add machines; those that an autoscaler could add "
            f"do not count.{hidden}"
        )
    largest = max(node.cpus for node in nodes)
    cpus = next(cpus for cpus in range(largest, 0, -1) if _fitting(nodes, cpus, k if with_gpu else 0) >= processes)
    return Allocation(processes=processes, cpus=cpus, gpus=(gpu_share or 1 / k) if with_gpu else 0.0)


def _fitting(nodes: Iterable[Node], cpus: int, per_gpu: int) -> int:
    """How many processes with ``cpus`` cores fit, ``per_gpu`` of them on a GPU; 0 stands for processes without a GPU."""
    return sum(min(node.cpus // cpus, node.gpus * per_gpu) if per_gpu else node.cpus // cpus for node in nodes)
