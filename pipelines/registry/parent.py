"""Find the run that training starts from (``train.start_from``), and fetch its weights.

A registered version holds ``start.json``, which describes what a later run needs, and ``dvc.lock``, which names it in DVC's
cache: the weights of the discriminator are not part of the served model. They are fetched from the cache, or from a remote.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gan_core.config import build
from gan_core.errors import CheckpointError, DataError, StageError, TrackingError
from gan_core.files import atomic_write, read_json, sha256_file
from gan_core.training.start import DESCRIPTION, Start, check_files, open_start
from pipelines.registry.contents import version_files
from pipelines.registry.find import NOT_YET, find_version
from pipelines.runtime.checkout import START, Checkout
from pipelines.runtime.dvc_cache import fetch_cached, hash_in_lock
from pipelines.tracking.store import explain_server_errors

START_FILE = DESCRIPTION
"""File of a version with the description of what a later run needs."""
_NULL = "name another run, or set train.start_from to null"


@dataclass(frozen=True, kw_only=True)
class Parent:
    """The run that training starts from, found but not fetched."""

    name: str
    """``NAME/VERSION``, or the folder as params.yaml names it."""
    digest: str
    """SHA-256 of its description, which holds those of its files."""
    images_seen: int
    """Real images that its discriminator has seen."""
    dvc: str = ""
    """Hash of its start folder in DVC's cache; empty for a folder."""
    folder: str = ""
    """Its folder, absolute; empty for a registered version."""

    @property
    def start(self) -> Start:
        """It as the trainer knows it, without files."""
        return Start(name=self.name, digest=self.digest, images_seen=self.images_seen)


def find_parent(start_from: str, checkout: Checkout, tracking_uri: str) -> Parent:
    """Find what ``train.start_from`` names.

    Args:
        start_from: a folder (relative to the checkout), or a registered version in one of the forms of :func:`find_version`.
        checkout: the checkout.
        tracking_uri: MLflow server or database.

    Raises:
        CheckpointError: nothing can start from it, or it is damaged.
        TrackingError: there is no such version, or the server cannot be reached.
    """
    place = (checkout.root / start_from).resolve()
    if place.is_dir():
        start = open_start(place, start_from)
        assert start.folder is not None
        return Parent(
            name=start_from, digest=start.digest, images_seen=start.images_seen, folder=str(start.folder.resolve())
        )
    if start_from.startswith((".", "/")):
        raise CheckpointError(
            f"train.start_from: there is no folder {place}. Give a folder with start.json or checkpoints, {_NULL}."
        )
    try:
        with explain_server_errors(tracking_uri):
            version = find_version(start_from, tracking_uri)
            with version_files(version, tracking_uri) as files:
                return _read_version(files, f"{version.name}/{version.version}")
    except TrackingError as error:
        first = (
            " For the first version, set train.start_from to null." if any(of in str(error) for of in NOT_YET) else ""
        )
        raise TrackingError(f"train.start_from: {error}{first}") from error


def _read_version(files: Path, name: str) -> Parent:
    described, lock = files / START_FILE, files / "dvc.lock"
    if not described.is_file():
        raise TrackingError(
            f"{name} has no {START_FILE}: it was registered by an older version of Gantry, or from a dvc.yaml whose stage "
            f"train does not list the out {START}. Add it there and train once more, {_NULL}."
        )
    values = read_json(described)
    if not values.get("files"):
        raise TrackingError(f"{name} was trained with train.save_start: none, so no run can start from it: {_NULL}.")
    return Parent(
        name=name,
        digest=sha256_file(described),
        images_seen=int(values["total_images"]),
        dvc=_hash_in_lock(lock, name),
    )


def _hash_in_lock(lock: Path, name: str) -> str:
    """DVC's hash of the start folder in the dvc.lock of a version."""
    found = hash_in_lock(lock.read_text(encoding="utf-8"), "train", START) if lock.is_file() else None
    if not found:
        raise TrackingError(f"{name} does not say where its weights are: its dvc.lock does not list {START}: {_NULL}.")
    return found


def fetch_parent(parent: Parent, checkout: Checkout, target: Path) -> None:
    """Write the start folder of ``parent`` to ``target``, whole or not at all, and check it.

    Raises:
        CheckpointError: its files are neither in DVC's cache nor in a remote, or they are damaged.
    """
    with atomic_write(target) as temporary:
        if parent.folder:
            if not Path(parent.folder).is_dir():
                raise CheckpointError(f"train.start_from: {parent.folder} is gone. Restore it, {_NULL}.")
            shutil.copytree(parent.folder, temporary)
        elif not parent.dvc:
            raise CheckpointError(
                f"train.start_from: the folder {parent.name} is on the host that began this run, {_NULL}."
            )
        else:
            try:
                fetch_cached(checkout, parent.dvc, temporary)
            except DataError as error:
                raise CheckpointError(
                    f"train.start_from: the weights of {parent.name} are not in DVC's cache here, nor can they be fetched "
                    f"({error}). Push them where they are (dvc push), set a DVC remote here, {_NULL}."
                ) from error
        start = open_start(temporary, parent.name)
        if start.digest != parent.digest:
            raise CheckpointError(
                f"train.start_from: {parent.name} has changed: its description has the digest {start.digest[:12]}, expected "
                f"{parent.digest[:12]}. Restore it, {_NULL}."
            )
        if (temporary / DESCRIPTION).is_file():
            check_files(start)


def parent_from(values: Any, where: Path) -> Parent:
    """A parent that was recorded with :func:`dataclasses.asdict`; raises StageError if the record is damaged."""
    try:
        return build(Parent, values, where=str(where))
    except Exception as error:
        raise StageError(f"{where} is damaged: {error} Remove it: the run to start from is found again.") from error
