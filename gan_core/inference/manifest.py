"""A manifest of the SHA-256 digests of all files in a folder, to detect changes."""

from pathlib import Path

from gan_core.errors import CheckpointError
from gan_core.files import read_json, sha256_file, write_json

MANIFEST = "gantry-manifest.json"
_LARGEST = 1 << 24
_ADDED = {"registered_model_meta"}
"""Files that MLflow adds when it loads a copy."""


def write_manifest(folder: Path) -> str:
    """Write a manifest of all files below ``folder`` into it, and return the SHA-256 of the manifest."""
    sums = {name: sha256_file(folder / name) for name in _names(folder)}
    write_json(folder / MANIFEST, {"format": 1, "files": sums})
    return sha256_file(folder / MANIFEST)


def check_manifest(folder: Path, digest: str | None = None) -> None:
    """Compare the files below ``folder`` with its manifest. Compiled Python files are ignored, because Python adds them.

    Args:
        folder: a folder with a manifest from :func:`write_manifest`.
        digest: the SHA-256 that :func:`write_manifest` returned. Without it, a change of the manifest itself is not detected.

    Raises:
        CheckpointError: a file (or the manifest) was changed, added or removed; names the file.
    """
    path = folder / MANIFEST
    changed = "The folder differs from what was registered: do not use it. Register the generator again"
    if not path.is_file():
        raise CheckpointError(f"{path} is missing. {changed}.")
    if digest is not None and sha256_file(path) != digest:
        raise CheckpointError(f"{path} was changed: its SHA-256 differs from the one in the registry. {changed}.")
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError("it is too large")
        sums = read_json(path)["files"]
        listed = {str(name): str(sums[name]) for name in sums}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged ({error}). {changed}.") from error
    there = set(_names(folder))
    for name in sorted(there ^ set(listed)):
        what = "was added" if name in there else "is missing"
        raise CheckpointError(f"{folder / name} {what}. {changed}.")
    for name in sorted(listed):
        if sha256_file(folder / name) != listed[name]:
            raise CheckpointError(f"{folder / name} was changed. {changed}.")


def _names(folder: Path) -> list[str]:
    """The files below ``folder`` that a manifest lists, as relative paths."""
    files = (path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir())
    return sorted(
        path.as_posix()
        for path in files
        if "__pycache__" not in path.parts and path.as_posix() != MANIFEST and path.as_posix() not in _ADDED
    )
