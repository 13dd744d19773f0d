"""The run that training starts from: found once, recorded until the stage has finished, and part of the stage key.

An alias such as NAME@champion may move while a run is interrupted. The record lets the run go on from where it began.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gan_core.errors import StageError
from gan_core.files import read_json, write_json
from pipelines.registry.parent import Parent, fetch_parent, find_parent, parent_from
from pipelines.runtime.checkout import Checkout
from pipelines.runtime.key import StageDefinition
from pipelines.runtime.progress import say
from pipelines.runtime.work_directory import FINISHED
from pipelines.settings.schema import Settings, load_settings
from pipelines.stages.context import StageContext
from pipelines.storage.objects import MissingObjectError, Storage
from pipelines.storage.work import is_finished, work_name

PARENT_FOLDER = "parent"
"""Folder in the work directory with the files of the run that training starts from."""


def parent_inputs(definition: StageDefinition, checkout: Checkout) -> Mapping[str, str]:
    """The digest of the run that the stage starts from, for its stage key.

    If an interrupted run of the stage, with equal inputs otherwise, has recorded what it started from, that counts. Otherwise
    ``train.start_from`` is looked up and recorded, here and in the storage, if there is one.

    Raises:
        GantryError: there is no such run, or nothing can start from it.
    """
    settings = load_settings(checkout.params)
    start_from = settings.train.start_from
    if start_from is None or (definition.name == "tune" and not settings.tune.searches):
        return {}
    path = checkout.parent_record(definition.name, definition.key)
    uri = settings.storage.resolve_uri()
    storage = Storage(uri) if uri else None
    record = _read(path)
    if record is None or not _is_unfinished(record, definition, checkout, storage):
        record = _read_storage(storage, definition)
        if record is not None and not _is_unfinished(record, definition, checkout, storage):
            record = None
    if record is None:
        parent = find_parent(start_from, checkout, settings.track.uri)
        record = asdict(parent)
        say(definition.name, f"starting from {parent.name}, which has seen {parent.images_seen:,} images")
    else:
        parent = parent_from(record, path)
        say(definition.name, f"going on with a run that started from {parent.name}")
    write_json(path, record)
    if storage:
        storage.write(_storage_name(definition), json.dumps({**record, "folder": ""}, sort_keys=True).encode())
    return _as_inputs(parent)


def pin_parent(definition: StageDefinition, checkout: Checkout, parent: Parent) -> None:
    """Make the next run of the stage start from ``parent``, whatever ``train.start_from`` means by then.

    It finds what an interrupted run of the stage would have left, and goes on with it.
    """
    key = definition.with_inputs(_as_inputs(parent)).key
    checkout.work(definition.name, key).mkdir(parents=True, exist_ok=True)
    write_json(checkout.parent_record(definition.name, definition.key), asdict(parent))


def recorded_inputs(definition: StageDefinition, checkout: Checkout) -> Mapping[str, str]:
    """The inputs that :func:`parent_inputs` recorded on this host, for a plan; empty if there are none."""
    path = checkout.parent_record(definition.name, definition.key)
    record = _read(path)
    return _as_inputs(parent_from(record, path)) if record else {}


def fetched_parent(context: StageContext, settings: Settings) -> tuple[Parent, Path] | None:
    """The run that this stage starts from, and the folder with its files; None if it starts from random weights.

    The files are fetched unless they are here or in the storage, to which an earlier attempt has sent them.

    Raises:
        CheckpointError: the files are nowhere, or damaged.
    """
    if settings.train.start_from is None:
        return None
    base = context.definition.with_inputs({})
    path = context.checkout.parent_record(context.name, base.key)
    record = _read(path)
    if record is None:
        raise StageError(f"{path} is gone while the stage runs. Run the stage again.")
    parent, folder = parent_from(record, path), context.work / PARENT_FOLDER
    if not folder.is_dir() and not _is_published(context, settings):
        fetch_parent(parent, context.checkout, folder)
    return parent, folder


def _as_inputs(parent: Parent) -> dict[str, str]:
    return {"train.start_from": parent.digest}


def _is_unfinished(
    record: Mapping[str, Any], definition: StageDefinition, checkout: Checkout, storage: Storage | None
) -> bool:
    """Whether a run of the stage from the recorded parent has begun and not finished."""
    key = definition.with_inputs({"train.start_from": str(record.get("digest"))}).key
    work = checkout.work(definition.name, key)
    if work.is_dir():
        return not (work / FINISHED).is_file()
    if storage is None:
        return False
    name = work_name(definition.name, key)
    return any(True for _ in storage.entries(name)) and not is_finished(storage, name)


def _is_published(context: StageContext, settings: Settings) -> bool:
    from pipelines.training.places import start_name

    uri = settings.storage.resolve_uri()
    if not uri:
        return False
    name = start_name(work_name(context.name, context.key))
    return any(entry.name.endswith("/manifest.json") for entry in Storage(uri).entries(name))


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return read_json(path)
    except FileNotFoundError:
        return None


def _storage_name(definition: StageDefinition) -> str:
    """Among the work of stages, so that ``gantry storage`` lists it and can remove it."""
    return f"{work_name(definition.name, definition.key)}/parent.json"


def _read_storage(storage: Storage | None, definition: StageDefinition) -> dict[str, Any] | None:
    if storage is None:
        return None
    try:
        return json.loads(storage.read(_storage_name(definition)))
    except MissingObjectError:
        return None
