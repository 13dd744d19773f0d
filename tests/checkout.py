"""Clone this project for end-to-end tests, and run commands in the clone."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pipelines.settings.tracking_uri import URI_VARIABLES

ROOT = Path(__file__).parent.parent


def run(command: list[str], where: Path, environment: dict[str, str], timeout: float = 600) -> str:
    """Run a command in its own session and return its output; kill the whole session after ``timeout`` seconds."""
    process = subprocess.Popen(
        command,
        cwd=where,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=timeout)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    assert process.returncode == 0, f"{command} gave {process.returncode}:\n{output[-6000:]}"
    return output


def clean_environment(cache: Path) -> dict[str, str]:
    """The environment of a new user: the commands of this interpreter, empty caches and an empty home folder."""
    foreign = ("GANTRY_CACHE", *URI_VARIABLES, "RAY_ADDRESS", "PREFECT_", "DVC_", "XDG_", "MPLCONFIGDIR")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    home = cache / "home"
    home.mkdir(parents=True, exist_ok=True)
    # PYTHONNOUSERSITE, because Python finds the user's packages by the home folder.
    return {
        **kept,
        "PATH": path,
        "GANTRY_CACHE_DIR": str(cache / "gantry"),
        "HOME": str(home),
        "PYTHONNOUSERSITE": "1",
        "DVC_NO_ANALYTICS": "1",
    }


def clone(root: Path, params: Mapping[str, Any], environment: dict[str, str]) -> Path:
    """Copy the tracked and the new files of this repository to ``root``, with ``params`` as its params.yaml.

    Adds the clone to PYTHONPATH in ``environment``.
    """
    files = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(files, cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name)
    for leftover in ("dvc.lock", "outputs"):
        path = root / leftover
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    (root / "params.yaml").write_text(yaml.safe_dump(dict(params)), encoding="utf-8")
    run(["git", "init", "-q"], root, environment)
    environment["PYTHONPATH"] = str(root)
    return root


def commit(root: Path, environment: dict[str, str]) -> None:
    """Commit everything in the checkout."""
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    run(["git", "add", "-A"], root, environment)
    run(["git", *identity, "commit", "-qm", "current state"], root, environment)
