"""Gantry's code and a project on a host, which drives the pipeline from there."""

import os
import shutil
import sys
from pathlib import Path

from infra.hosts.hosts import Host

CODE = "/opt/gantry"
"""The code. Hosts that only train have none: it travels with the run."""
PROJECT = "/opt/project"
"""Folder of the project."""
WEIGHTS = "/opt/weights"
"""Folder of the Inception weights: hosts cannot fetch them."""
_CHECKOUT = Path(__file__).parents[2]
ENVIRONMENT = {
    "PYTHONPATH": CODE,
    "GANTRY_WEIGHTS_DIR": WEIGHTS,
    "GIT_AUTHOR_NAME": "Gantry",
    "GIT_AUTHOR_EMAIL": "gantry@localhost",
    "GIT_COMMITTER_NAME": "Gantry",
    "GIT_COMMITTER_EMAIL": "gantry@localhost",
    "PATH": f"{sys.prefix}/bin:{os.environ['PATH']}",
}
"""Environment of a driver, without addresses and keys."""


def copy_code(host: Host, *packages: str) -> None:
    """Copy Gantry's code, and these packages of the checkout, to :data:`CODE` on ``host``."""
    for name in ("gan_core", "pipelines", *packages):
        target = host.files(f"{CODE}/{name}")
        shutil.copytree(_CHECKOUT / name, target, ignore=shutil.ignore_patterns("__pycache__"))


def copy_weights(host: Host, file: Path) -> None:
    """Copy the Inception weights to :data:`WEIGHTS` on ``host``."""
    place = host.files(WEIGHTS)
    place.mkdir(parents=True)
    shutil.copy(file, place / file.name)
