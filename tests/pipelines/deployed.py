"""A project on a git remote and a DVC remote, and a Prefect worker as on a host of its own."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.pipelines.toy import dvc, run, start


def push_project(project: Path, remote: Path, *, data: str | None = None) -> None:
    """Push ``project`` to a new repository ``remote``, and its results and ``data`` to the DVC remote ``store`` beside it.

    ``data`` is a file that git tracks; DVC tracks it afterwards.
    """
    remote.parent.mkdir()
    run("git", "init", "-q", "--bare", "-b", "main", str(remote), cwd=project)
    dvc("remote", "add", "-q", "-d", "store", str(remote.parent / "store"), cwd=project)
    if data is not None:
        run("git", "rm", "-q", "--cached", data, cwd=project)
        dvc("add", "-q", data, cwd=project)
    run("git", "add", "-A", cwd=project)
    run("git", "commit", "-qm", "Add a remote", cwd=project)
    run("git", "remote", "add", "origin", remote.as_uri(), cwd=project)
    run("git", "push", "-q", "-u", "origin", "main", cwd=project)
    dvc("push", "-q", cwd=project)


@contextmanager
def prefect_worker(pool: str, cache: Path, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A worker as on a host of its own: it knows the server and an empty cache folder, and no checkout."""
    command = (sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--type", "process")
    cache.mkdir(exist_ok=True)
    settings = {
        "GANTRY_CACHE_DIR": str(cache),
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PREFECT_WORKER_PREFETCH_SECONDS": "1",
    }
    process = start(*command, cwd=cache, **settings, **environment)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            print(process.communicate(timeout=30)[0][-4000:])
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            print(process.communicate()[0][-4000:])
