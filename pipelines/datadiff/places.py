"""Find a prepared dataset by what a user calls it: a folder, raw data, a registered version, or a git revision."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gan_core.data import DATASET_FILE, PreparedDataset
from gan_core.errors import DataError, GantryError, TrackingError
from pipelines.data.ingest import ingest
from pipelines.data.rejects import UnusableError
from pipelines.registry.contents import version_files
from pipelines.registry.find import REGISTERED, find_version
from pipelines.runtime.checkout import DVC_LOCK, PREPARED, Checkout
from pipelines.runtime.dvc_cache import fetch_cached, hash_in_lock
from pipelines.runtime.git import GitError, run_git
from pipelines.runtime.progress import say
from pipelines.settings.schema import load_settings
from pipelines.tracking.store import explain_server_errors

_FORMS = (
    "Give a prepared folder, the name of raw data (data/raw/NAME) or a folder of it, a registered version (NAME@champion, "
    "NAME/VERSION) or a git revision whose dvc.lock has the stage ingest."
)


@contextmanager
def prepared_data(named: str, checkout: Checkout, tracking_uri: str | None) -> Iterator[PreparedDataset]:
    """Yield the prepared data that ``named`` means. Raw data is prepared in a temporary folder as ``ingest`` says.

    Args:
        named: a prepared folder, raw data, a git revision, or a registered version (the data it was trained on), the first that
            exists. With :data:`~pipelines.registry.find.REGISTERED` before it, a registered version.
        checkout: the checkout.
        tracking_uri: MLflow server or database; None without registered versions.

    Raises:
        DataError: there is no such data, or its files are neither in DVC's cache nor in a remote.
        TrackingError: the registry has no such version, or cannot be reached.
    """
    with tempfile.TemporaryDirectory(prefix="gantry-data-") as scratch:
        yield PreparedDataset(_folder(named, checkout, tracking_uri, Path(scratch) / "prepared"))


def _folder(named: str, checkout: Checkout, tracking_uri: str | None, target: Path) -> Path:
    folders = () if named.startswith(REGISTERED) else (Path(named), checkout.root / named)
    for place in folders:
        if (place / DATASET_FILE).is_file() and next(place.glob("*.parquet"), None) is not None:
            return place
        if place.is_dir() and (place / PREPARED / DATASET_FILE).is_file():
            return place / PREPARED  # another checkout
    # NAME/3 is a version of NAME, not the folder of the class 3 in the raw data NAME.
    for raw in (*([] if "/" in named else [checkout.raw_data(named)]), *folders[:1]):
        if named and raw.is_dir():
            say("data", f"preparing {raw}")
            try:
                ingest(raw, target, load_settings(checkout.params).ingest, name=raw.name)
            except UnusableError as error:  # the list of the pictures is removed with the temporary folder
                raise DataError(f"{error.why} Repair or remove them, or raise the limit in params.yaml.") from error
            return target
    lock, what = _lock(named, checkout, tracking_uri)
    digest = hash_in_lock(lock, "ingest", PREPARED)
    if digest is None:
        raise DataError(f"The dvc.lock of {what} does not list {PREPARED}. {_FORMS}")
    try:
        fetch_cached(checkout, digest, target)
    except DataError as error:
        again = f", or prepare it again: gantry run ingest --revision {named}" if what.startswith("revision ") else ""
        raise DataError(
            f"The prepared data of {what} is not in DVC's cache here, nor can it be fetched ({error}). Push it where it is "
            f"(dvc push){again}."
        ) from error
    return target


def _lock(named: str, checkout: Checkout, tracking_uri: str | None) -> tuple[str, str]:
    """The text of the dvc.lock of a registered version or a revision, and what it is."""
    if not named.startswith(REGISTERED) and ("@" not in named or named.startswith("@")):
        try:
            prefix = run_git(checkout.root, "rev-parse", "--show-prefix")
            run_git(checkout.root, "rev-parse", "--verify", "--quiet", f"{named}^{{commit}}")
            return run_git(checkout.root, "show", f"{named}:{prefix}{DVC_LOCK}"), f"revision {named}"
        except GitError as error:
            if "dvc.lock" in str(error):
                raise DataError(f"Revision {named} has no dvc.lock, so its data is unknown. {_FORMS}") from error
    if tracking_uri is None:
        raise DataError(f"There is no data '{named}'. {_FORMS}")
    try:
        with explain_server_errors(tracking_uri):
            version = find_version(named, tracking_uri)
            with version_files(version, tracking_uri) as files:
                lock = files / DVC_LOCK
                if not lock.is_file():
                    raise DataError(
                        f"{version.name}/{version.version} has no dvc.lock, so its data is unknown. {_FORMS}"
                    )
                return lock.read_text(encoding="utf-8"), f"{version.name}/{version.version}"
    except TrackingError as error:
        raise _no_data(named, error) from error


def _no_data(named: str, error: GantryError) -> GantryError:
    if "There is no generator" in str(error):
        return DataError(f"There is no data '{named}': no folder, no revision, and no registered version. {_FORMS}")
    return error
