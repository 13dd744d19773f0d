"""A folder of files as objects: complete or absent, and checked when it is fetched.

The files lie under ``PREFIX/files`` by the SHA-256 of their content, so that equal files are stored once and a file may have
any name. ``PREFIX/manifest.json``, which is written last, lists their names, sizes and digests.
"""

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

from gan_core.files import atomic_write, link_or_copy, sha256_file
from pipelines.storage.objects import Entry, MissingObjectError, Storage, StorageError

MANIFEST = "manifest.json"
_THREADS = 8


def data_name(digest: str) -> str:
    """Name of the prepared data in the storage; ``digest``: SHA-256 of its ``dataset.json``."""
    return f"data/{digest}"


def file_name(prefix: str, sha256: str) -> str:
    """Name of a file with this digest in the folder ``prefix``."""
    return f"{prefix}/files/{sha256}"


def publish_folder(storage: Storage, prefix: str, folder: Path, note: Mapping[str, Any] | None = None) -> None:
    """Write the files of ``folder`` below ``prefix``; what an interrupted call has written already is not sent again.

    Args:
        storage: where to.
        prefix: name of the folder in the storage. A folder that is complete there is replaced.
        folder: has regular files and folders only; empty folders are not kept.
        note: kept in the manifest, for :func:`read_note`.
    """
    files: dict[str, dict[str, Any]] = {
        path.relative_to(folder).as_posix(): {"sha256": sha256_file(path), "size": path.stat().st_size}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    stored = {entry.name.rpartition("/")[2]: entry.size for entry in storage.entries(f"{prefix}/files")}
    missing = {
        entry["sha256"]: folder / name for name, entry in files.items() if stored.get(entry["sha256"]) != entry["size"]
    }

    def send(item: tuple[str, Path]) -> None:
        storage.write(file_name(prefix, item[0]), item[1])

    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(send, missing.items()))
    manifest = {"files": files, "note": dict(note or {})}
    storage.write(f"{prefix}/{MANIFEST}", json.dumps(manifest, sort_keys=True).encode())


def fetch_folder(storage: Storage, prefix: str, folder: Path) -> None:
    """Write the folder that was published below ``prefix`` to ``folder``, whole or not at all.

    Raises:
        MissingObjectError: no complete folder is there.
        StorageError: a file is missing or differs from the manifest.
    """
    files = _read_manifest(storage, prefix)["files"]

    def fetch(digest: str, size: int, path: Path) -> None:
        try:
            storage.download(file_name(prefix, digest), path)
        except MissingObjectError as error:
            raise StorageError(f"{storage.uri}/{prefix} is damaged: a file is missing. Remove it there.") from error
        if path.stat().st_size != size or sha256_file(path) != digest:
            raise StorageError(
                f"{storage.uri}/{prefix}/files/{digest} is damaged: its content has another digest. Remove "
                f"{storage.uri}/{prefix}."
            )

    with atomic_write(folder) as temporary:
        temporary.mkdir()
        first: dict[str, Path] = {}
        for name, entry in files.items():
            path = temporary / _inside(name, storage, prefix)
            path.parent.mkdir(parents=True, exist_ok=True)
            first.setdefault(entry["sha256"], path)
        with ThreadPoolExecutor(_THREADS) as pool:
            sizes = {entry["sha256"]: entry["size"] for entry in files.values()}
            list(pool.map(lambda item: fetch(item[0], sizes[item[0]], item[1]), first.items()))
        for name, entry in files.items():
            if (path := temporary / name) != first[entry["sha256"]]:
                link_or_copy(first[entry["sha256"]], path)


def list_folder(storage: Storage, prefix: str) -> dict[str, Entry]:
    """The objects that hold the files of the complete folder below ``prefix``, by file name.

    Raises:
        MissingObjectError: no complete folder is there.
    """
    return {
        name: Entry(f"{prefix}/files/{entry['sha256']}", int(entry["size"]))
        for name, entry in _read_manifest(storage, prefix)["files"].items()
    }


def read_note(storage: Storage, prefix: str) -> dict[str, Any]:
    """What was noted with the complete folder below ``prefix``; raises MissingObjectError if there is none."""
    return _read_manifest(storage, prefix)["note"]


def _read_manifest(storage: Storage, prefix: str) -> dict[str, Any]:
    content = storage.read(f"{prefix}/{MANIFEST}")
    try:
        manifest = json.loads(content)
        for entry in manifest["files"].values():
            _ = entry["sha256"], int(entry["size"])
        return {"files": manifest["files"], "note": dict(manifest["note"])}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StorageError(
            f"{storage.uri}/{prefix}/{MANIFEST} is damaged. Remove {storage.uri}/{prefix}; it is written again."
        ) from error


def _inside(name: str, storage: Storage, prefix: str) -> PurePosixPath:
    """The relative path ``name``, unless it would lead out of the folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise StorageError(f"{storage.uri}/{prefix}/{MANIFEST} is damaged: '{name}' leads out of the folder.")
    return path
