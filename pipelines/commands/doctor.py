"""``gantry doctor``: checks what a run needs on this machine, and prints for each problem what to do."""

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

from gan_core.disk import amount, free_space
from pipelines.runtime.checkout import Checkout
from pipelines.runtime.failures import explain
from pipelines.runtime.git import GitError, run_git
from pipelines.runtime.redaction import redact_credentials
from pipelines.runtime.versions import versions

Status = Literal["ok", "note", "problem"]
_COLOURS: dict[Status, str] = {"ok": "green", "note": "yellow", "problem": "red"}
_SCARCE, _TOO_LITTLE = 20 * 2**30, 2 * 2**30
"""Bytes of free disk below which a run may end for want of room, and below which it will."""
_ANSWER_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The result of one check."""

    check: str
    status: Status
    """``ok``; ``note``: works, but worth knowing; ``problem``: a run will fail or give less than it could."""
    found: str
    remedy: str = ""
    """What to do; empty where nothing needs doing."""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list of findings instead of the table.")
def doctor(as_json: bool) -> None:
    """Check this machine and this project: packages, git, DVC, disk, memory, ports, GPU, weights, servers.

    Changes nothing. Exit status 1 when there is a problem.
    """
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


def _findings(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """What ``check`` finds. A check that fails is itself a problem, and the others still run."""
    try:
        for finding in check():
            yield Finding(
                check=finding.check,
                status=finding.status,
                found=redact_credentials(finding.found),
                remedy=redact_credentials(finding.remedy),
            )
    except Exception as error:
        yield Finding(check=check.__name__.strip("_"), status="problem", found=explain(error))


def _python() -> Iterator[Finding]:
    place = sys.prefix if sys.prefix != sys.base_prefix else "no virtual environment"
    yield Finding(check="python", status="ok", found=f"{platform.python_version()} ({place})")


def _packages() -> Iterator[Finding]:
    """The installed versions against those that Gantry asks for."""
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
            wrong.append(f"{requirement.name} is {version}, and Gantry needs {requirement.specifier}")
    if wrong:
        yield Finding(
            check="packages",
            status="problem",
            found="; ".join(wrong),
            remedy="In a clone of Gantry: rm .venv/.ready, then any make verb. Elsewhere: install Gantry again.",
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
            remedy="Run git init and commit once: a model leads back to the commit that made it.",
        )
        return
    changed = bool(run_git(root, "status", "--porcelain", "--untracked-files=no"))
    yield Finding(check="git", status="ok", found=f"{version}, at commit {head}{' with changes' if changed else ''}")
    if not (run_git(root, "config", "user.email", empty_on=(1,)) or os.environ.get("GIT_AUTHOR_EMAIL")):
        yield Finding(
            check="git",
            status="note",
            found="git knows no user here; experiments are recorded under this account's name",
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
            remedy="Run gantry doctor in the root of a Gantry project.",
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
        return  # said already
    with open_project(checkout) as repo:
        cache, remotes = Path(repo.cache.local.path), [*repo.config.get("remote", {})]
    there = next(folder for folder in (cache, *cache.parents) if folder.exists())
    if not os.access(there, os.W_OK):
        yield Finding(
            check="dvc",
            status="problem",
            found=f"the cache {cache} is not writable",
            remedy="Change its permissions, or move it: dvc cache dir PLACE.",
        )
        return
    yield Finding(
        check="dvc",
        status="ok",
        found=f"cache {cache}; {'remote ' + ', '.join(remotes) if remotes else 'no remote: data stays on this machine'}",
    )


def _disk() -> Iterator[Finding]:
    from gan_core.data import user_cache_dir

    places: dict[int, list[str]] = {}
    where: dict[int, Path] = {}
    for name, path in {"checkout": Path.cwd(), "user's cache": user_cache_dir()}.items():
        there = next(folder for folder in (path, *path.parents) if folder.exists())
        device = there.stat().st_dev
        places.setdefault(device, []).append(name)
        where.setdefault(device, there)
    for device, names in places.items():
        free = shutil.disk_usage(where[device]).free
        status: Status = "problem" if free < _TOO_LITTLE else "note" if free < _SCARCE else "ok"
        yield Finding(
            check="disk",
            status=status,
            found=f"{' and '.join(names)}: {free_space(where[device])}",
            remedy="" if status == "ok" else "Make room: data, checkpoints and caches of a real run take tens of GiB.",
        )


def _memory() -> Iterator[Finding]:
    import psutil

    memory = psutil.virtual_memory()
    yield Finding(
        check="memory",
        status="note" if memory.available < 4 * 2**30 else "ok",
        found=f"{amount(memory.available)} of {amount(memory.total)} available; {os.cpu_count()} processors",
        remedy="Ray and training need about 4 GiB; end other programs." if memory.available < 4 * 2**30 else "",
    )


def _ports() -> Iterator[Finding]:
    from pipelines.flow.server import PORT
    from pipelines.tracking.store import MLFLOW_PORT

    for name, port in {"Prefect": PORT, "MLflow": MLFLOW_PORT}.items():
        with socket.socket() as probe:
            probe.settimeout(1)
            taken = probe.connect_ex(("127.0.0.1", port)) == 0
        found = f"{port} ({name}) is {'in use: another free port will be taken' if taken else 'free'}"
        yield Finding(check="ports", status="note" if taken else "ok", found=found)


def _gpu() -> Iterator[Finding]:
    import torch

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            device = torch.cuda.get_device_properties(index)
            yield Finding(check="gpu", status="ok", found=f"{device.name}, {amount(device.total_memory)}")
        return
    if shutil.which("nvidia-smi") or Path("/proc/driver/nvidia").exists():
        yield Finding(
            check="gpu",
            status="problem",
            found=f"this machine has an NVIDIA driver, and torch {torch.__version__} sees no GPU",
            remedy="Install the CUDA build of torch, or update the driver to the version that torch asks for.",
        )
        return
    yield Finding(check="gpu", status="note", found="none: everything runs on the processor, which is much slower")


def _weights() -> Iterator[Finding]:
    from gan_core.download.weights import INCEPTION_FILE, weights_dir

    path = weights_dir() / INCEPTION_FILE
    if path.is_file():
        yield Finding(check="weights", status="ok", found=str(path))
    else:
        yield Finding(check="weights", status="note", found=f"{path} is fetched when FID is first measured (81 MB)")


def _servers() -> Iterator[Finding]:
    """The servers that the environment or params.yaml names."""
    from pipelines.settings.tracking_uri import project_tracking_uri

    tracking = project_tracking_uri(Path.cwd()) or ""
    asked = {"prefect": os.environ.get("PREFECT_API_URL", ""), "mlflow": tracking if "://" in tracking else ""}
    for name, url in asked.items():
        if not url.startswith("http"):
            continue
        failure = _unreachable(f"{url.rstrip('/')}/health")
        yield Finding(
            check=name,
            status="problem" if failure else "ok",
            found=f"{url}{f': {failure}' if failure else ' answers'}",
            remedy="Start that server, or correct its address and its credentials in the environment."
            if failure
            else "",
        )
    if (address := os.environ.get("RAY_ADDRESS", "")) not in ("", "auto", "local"):
        host = urllib.parse.urlsplit(address if "://" in address else f"ray://{address}")
        try:
            socket.create_connection((host.hostname or "", host.port or 10001), timeout=_ANSWER_SECONDS).close()
        except OSError as error:
            yield Finding(
                check="ray",
                status="problem",
                found=f"{address}: {error.strerror or error}",
                remedy="Start that cluster (ray start --head), or unset RAY_ADDRESS to use one of this machine.",
            )
        else:
            yield Finding(check="ray", status="ok", found=f"{address} accepts connections")


def _unreachable(url: str) -> str:
    """Why ``url`` gives no answer; empty where it does."""
    user, at, _ = urllib.parse.urlsplit(url).netloc.rpartition("@")  # urllib takes a user for a part of the host
    request = urllib.request.Request(url.replace(user + at, "", 1) if at else url)
    if at:
        name = urllib.parse.unquote(user).encode()
        request.add_header("Authorization", f"Basic {base64.b64encode(name).decode()}")
    try:
        urllib.request.urlopen(request, timeout=_ANSWER_SECONDS).close()
    except urllib.error.HTTPError as error:
        # A server that asks who is there is a server that is there: credentials are the clients' business.
        return "" if error.code in (401, 403) else f"status {error.code}"
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", error))
    return ""


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    *(_python, _packages, _git, _project, _dvc, _disk, _memory, _ports, _gpu, _weights, _servers),
)
