"""Check the driver's host and each node of a Ray cluster: versions, storage, weights, GPUs, clocks and disks."""

import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from gan_core.cache import user_cache_dir
from gan_core.disk import format_bytes
from gan_core.errors import GantryError
from pipelines.runtime.cluster import first_line
from pipelines.runtime.code import PACKAGES, code_digest
from pipelines.storage.objects import Storage

Status = Literal["ok", "note", "problem"]
COLUMNS = ("reach", "versions", "storage", "weights", "gpu", "clock", "disk")
SCARCE, TOO_LITTLE = 20 * 2**30, 2 * 2**30
"""Bytes of free disk: with less than the first a run may fail, with less than the second it will."""
_STORAGE_SECONDS = 20.0
_CLOCK_NOTE, _CLOCK_PROBLEM = 5.0, 60.0
"""Seconds of skew. Times of metrics become wrong; S3 refuses requests at 15 minutes."""
_COMPARED = ("torch", "ray", "numpy")
_GPUS = "import torch; print(torch.cuda.device_count() if torch.cuda.is_available() else 0)"


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What a process finds on its host."""

    host: str
    versions: dict[str, str]
    """Of what must be the same everywhere, by name."""
    storage: str
    """Why the storage cannot be used from here; empty if it can, or if there is none."""
    storage_skew: float | None
    """Seconds by which the clock of the storage is ahead of this host's; None if unknown."""
    weights: bool
    """Whether the Inception weights are here."""
    weights_path: str
    visible_gpus: int
    """GPUs that torch sees; 0 also if none was expected."""
    free: dict[str, int]
    """Free bytes by folder, one folder for each disk."""


@dataclass(frozen=True, kw_only=True)
class NodeReport:
    """What is known of a node, or of the driver's host."""

    name: str
    address: str
    gpus: int = 0
    """GPUs that Ray counts."""
    probe: Probe | None = None
    failure: str = ""
    """Why there is no probe."""
    gone: bool = False
    """Whether the cluster has lost this node."""
    skew: float | None = None
    """Seconds by which its clock is ahead of the driver's."""
    uncertainty: float = 0.0
    """Largest error of ``skew``: half of the round trip."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """The result of one check on one node."""

    status: Status
    found: str
    remedy: str = ""


@dataclass
class Row:
    """The results for a node, by column."""

    name: str
    address: str
    cells: dict[str, Cell] = field(default_factory=dict)


def probe(storage_uri: str, gpus: int) -> Probe:
    """Look at this host. Writes a small object to the storage and removes it.

    Args:
        storage_uri: empty without a storage.
        gpus: GPUs that Ray counts here; torch is asked only if there are any.
    """
    from gan_core.download.weights import INCEPTION_FILE, weights_dir

    failure, skew = "", None
    if storage_uri:
        try:
            storage = Storage(storage_uri, patience=_STORAGE_SECONDS)
            storage.check()
            skew = storage.clock() - time.time()
        except GantryError as error:
            failure = str(error)
    weights = weights_dir() / INCEPTION_FILE
    return Probe(
        host=socket.gethostname(),
        versions=_versions(),
        storage=failure,
        storage_skew=skew,
        weights=weights.is_file(),
        weights_path=str(weights),
        visible_gpus=_visible_gpus() if gpus else 0,
        free=_free_space(),
    )


def _versions() -> dict[str, str]:
    found = {name: version(name) for name in _COMPARED}
    return {"Python": platform.python_version(), **found, "Gantry's code": code_digest(list(PACKAGES))[:12]}


def _visible_gpus() -> int:
    # Ray hides the GPUs from a process that asked for none.
    shown = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    done = subprocess.run([sys.executable, "-c", _GPUS], capture_output=True, text=True, env=shown, check=False)
    return int(done.stdout) if done.returncode == 0 else 0


def _free_space() -> dict[str, int]:
    free: dict[int, tuple[str, int]] = {}
    for path in (user_cache_dir(), Path(tempfile.gettempdir())):
        there = next(folder for folder in (path, *path.parents) if folder.exists())
        free.setdefault(there.stat().st_dev, (str(path), shutil.disk_usage(there).free))
    return dict(free.values())


class _Prober:
    """Runs on a node, as an actor without CPUs."""

    def clock(self) -> float:
        return time.time()

    def probe(self, storage_uri: str, gpus: int) -> Probe:
        return probe(storage_uri, gpus)


def check_nodes(storage_uri: str, timeout: float) -> list[NodeReport]:
    """Probe the driver's host, then each node of the connected Ray cluster that is alive, all nodes at the same time.

    Args:
        storage_uri: empty without a storage.
        timeout: seconds after which a node that has not answered is reported as silent.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    known = ray.nodes()
    nodes = [node for node in known if node["Alive"]]
    present = {node["NodeManagerAddress"] for node in nodes}
    prober = ray.remote(num_cpus=0, max_restarts=0)(_Prober)
    deadline = time.monotonic() + timeout
    started: list[tuple[dict[str, Any], Any, Any, Any]] = []
    for node in nodes:
        pinned = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        actor: Any = prober.options(scheduling_strategy=pinned).remote()
        first = actor.clock.remote()
        started.append((node, actor, first, actor.probe.remote(storage_uri, _gpus(node))))
    reports = [NodeReport(name=f"driver ({socket.gethostname()})", address="", probe=probe(storage_uri, 0), skew=0.0)]
    for node, actor, first, answer in started:
        reports.append(_collect(node, actor, first, answer, deadline, timeout))
        ray.kill(actor)
    # A node that came back has a new entry, with the same address.
    lost = {node["NodeManagerAddress"]: node["NodeManagerHostname"] for node in known if not node["Alive"]}
    return [
        *reports,
        *(NodeReport(name=lost[address], address=address, gone=True) for address in sorted(set(lost) - present)),
    ]


def _collect(
    node: Mapping[str, Any], actor: Any, first: Any, answer: Any, deadline: float, timeout: float
) -> NodeReport:
    import ray

    known: dict[str, Any] = {
        "name": node["NodeManagerHostname"],
        "address": node["NodeManagerAddress"],
        "gpus": _gpus(node),
    }
    try:
        ray.get(first, timeout=max(0.1, deadline - time.monotonic()))
        found = ray.get(answer, timeout=max(0.1, deadline - time.monotonic()))
        begun = time.time()
        there = ray.get(actor.clock.remote(), timeout=max(1.0, deadline - time.monotonic()))
        ended = time.time()
    except ray.exceptions.GetTimeoutError:
        return NodeReport(**known, failure=f"does not answer within {timeout:.0f} s")
    except ray.exceptions.RayError as error:
        return NodeReport(**known, failure=f"cannot run code: {first_line(error)}")
    return NodeReport(**known, probe=found, skew=there - (begun + ended) / 2, uncertainty=(ended - begun) / 2)


def _gpus(node: Mapping[str, Any]) -> int:
    return int(node.get("Resources", {}).get("GPU", 0))


def judge(reports: Sequence[NodeReport], storage_uri: str) -> list[Row]:
    """The table: a row for each report, compared with the first, which is the driver's."""
    driver = reports[0].probe
    assert driver is not None
    return [_judge(report, driver, storage_uri) for report in reports]


def _judge(report: NodeReport, driver: Probe, storage_uri: str) -> Row:
    row, found = Row(report.name, report.address), report.probe
    if report.gone:
        remedy = "The cluster has lost this node. If it should be there, start it again: ray start --address=HEAD:PORT."
        row.cells["reach"] = Cell(status="note", found="gone", remedy=remedy)
        return row
    if found is None:
        remedy = "Look at this host: its load, its network, and Ray's logs in /tmp/ray/session_latest/logs."
        row.cells["reach"] = Cell(status="problem", found=report.failure, remedy=remedy)
        return row
    row.cells = {
        "reach": Cell(status="ok", found="yes"),
        "versions": _judge_versions(found, driver),
        "storage": _judge_storage(found, driver, storage_uri),
        "weights": Cell(status="ok", found="here")
        if found.weights
        else Cell(
            status="note",
            found="missing",
            remedy="A FID on this host downloads them (81 MB). If it cannot reach a package index, copy them to "
            f"{found.weights_path}.",
        ),
        "gpu": Cell(
            status="problem",
            found=f"{found.visible_gpus} of {report.gpus}",
            remedy="torch sees fewer GPUs than Ray counts: install the CUDA build of torch, or update the driver.",
        )
        if found.visible_gpus < report.gpus
        else Cell(status="ok", found=str(report.gpus or "none")),
        "clock": _judge_clock(report),
        "disk": _judge_disk(found),
    }
    return row


def _judge_versions(found: Probe, driver: Probe) -> Cell:
    other = [
        f"{name} {there} (driver: {driver.versions.get(name)})"
        for name, there in found.versions.items()
        if there != driver.versions.get(name)
    ]
    if not other:
        return Cell(
            status="ok",
            found="same" if found is not driver else ", ".join(f"{n} {v}" for n, v in driver.versions.items()),
        )
    return Cell(status="problem", found="; ".join(other), remedy="Install the same versions on every host.")


def _judge_storage(found: Probe, driver: Probe, storage_uri: str) -> Cell:
    if found.storage:
        return Cell(status="problem", found="unusable", remedy=found.storage)
    if storage_uri:
        return Cell(status="ok", found="writable")
    if found.host == driver.host:
        return Cell(status="ok", found="none needed")
    return Cell(
        status="problem",
        found="none",
        remedy="Set storage.uri or GANTRY_STORAGE_URI: without a storage a worker on another host finds no data.",
    )


def _judge_clock(report: NodeReport) -> Cell:
    assert report.probe is not None
    skews = {
        "driver": report.skew,
        "storage": -report.probe.storage_skew if report.probe.storage_skew is not None else None,
    }
    # The storage gives whole seconds.
    errors = {"driver": report.uncertainty, "storage": 1.0}
    known = {name: max(0.0, abs(skew) - errors[name]) for name, skew in skews.items() if skew is not None}
    worst = max(known, key=lambda name: known[name], default="")
    seconds = known.get(worst, 0.0)
    if seconds < _CLOCK_NOTE:
        return Cell(status="ok", found=f"{seconds:.1f} s")
    skew = skews[worst]
    assert skew is not None
    return Cell(
        status="problem" if seconds >= _CLOCK_PROBLEM else "note",
        found=f"{abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the {worst}",
        remedy="Set the clock of this host by NTP.",
    )


def _judge_disk(found: Probe) -> Cell:
    place, free = min(found.free.items(), key=lambda item: item[1])
    status: Status = "problem" if free < TOO_LITTLE else "note" if free < SCARCE else "ok"
    remedy = "" if status == "ok" else f"Free some space at {place}: data and scratch files of a worker go there."
    return Cell(status=status, found=f"{format_bytes(free)} free", remedy=remedy)
