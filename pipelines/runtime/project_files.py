"""The files that say what a checkout is: params.yaml, dvc.yaml, dvc.lock and the .dvc files of raw data, checked at once.

A damaged one would otherwise be met late, after hours of training say, or in the words of DVC's own loader.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from gan_core.errors import StageError
from pipelines.runtime.checkout import OUTS, Checkout
from pipelines.settings.params import find_merge_conflict, read_params

ACTS_ELSEWHERE = "register"
"""The stage whose out must persist: DVC would else put an earlier result in place and register nothing."""
_DEEPEST = 100
_SUSPICIOUS = 1000


def check_project_files(checkout: Checkout) -> None:
    """Check those files of ``checkout`` that exist, before anything is run that reads them.

    Raises:
        SettingsError: params.yaml cannot be read.
        StageError: dvc.yaml, dvc.lock or a .dvc file of ``data/raw`` is damaged; names the file, the line and the remedy.
    """
    if checkout.params.is_file():
        read_params(checkout.params)
    if (path := checkout.dvc_yaml).is_file():
        restore = "Correct it, or restore it with git checkout dvc.yaml"
        _check_outs(_read(path, "COMPILED_MULTI_STAGE_SCHEMA", restore))
    if (path := checkout.dvc_lock).is_file():
        restore = "DVC writes this file: restore it with git checkout dvc.lock, or remove it to run all stages again"
        _read(path, "COMPILED_LOCKFILE_SCHEMA", restore)
    for path in sorted(checkout.raw.glob("*.dvc")):
        if path.is_file():
            place = path.relative_to(checkout.root)
            restore = (
                f"DVC writes this file: restore it with git checkout {place}, or remove it and track the data again: dvc add "
                f"{place.with_suffix('')}"
            )
            _check_source(_read(path, "COMPILED_SINGLE_STAGE_SCHEMA", restore))


def missing_stages(checkout: Checkout) -> tuple[str, ...]:
    """Gantry's own stages that dvc.yaml does not have; none where it has not one of them (a project of its own).

    Raises:
        StageError: dvc.yaml is damaged.
    """
    file = _read(checkout.dvc_yaml, "COMPILED_MULTI_STAGE_SCHEMA", "Correct it")
    stages = file.values.get("stages", {})
    own = [name for name in OUTS if name in stages and stages[name].get("cmd") == f"gantry stage {name}"]
    return tuple(name for name in OUTS if name not in stages) if own else ()


@dataclass(frozen=True)
class _File:
    """A file of DVC's as it was read."""

    path: Path
    values: dict[str, Any]
    nodes: yaml.Node | None
    """The same with its lines."""
    remedy: str

    def fault(self, where: Sequence[Any], what: str) -> StageError:
        """The error of a file that holds the wrong thing at ``where``, a path of names and numbers into its values."""
        line = _line(self.nodes, where)
        return StageError(f"{self.path}{f', line {line}' if line else ''}: {what}. {self.remedy}.")


def _read(path: Path, schema: str, remedy: str) -> _File:
    """Read a file by DVC's own parser and its schema of that name."""
    # DVC takes a second to import.
    from dvc import schema as schemas
    from dvc.utils import strictyaml
    from dvc.utils.serialize import ParseError, parse_yaml

    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise StageError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}). {remedy}.") from None
    if found := find_merge_conflict(text):
        raise StageError(f"{path}: {found} {remedy}.")
    _check_depth(path, text, remedy)
    try:
        values = parse_yaml(text, str(path))
    except ParseError as error:
        told = error.__cause__ or error
        mark = getattr(told, "problem_mark", None) or getattr(told, "context_mark", None)
        problem = " ".join((getattr(told, "problem", None) or str(told)).split())
        place = f"{path}, line {mark.line + 1}" if mark else f"{path}"
        raise StageError(f"{place}: not YAML, or cut short ({problem.rstrip('.')}). {remedy}.") from error
    nodes = None
    with suppress(yaml.YAMLError):  # it is for the lines alone
        nodes = yaml.compose(text, Loader=yaml.SafeLoader)
    file = _File(path, values, nodes, remedy)
    if not values and nodes is None:
        raise StageError(f"{path} is empty. {remedy}.")
    if not isinstance(values, dict) or (not values and not isinstance(nodes, yaml.MappingNode)):
        # An empty list is an empty mapping for DVC's parser.
        kind = "a list" if isinstance(nodes, yaml.SequenceNode) else "one value"
        raise file.fault((), f"it must hold names with their values, and holds {kind}")
    try:
        strictyaml.validate(values, getattr(schemas, schema), path=str(path))
    except strictyaml.YAMLValidationError as error:
        faults = getattr(error.exc, "errors", [error.exc])
        # The deepest says most: of alternatives, each has failed for a reason of its own.
        deepest = max(faults, key=lambda fault: len(fault.path))
        where = [part if isinstance(part, str | int) else str(part) for part in deepest.path]
        name = ".".join(map(str, where)) or "the whole file"
        raise file.fault(where, f"{name}: {deepest.msg}") from error
    return file


def _check_outs(file: _File) -> None:
    """Raise StageError where a stage of Gantry's own does not list exactly what its code makes."""
    for name, stage in file.values.get("stages", {}).items():
        command, full = stage.get("cmd"), f"gantry stage {name}"
        if name not in OUTS or not isinstance(command, str) or not full.startswith(command):
            continue
        where = ("stages", name)
        if command != full:
            raise file.fault((*where, "cmd"), f"the command of stage '{name}' is cut short: {command}")
        listed = [*_listed(stage)]
        for out in OUTS[name]:
            if not any(out == known or out.startswith(f"{known}/") for known in listed):
                raise file.fault(where, f"stage '{name}' does not list {out} among its outs, which its code makes")
        for known in listed:
            if not any(out == known or out.startswith(f"{known}/") for out in OUTS[name]):
                raise file.fault(where, f"stage '{name}' lists the out {known}, which its code does not make")
        if name == ACTS_ELSEWHERE and not all(
            isinstance(out, dict) and next(iter(out.values())).get("persist") for out in stage.get("outs") or ()
        ):
            raise file.fault((*where, "outs"), f"the out of stage '{name}' must have persist: true")


def _listed(stage: Mapping[str, Any]) -> Iterator[str]:
    for kind in ("outs", "metrics", "plots"):
        for entry in stage.get(kind) or ():
            yield from (entry,) if isinstance(entry, str) else entry


def _check_source(file: _File) -> None:
    """Raise StageError where the .dvc file of raw data names no data, or half of its name."""
    outs, name = file.values.get("outs"), file.path.stem
    if not outs:
        raise file.fault(("outs",), "it names no data")
    for number, out in enumerate(outs):
        if not (place := out.get("path")):
            raise file.fault(("outs", number), "it is cut short: it names no path")
        if place != name and name.startswith(place):
            raise file.fault(
                ("outs", number, "path"), f"it is cut short: it names the data {place!r} in place of {name!r}"
            )


def _line(node: yaml.Node | None, where: Sequence[Any]) -> int:
    """The line of what is at ``where``, or of the nearest that is there above it; 0 for an unknown one."""
    if node is None:
        return 0
    line = node.start_mark.line + 1
    for part in where:
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == str(part)), None)
            if found is None:
                break
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line


def _check_depth(path: Path, text: str, remedy: str) -> None:
    """Raise StageError where lists or mappings are nested so deeply that DVC's parser, which is recursive, would crash."""
    if max(map(text.count, ("[", "{", "- - "))) < _SUSPICIOUS:
        return
    depth = 0
    with suppress(yaml.YAMLError):  # it is not YAML at all
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST:
                line = event.start_mark.line + 1 if event.start_mark else "?"
                raise StageError(f"{path}, line {line}: lists or mappings are nested too deeply. {remedy}.")
