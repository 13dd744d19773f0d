"""Digests of the code of Gantry that determines each stage's result.

In a clone of Gantry, ``dvc.yaml`` lists that code as dependencies. A project that uses the installed package does not contain
it: its stage ``code`` writes a digest of the code for each stage, and the stage depends on the digest.
"""

import hashlib
import importlib.util
import os
import platform
import socket
from pathlib import Path

import yaml

from gan_core.errors import StageError
from gan_core.files import sha256_file, write_text

CODE_STAGE = "code"
DIGEST_FOLDER = ".gantry/code"
"""The folder of the digests, relative to the root of the project."""
TEMPLATE = Path(__file__).parents[1] / "template"
"""The files of a new project. ``stages.yaml`` is a copy of dvc.yaml under a name that DVC does not read."""
PACKAGE_ROOT = Path(__file__).parents[2]
"""The folder that holds the packages ``pipelines`` and ``gan_core``."""
PACKAGES = ("pipelines/", "gan_core/")


def stage_code_paths() -> dict[str, list[str]]:
    """Files and folders of code that each stage depends on, relative to :data:`PACKAGE_ROOT`."""
    stages = yaml.safe_load((TEMPLATE / "stages.yaml").read_text(encoding="utf-8"))["stages"]
    return {name: [dep for dep in stage["deps"] if dep.startswith(PACKAGES)] for name, stage in stages.items()}


def code_digest(places: list[str]) -> str:
    """SHA-256 over the paths and contents of the Python files in ``places`` (files and folders)."""
    digest = hashlib.sha256()
    for place in sorted(places):
        root = _package_root(place.partition("/")[0])
        path = root / place
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            digest.update(f"{file.relative_to(root).as_posix()} {sha256_file(file)}\n".encode())
    return digest.hexdigest()


def code_versions(stage: str) -> str:
    """Versions of what the result of ``stage`` depends on, in this process."""
    import numpy as np
    import torch

    code = code_digest(stage_code_paths()[stage])[:12]
    return (
        f"Python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}, Gantry's code {code}"
    )


def check_versions(stage: str, wanted: str) -> None:
    """Raise StageError unless this process has the :func:`code_versions` of the driver, ``wanted``."""
    if (here := code_versions(stage)) != wanted:
        raise StageError(
            f"Host {socket.gethostname()} has {here}, and the driver has {wanted}. Install the same versions on every host."
        )


def check_own_code(root: Path) -> None:
    """Raise StageError if the folder ``root`` has Gantry's code, but this process runs another copy of it.

    The dvc.yaml there depends on the code there: results of the other code would be recorded as results of this code.
    """
    own = root / "pipelines" / "runtime" / Path(__file__).name
    if own.is_file() and not os.path.samefile(own, __file__):
        raise StageError(
            f"{root} has Gantry's code, but this command runs that of {PACKAGE_ROOT}: DVC would record its results as those of "
            f"the code in {root}. Use the environment of this folder (make .venv/.ready, then .venv/bin/gantry), or set "
            "PYTHONPATH to this folder."
        )


def _package_root(package: str) -> Path:
    """The folder that holds ``package``. On a Ray worker each package has one of its own."""
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]).parent


def write_digests(root: Path) -> None:
    """Write the digest of each stage's code to the project at ``root``."""
    (root / DIGEST_FOLDER).mkdir(parents=True, exist_ok=True)
    for name, places in stage_code_paths().items():
        write_text(root / DIGEST_FOLDER / name, f"{code_digest(places)}\n")
