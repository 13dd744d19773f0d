"""Fetch a folder that DVC tracks by its hash, from DVC's cache or from a remote."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from gan_core.errors import DataError
from gan_core.files import link_or_copy
from pipelines.runtime.checkout import DVC_LOCK, Checkout
from pipelines.runtime.dvc_repo import explain_dvc_error, open_project
from pipelines.runtime.dvc_yaml import parse_as_dvc

if TYPE_CHECKING:
    from dvc.repo import Repo


def fetch_cached(checkout: Checkout, digest: str, target: Path) -> None:
    """Write the folder with DVC's hash ``digest`` to ``target``, which must not exist. Its files may be links into the cache.

    Raises:
        DataError: the folder is neither in the cache nor in a remote; the message is a reason and no sentence.
    """
    from dvc.exceptions import DvcException
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_objects.errors import ObjectFormatError

    with open_project(checkout) as repo:
        path_of = repo.cache.local.oid_to_path

        def missing(hashes: Iterable[str]) -> list[HashInfo]:
            return [HashInfo("md5", value) for value in hashes if not Path(path_of(value)).is_file()]

        try:
            # DVC brings the list of the files first, and the files once it knows the list.
            if gone := missing([digest]):
                repo.cloud.pull(gone)
            files = _listed(repo, digest)
            if files is not None and (gone := missing(files.values())):
                repo.cloud.pull(gone)
        except (DvcException, ObjectFormatError) as error:
            raise DataError(" ".join(explain_dvc_error(error).split()).rstrip(".")) from error
        if files is None or missing(files.values()):
            raise DataError("the remote does not have them")
        target.mkdir(parents=True)
        for name, value in files.items():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(path_of(value), target / name)


def hash_in_lock(lock: str, stage: str, out: str) -> str | None:
    """DVC's hash of the out of a stage in the text of a dvc.lock; None if it has none."""
    return _hash_in_lock(lock, stage, "outs", out)


def hash_of_dependency(lock: str, stage: str, path: str) -> str | None:
    """DVC's hash of a dependency of a stage, when the stage ran, in the text of a dvc.lock; None if it has none."""
    return _hash_in_lock(lock, stage, "deps", path)


def _hash_in_lock(lock: str, stage: str, which: str, path: str) -> str | None:
    values = parse_as_dvc(lock, DVC_LOCK)
    if not isinstance(values, dict):
        return None
    listed = ((values.get("stages") or {}).get(stage) or {}).get(which) or []
    return next((str(found["md5"]) for found in listed if found.get("path") == path and found.get("md5")), None)


def _listed(repo: "Repo", digest: str) -> dict[str, str] | None:
    """Hash of each file, by name, of the folder with this hash; None if its list is not in DVC's cache."""
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_data.hashfile.tree import Tree

    cache = repo.cache.local
    if not Path(cache.oid_to_path(digest)).is_file():
        return None
    tree = Tree.load(cache, HashInfo("md5", digest))
    return {"/".join(name): str(info.value) for name, (_, info) in tree.iteritems()}
