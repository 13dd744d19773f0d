"""Read and write ``prefect.yaml``: the deployments of a project, in Prefect's own format, versioned beside its code.

The file is the truth: ``gantry deploy`` applies what it says, and its options change only the fields that they name. Entries
that Gantry did not write, and comments, are kept.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from gan_core.errors import SettingsError, StageError
from gan_core.files import atomic_write
from gan_core.locks import file_lock
from pipelines.flow.web import private_folder
from pipelines.runtime.checkout import Checkout
from pipelines.runtime.dvc_yaml import edit_yaml, quote_ambiguous
from pipelines.runtime.environment import PREFECT_RETRIES

ENTRYPOINT = "pipelines.flow.deployed.pipeline"
CLONE, LOCAL = "pipelines.flow.pull.clone", "pipelines.flow.pull.local_checkout"
DATA_CHANGED = "gantry.data.changed"
"""The event that starts the deployments of a project."""
PROJECT = "gantry.project"
"""The label of that event's resource with the name of the project, which is ``name`` in prefect.yaml."""
HEARTBEAT_SECONDS = 30
"""Seconds between two signs of life of a run; the shortest that Prefect permits."""
_HEAD = "# Deployments of this project: edit them, then apply them with gantry deploy (or Prefect's own commands).\n"
_LISTS_OF_MAPPINGS = ("pull", "schedules", "triggers")
_NOT_IN_NAMES = "/%&<>"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the user asked for. None: as prefect.yaml says or, in a new entry, the default."""

    revision: str | None = None
    cron: str | None = None
    """Five fields, or "" for no schedule."""
    timezone: str | None = None
    pool: str | None = None
    limit: int | None = None
    collision: str | None = None
    """ENQUEUE or CANCEL_NEW: what happens to a run that is due while ``limit`` runs are in progress."""
    overrides: Mapping[str, Any] | None = None
    tags: tuple[str, ...] | None = None
    description: str | None = None
    pull: Mapping[str, Any] | None = None
    """The pull step."""


def prefect_yaml(checkout: Checkout) -> Path:
    """The file of ``checkout``."""
    return checkout.root / "prefect.yaml"


def read_deployments(checkout: Checkout) -> tuple[str, dict[str, dict[str, Any]]]:
    """The name of the project and its deployments by name; ``("", {})`` if there is no file.

    Raises:
        SettingsError: the file is not what Prefect reads: YAML with a list of named deployments.
    """
    path = prefect_yaml(checkout)
    if not path.is_file():
        return "", {}
    remedy = "Correct it, or restore it with git checkout prefect.yaml."
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not valid YAML ({' '.join(str(error).split())}). {remedy}") from None
    entries = values.get("deployments") or [] if isinstance(values, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) and entry.get("name") for entry in entries):
        raise SettingsError(f"{path}: deployments must be a list of mappings, each with a name. {remedy}")
    names = [entry["name"] for entry in entries]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise SettingsError(f"{path}: the deployment '{twice[0]}' appears twice. {remedy}")
    for entry in entries:
        if entry.get("entrypoint") == ENTRYPOINT and (wrong := _wrong_shape(entry)):
            raise SettingsError(f"{path}: {wrong}. {remedy}")
    return str(values.get("name") or checkout.root.name), dict(zip(names, entries, strict=True))


def _wrong_shape(entry: Mapping[str, Any]) -> str:
    """What in a deployment of Gantry has the wrong type; empty if nothing."""
    name = entry["name"]
    if not isinstance(name, str):
        return f"the name {name} of a deployment must be text. Put it in quotes"
    for field in ("parameters", "work_pool"):
        if not isinstance(entry.get(field) or {}, dict):
            return f"{field} of the deployment '{name}' must be a mapping"
    for field, kind, of in (("tags", str, "texts"), *((each, dict, "mappings") for each in _LISTS_OF_MAPPINGS)):
        listed = entry.get(field) or []
        if not isinstance(listed, list) or not all(isinstance(one, kind) for one in listed):
            return f"{field} of the deployment '{name}' must be a list of {of}"
    return ""


def check_name(option: str, name: str) -> None:
    """Raise SettingsError unless Prefect accepts ``name``, the value of ``option``, for a deployment or a work pool."""
    if found := sorted({*name} & {*_NOT_IN_NAMES}):
        raise SettingsError(f"{option} {name}: a name in Prefect must not contain {' '.join(found)}. Choose another.")


def own_deployments(checkout: Checkout) -> tuple[str, dict[str, dict[str, Any]]]:
    """As :func:`read_deployments`, without the deployments that run other flows."""
    project, entries = read_deployments(checkout)
    return project, {name: entry for name, entry in entries.items() if entry.get("entrypoint") == ENTRYPOINT}


def check_own(checkout: Checkout, name: str, entry: Mapping[str, Any]) -> None:
    """Raise StageError if ``entry`` runs another flow, so that Gantry must not change it."""
    if entry.get("entrypoint") != ENTRYPOINT:
        raise StageError(
            f"{prefect_yaml(checkout)} already has a deployment '{name}' of another flow ({entry.get('entrypoint')}), which "
            "Gantry does not overwrite. Choose another name: gantry deploy --name NAME."
        )


def new_entry(name: str, project: str, options: Options) -> dict[str, Any]:
    """A deployment with the defaults, to which :func:`changed_entry` applies ``options``."""
    return {
        "name": name,
        "description": f"Train the GAN of {project} and register it (Gantry).",
        "tags": ["gantry"],
        "entrypoint": ENTRYPOINT,
        "parameters": {"revision": options.revision or "HEAD", "stages": [], "overrides": {}},
        "pull": [dict(options.pull or {LOCAL: {}})],
        "work_pool": {
            "name": options.pool or "gantry",
            "job_variables": {
                "env": {
                    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS),
                    "PREFECT_LOGGING_EXTRA_LOGGERS": "pipelines",
                    **PREFECT_RETRIES,
                    # The environment of a worker is installed by its administrator, not by what a commit says.
                    "PREFECT_RUNNER_AUTO_INSTALL_DEPENDENCIES": "false",
                }
            },
        },
        "concurrency_limit": {"limit": 1, "collision_strategy": "ENQUEUE"},
        "schedules": [],
        "triggers": [
            {
                "type": "event",
                "enabled": True,
                "match": {"prefect.resource.id": "gantry.data.*", PROJECT: project},
                "expect": [DATA_CHANGED],
            }
        ],
    }


def concurrency(entry: Mapping[str, Any]) -> dict[str, Any]:
    """``limit`` and ``collision_strategy`` of a deployment. Prefect also permits the limit alone, or no limit: 1 here.

    Raises:
        SettingsError: it is neither a number nor a mapping.
    """
    given = entry.get("concurrency_limit") or {}
    if not isinstance(given, int | Mapping):
        raise SettingsError(
            f"prefect.yaml, deployment '{entry.get('name')}': concurrency_limit must be a number, or a mapping with limit and "
            f"collision_strategy, not {given!r}."
        )
    return {"limit": 1, "collision_strategy": "ENQUEUE", **({"limit": given} if isinstance(given, int) else given)}


def changed_entry(entry: Mapping[str, Any], options: Options) -> dict[str, Any]:
    """``entry`` with the fields that ``options`` names.

    Raises:
        SettingsError: a time zone is given, but there is no schedule, or several that were written by hand.
    """
    changed = dict(entry)
    if options.description is not None:
        changed["description"] = options.description
    if options.tags is not None:
        changed["tags"] = list(dict.fromkeys(["gantry", *options.tags]))
    parameters = dict(changed.get("parameters") or {})
    if options.revision is not None:
        parameters["revision"] = options.revision
    if options.overrides is not None:
        parameters["overrides"] = dict(options.overrides)
    changed["parameters"] = parameters
    if options.pool is not None:
        changed["work_pool"] = {**(changed.get("work_pool") or {}), "name": options.pool}
    if options.pull is not None:
        changed["pull"] = [dict(options.pull)]
    elif options.revision is not None:  # the clone shows the revision of the runs
        changed["pull"] = [
            {CLONE: {**step[CLONE], "revision": options.revision}} if CLONE in step else step
            for step in changed.get("pull") or []
        ]
    asked = {"limit": options.limit, "collision_strategy": options.collision}
    if asked := {name: value for name, value in asked.items() if value is not None}:
        changed["concurrency_limit"] = concurrency(changed) | asked
    changed["schedules"] = _schedules(changed.get("schedules") or [], options)
    return changed


def _schedules(schedules: list[dict[str, Any]], options: Options) -> list[dict[str, Any]]:
    if options.cron == "":
        return []
    if options.cron is None and options.timezone is None:
        return schedules
    if len(schedules) > 1:
        raise SettingsError(
            f"The deployment has {len(schedules)} schedules, so --cron and --timezone do not say which one to change. Edit "
            "prefect.yaml, or remove them with --no-schedule first."
        )
    old = schedules[0] if schedules else {}
    cron = options.cron or old.get("cron")
    if not cron:
        raise SettingsError("--timezone needs a schedule: give --cron too.")
    return [
        {"cron": cron, "timezone": options.timezone or old.get("timezone") or "UTC", "active": old.get("active", True)}
    ]


def write_entry(checkout: Checkout, project: str, name: str, entry: Mapping[str, Any] | None) -> bool:
    """Write the deployment ``name`` to prefect.yaml, or remove it if ``entry`` is None; returns whether the file changed.

    Other entries and comments are kept. A file that would hold nothing but the name of the project is removed.
    """
    path = prefect_yaml(checkout).resolve()
    private_folder(checkout.prefect)
    # Two commands for two deployments may write at once.
    with file_lock(checkout.prefect / "prefect-yaml.lock"):
        _, entries = read_deployments(checkout)
        if entries.get(name) == (None if entry is None else dict(entry)):
            return False
        with atomic_write(path) as temporary:
            if path.is_file():
                shutil.copy(path, temporary)
            else:
                temporary.write_text(f"{_HEAD}name: {yaml.safe_dump(project).splitlines()[0]}\n", encoding="utf-8")
            with edit_yaml(temporary) as values:
                _put(values, name, entry)
                empty = not values["deployments"] and set(values) <= {"name", "deployments"}
        if empty:
            path.unlink()
    return True


def _put(values: Any, name: str, entry: Mapping[str, Any] | None) -> None:
    """Set the deployment ``name`` among ``values``, those of the file, in place; remove it if ``entry`` is None."""
    if not values.get("deployments"):  # in a file of prefect init, it may be there and empty
        values["deployments"] = []
    listed = values["deployments"]
    place = next((number for number, old in enumerate(listed) if old["name"] == name), None)
    if entry is None:
        if place is not None:
            del listed[place]
    elif place is None:
        listed.append(quote_ambiguous(dict(entry)))
    else:
        for field in [field for field in listed[place] if field not in entry]:
            del listed[place][field]
        for field, value in entry.items():
            if listed[place].get(field) != value:
                listed[place][field] = quote_ambiguous(value)
