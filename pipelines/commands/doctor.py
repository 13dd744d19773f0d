"""``gantry doctor``: check what a run needs on this machine, and print a remedy for each problem."""

import base64
import importlib.metadata
import json
import os
import platform
import shutil
import socket
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import click

from gan_core.disk import format_bytes, free_space
from gan_core.errors import StageError
from pipelines.runtime.checkout import Checkout
from pipelines.runtime.failures import explain_error
from pipelines.runtime.git import GitError, run_git
from pipelines.runtime.redaction import redact_credentials
from pipelines.runtime.versions import versions

Status = Literal["ok", "note", "problem"]
_COLOURS: dict[Status, str] = {"ok": "green", "note": "yellow", "problem": "red"}
_ANSWER_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The result of one check."""

    check: str
    status: Status
    """``ok``; ``note``: worth knowing, nothing fails; ``problem``: a run will fail or use less than the machine has."""
    found: str
    remedy: str = ""
    """What to do; empty if there is nothing to do."""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list of findings instead of the table.")
@click.option(
    "--cluster", is_flag=True, help="Check the driver's host and each node of the Ray cluster at RAY_ADDRESS instead."
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=1),
    default=120.0,
    show_default=True,
    help="With --cluster: seconds after which a node that has not answered is a problem.",
)
def doctor(as_json: bool, cluster: bool, timeout: float) -> None:
    """Check this machine and this project: packages, git, DVC, disk, memory, ports, GPU, weights, servers.

    With --cluster: whether each node answers, has the driver's versions and code, can write to the storage, has the Inception
    weights, its GPUs, the right time and free disk. A small object is written to the storage and removed; nothing else changes.

    Exit status 1 when there is a problem.
    """
    if cluster:
        sys.exit(_doctor_cluster(as_json, timeout))
    findings: list[Finding] = []
    for check in CHECKS:
        for finding in _findings(check):
            findings.append(finding)
            if not as_json:
                _print(finding)
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    problems = sum(finding.status == "problem" for finding in findings)
    if not as_json:
        click.echo(f"{problems} {'problem' if problems == 1 else 'problems'}." if problems else "No problem found.")
    sys.exit(1 if problems else 0)


def _print(finding: Finding) -> None:
    click.echo(click.style(f"{finding.status:8}", fg=_COLOURS[finding.status]) + f" {finding.check:9} {finding.found}")
    if finding.remedy:
        click.echo(f"{'':19}{finding.remedy}")


def _doctor_cluster(as_json: bool, timeout: float) -> int:
    """Check the nodes of the Ray cluster and print a table; returns the exit status."""
    import ray

    from pipelines.runtime.cluster import ray_cluster
    from pipelines.runtime.cluster_check import COLUMNS, check_nodes, judge
    from pipelines.settings.schema import load_settings

    address = os.environ.get("RAY_ADDRESS", "")
    if not ray.is_initialized():
        if address in ("", "local"):
            raise click.UsageError(
                "RAY_ADDRESS is not set: there is no cluster to check. Set it to HOST:PORT of its head."
            )
        if (failure := _refused(address)) is not None:
            raise StageError(
                f"The Ray cluster at {address} cannot be reached: {failure}. Start it, or correct RAY_ADDRESS."
            )
    checkout = Checkout.at()
    uri = load_settings(checkout.params).storage.resolve_uri()
    with ray_cluster(checkout, log_to_driver=False):
        rows = judge(check_nodes(uri, timeout), uri)
    cells = [(row, name, cell) for row in rows for name, cell in row.cells.items()]
    problems = sum(cell.status == "problem" for _, _, cell in cells)
    if as_json:
        listed = [
            {"node": row.name, "address": row.address, "check": name, **asdict(cell)} for row, name, cell in cells
        ]
        click.echo(redact_credentials(json.dumps(listed, indent=2)))
        return 1 if problems else 0
    header = ["node", *COLUMNS]
    table = [
        [row.name, *(_short(row.cells[name].found) if name in row.cells else "-" for name in COLUMNS)] for row in rows
    ]
    widths = [max(len(line[i]) for line in (header, *table)) for i in range(len(header))]
    for line in (header, *table):
        click.echo(
            redact_credentials("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
        )
    for row, name, cell in cells:
        if cell.remedy:
            click.echo(click.style(f"{cell.status:8}", fg=_COLOURS[cell.status]), nl=False)
            click.echo(redact_credentials(f" {row.name}, {name}: {cell.found}. {cell.remedy}"))
    click.echo(f"{problems} {'problem' if problems == 1 else 'problems'}." if problems else "No problem found.")
    return 1 if problems else 0


def _short(text: str, most: int = 24) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _refused(address: str) -> str | None:
    """Why nothing accepts connections at the address of a Ray cluster; None if something does."""
    if address == "auto":
        return None
    try:
        host = urllib.parse.urlsplit(address if "://" in address else f"ray://{address}")
        socket.create_connection((host.hostname or "", host.port or 10001), timeout=_ANSWER_SECONDS).close()
    except OSError as error:
        return str(error.strerror or error)
    except ValueError as error:
        return f"it is not HOST:PORT ({error})"
    return None


def _findings(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """The findings of ``check``. A check that raises is a problem itself, and the other checks still run."""
    try:
        for finding in check():
            yield Finding(
                check=finding.check,
                status=finding.status,
                found=redact_credentials(finding.found),
                remedy=redact_credentials(finding.remedy),
            )
    except Exception as error:
        yield Finding(check=check.__name__.strip("_"), status="problem", found=explain_error(error))


def _python() -> Iterator[Finding]:
    place = sys.prefix if sys.prefix != sys.base_prefix else "no virtual environment"
    yield Finding(check="python", status="ok", found=f"{platform.python_version()} ({place})")


def _packages() -> Iterator[Finding]:
    """Compare the installed versions with those that Gantry requires."""
    from packaging.requirements import Requirement

    wrong = []
    for text in importlib.metadata.requires("gantry-gan") or []:
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} is {version}, but Gantry needs {requirement.specifier}")
    if wrong:
        yield Finding(
            check="packages",
            status="problem",
            found="; ".join(wrong),
            remedy="In a clone of Gantry: rm .venv/.ready, then any make target. Elsewhere: install Gantry again.",
        )
    else:
        yield Finding(check="packages", status="ok", found=versions())


def _git() -> Iterator[Finding]:
    root = Path.cwd()
    try:
        version = run_git(root, "--version").removeprefix("git version ")
    except GitError as error:
        yield Finding(check="git", status="problem", found=error.reason, remedy="Install git: DVC needs it.")
        return
    try:
        head = run_git(root, "rev-parse", "--short", "HEAD")
    except GitError as error:
        yield Finding(
            check="git",
            status="problem",
            found=f"{version}; {error.reason}",
            remedy="Run git init and commit once: then each model can be traced back to its commit.",
        )
        return
    changed = bool(run_git(root, "status", "--porcelain", "--untracked-files=no"))
    yield Finding(check="git", status="ok", found=f"{version}, at commit {head}{' with changes' if changed else ''}")
    if not (run_git(root, "config", "user.email", empty_on=(1,)) or os.environ.get("GIT_AUTHOR_EMAIL")):
        yield Finding(
            check="git",
            status="note",
            found="git has no user name; experiments are recorded under the name of this account",
            remedy="To change that: git config user.name NAME; git config user.email ADDRESS.",
        )


def _project() -> Iterator[Finding]:
    from pipelines.settings.schema import load_settings

    checkout = Checkout.at()
    if not checkout.dvc_yaml.is_file():
        yield Finding(
            check="project",
            status="problem",
            found=f"there is no dvc.yaml in {checkout.root}",
            remedy="Run gantry doctor in the root folder of a Gantry project.",
        )
        return
    settings = load_settings(checkout.params)
    yield Finding(
        check="project",
        status="ok",
        found=f"{checkout.root}: data {settings.data.name}, family {settings.model.family}",
    )


def _dvc() -> Iterator[Finding]:
    from pipelines.runtime.dvc_repo import open_project

    checkout = Checkout.at()
    if not checkout.dvc_yaml.is_file():
        return  # _project reports it
    with open_project(checkout) as repo:
        cache, remotes = Path(repo.cache.local.path), [*repo.config.get("remote", {})]
    there = next(folder for folder in (cache, *cache.parents) if folder.exists())
    if not os.access(there, os.W_OK):
        yield Finding(
            check="dvc",
            status="problem",
            found=f"the cache {cache} is not writable",
            remedy="Change its permissions, or move it: dvc cache dir PATH.",
        )
        return
    yield Finding(
        check="dvc",
        status="ok",
        found=f"cache {cache}; {'remote ' + ', '.join(remotes) if remotes else 'no remote: data stays on this machine'}",
    )


def _disk() -> Iterator[Finding]:
    from gan_core.cache import user_cache_dir
    from pipelines.runtime.cluster_check import SCARCE, TOO_LITTLE

    places: dict[int, list[str]] = {}
    where: dict[int, Path] = {}
    for name, path in {"checkout": Path.cwd(), "user's cache": user_cache_dir()}.items():
        there = next(folder for folder in (path, *path.parents) if folder.exists())
        device = there.stat().st_dev
        places.setdefault(device, []).append(name)
        where.setdefault(device, there)
    for device, names in places.items():
        free = shutil.disk_usage(where[device]).free
        status: Status = "problem" if free < TOO_LITTLE else "note" if free < SCARCE else "ok"
        yield Finding(
            check="disk",
            status=status,
            found=f"{' and '.join(names)}: {free_space(where[device])}",
            remedy=""
            if status == "ok"
            else "Free some space: data, checkpoints and caches of a real run take tens of GiB.",
        )


def _memory() -> Iterator[Finding]:
    import psutil

    from gan_core.memory import available_memory

    free, total = available_memory(), psutil.virtual_memory().total
    little = free < 4 * 2**30
    remedy = "Close other programs, or raise the memory limit of the container: Ray and training need about 4 GiB."
    yield Finding(
        check="memory",
        status="note" if little else "ok",
        found=f"{format_bytes(free)} of {format_bytes(total)} available; {os.cpu_count()} processors",
        remedy=remedy if little else "",
    )


def _ports() -> Iterator[Finding]:
    from pipelines.flow.server import PORT
    from pipelines.tracking.store import MLFLOW_PORT

    for name, port in {"Prefect": PORT, "MLflow": MLFLOW_PORT}.items():
        with socket.socket() as probe:
            probe.settimeout(1)
            taken = probe.connect_ex(("127.0.0.1", port)) == 0
        found = f"{port} ({name}) is {'in use: another free port will be used' if taken else 'free'}"
        yield Finding(check="ports", status="note" if taken else "ok", found=found)


def _gpu() -> Iterator[Finding]:
    import torch

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            device = torch.cuda.get_device_properties(index)
            yield Finding(check="gpu", status="ok", found=f"{device.name}, {format_bytes(device.total_memory)}")
        return
    if shutil.which("nvidia-smi") or Path("/proc/driver/nvidia").exists():
        yield Finding(
            check="gpu",
            status="problem",
            found=f"this machine has an NVIDIA driver, but torch {torch.__version__} finds no GPU",
            remedy="Install the CUDA build of torch, or update the driver to the version that torch needs.",
        )
        return
    yield Finding(check="gpu", status="note", found="none: everything runs on the CPU, which is much slower")


def _weights() -> Iterator[Finding]:
    from gan_core.download.weights import INCEPTION_FILE, weights_dir

    path = weights_dir() / INCEPTION_FILE
    if path.is_file():
        yield Finding(check="weights", status="ok", found=str(path))
    else:
        yield Finding(check="weights", status="note", found=f"{path} is downloaded for the first FID (81 MB)")


def _servers() -> Iterator[Finding]:
    """Check the servers that the environment or params.yaml names."""
    from pipelines.settings.tracking_uri import project_tracking_uri

    tracking = project_tracking_uri(Path.cwd()) or ""
    asked = {"prefect": os.environ.get("PREFECT_API_URL", ""), "mlflow": tracking if "://" in tracking else ""}
    healthy = {"prefect": b"true", "mlflow": b"OK"}
    for name, url in asked.items():
        if not url.startswith("http"):
            continue
        failure = _unreachable(f"{url.rstrip('/')}/health", healthy[name])
        yield Finding(
            check=name,
            status="problem" if failure else "ok",
            found=f"{url}{f': {failure}' if failure else ' answers'}",
            remedy="Start that server, or correct its address and its credentials in the environment."
            if failure
            else "",
        )
    if (address := os.environ.get("RAY_ADDRESS", "")) not in ("", "auto", "local"):
        if refused := _refused(address):
            yield Finding(
                check="ray",
                status="problem",
                found=f"{address}: {refused}",
                remedy="Start that cluster (ray start --head), or unset RAY_ADDRESS to use one on this machine.",
            )
        else:
            yield Finding(check="ray", status="ok", found=f"{address} accepts connections")


def _unreachable(url: str, healthy: bytes) -> str:
    """Why ``url`` does not answer ``healthy``; empty if it does."""
    user, at, _ = urllib.parse.urlsplit(url).netloc.rpartition("@")  # urllib would treat the user as part of the host
    request = urllib.request.Request(url.replace(user + at, "", 1) if at else url)
    if at:
        name = urllib.parse.unquote(user).encode()
        request.add_header("Authorization", f"Basic {base64.b64encode(name).decode()}")
    try:
        with urllib.request.urlopen(request, timeout=_ANSWER_SECONDS) as answer:
            if answer.read(len(healthy) + 2).strip() != healthy:
                return "another service answers"
    except urllib.error.HTTPError as error:
        # The server runs and asks for credentials, which its clients send.
        return "" if error.code in (401, 403) else f"status {error.code}"
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", error))
    return ""


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    *(_python, _packages, _git, _project, _dvc, _disk, _memory, _ports, _gpu, _weights, _servers),
)
