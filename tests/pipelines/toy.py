"""A toy DVC project in git. Its stages are one line of Python each."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

CHECKOUT = Path(__file__).parents[2]


def environment(**extra: str) -> dict[str, str]:
    """The environment of a command in a toy project, with this checkout's packages and this interpreter's commands."""
    foreign = ["GANTRY_", "MLFLOW_TRACKING_URI", "DVC_", "RAY_ADDRESS", "RAY_AUTH_", "GIT_"]
    if "PREFECT_API_URL" not in os.environ:
        foreign.append("PREFECT_HOME")  # a server of the project's own keeps everything in the project
    kept = {name: value for name, value in os.environ.items() if not name.startswith(tuple(foreign))}
    return {
        **kept,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(CHECKOUT),
        "DVC_NO_ANALYTICS": "1",
        "GIT_AUTHOR_NAME": "toy",
        "GIT_AUTHOR_EMAIL": "toy@example.org",
        "GIT_COMMITTER_NAME": "toy",
        "GIT_COMMITTER_EMAIL": "toy@example.org",
        **extra,
    }


def run(*command: str, cwd: Path, check: bool = True, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a toy project and return it with its output (both streams in ``stdout``)."""
    done = subprocess.run(
        command, cwd=cwd, env=environment(**extra), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert not check or done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}"
    return done


def dvc(*words: str, cwd: Path, check: bool = True, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run ``dvc`` in a toy project."""
    return run(sys.executable, "-m", "dvc", *words, cwd=cwd, check=check, **extra)


def start(*command: str, cwd: Path, **extra: str) -> subprocess.Popen[str]:
    """Start a command in a toy project, in its own session."""
    return subprocess.Popen(
        command,
        cwd=cwd,
        env=environment(**extra),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def make_project(root: Path, files: dict[str, str]) -> Path:
    """A git and DVC project at ``root`` with these files (text by path), committed."""
    for place, text in files.items():
        path = root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    run("git", "init", "-q", "-b", "main", cwd=root)
    dvc("init", "-q", cwd=root)
    (root / ".gitignore").write_text("/var/\n__pycache__/\n", encoding="utf-8")
    run("git", "add", "-A", cwd=root)
    run("git", "commit", "-qm", "toy", cwd=root)
    return root


def wait_for(
    condition: Callable[[], object], seconds: float = 30.0, what: str = "the condition", log: Path | None = None
) -> None:
    """Wait until ``condition()`` is true; fail after ``seconds``, with the end of ``log``."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            said = "\n".join(log.read_text(errors="replace").splitlines()[-40:]) if log else ""
            raise AssertionError(f"{what} did not come true in {seconds} s\n{said}")
        time.sleep(0.05)


def listeners(pids: Iterable[int]) -> list[tuple[str, int]]:
    """Addresses and ports at which these processes listen for TCP connections."""
    found = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            connections = psutil.Process(pid).net_connections(kind="tcp")
            found += [tuple(one.laddr) for one in connections if one.status == psutil.CONN_LISTEN]
    return found


def command_line(process: psutil.Process) -> str:
    """The words of a process's command; empty if it has ended meanwhile."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def running(pid: int) -> bool:
    """Whether a process runs. A zombie does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
