"""Which of Gantry's own files determine each stage's result, and their digests.

In a checkout of Gantry ``dvc.yaml`` names those files as dependencies. A project that uses the installed package has none of
them in its tree: there the stage ``code`` writes a digest of them for each stage, and the stage depends on that.
"""

import hashlib
from pathlib import Path

import yaml

from gan_core.files import sha256_file, write_text

STAGE = "code"
FOLDER = ".gantry/code"
"""Where a project keeps the digests, relative to its root."""
TEMPLATE = Path(__file__).parents[1] / "template"
"""The files of a new project. ``stages.yaml`` is a copy of the checkout's dvc.yaml, by a name that DVC does not read there."""
PLACE = Path(__file__).parents[2]
"""Where the packages lie."""
PACKAGES = ("pipelines/", "gan_core/")


def code_of_stages() -> dict[str, list[str]]:
    """Files and folders of Gantry's code that each stage depends on, relative to :data:`PLACE`."""
    stages = yaml.safe_load((TEMPLATE / "stages.yaml").read_text(encoding="utf-8"))["stages"]
    return {name: [dep for dep in stage["deps"] if dep.startswith(PACKAGES)] for name, stage in stages.items()}


def code_digest(places: list[str]) -> str:
    """SHA-256 over the Python files at ``places``: their paths and their contents."""
    digest = hashlib.sha256()
    for place in sorted(places):
        path = PLACE / place
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            digest.update(f"{file.relative_to(PLACE).as_posix()} {sha256_file(file)}\n".encode())
    return digest.hexdigest()


def write_digests(root: Path) -> None:
    """Write the digest of each stage's code into the project at ``root``."""
    (root / FOLDER).mkdir(parents=True, exist_ok=True)
    for name, places in code_of_stages().items():
        write_text(root / FOLDER / name, f"{code_digest(places)}\n")
