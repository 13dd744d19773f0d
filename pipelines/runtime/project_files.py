"""Check params.yaml, dvc.yaml, dvc.lock, DVC's configuration and the .dvc files of raw data for damage before a run.

Otherwise a damaged file would be found late, perhaps after hours of training, or with an unclear error of DVC's loader.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from gan_core.errors import StageError
from pipelines.runtime.checkout import OPTIONAL_OUTS, OUTS, Checkout
from pipelines.settings.params import find_merge_conflict, read_params

NON_REPLAYABLE_STAGE = "register"
"""The stage whose out must have ``persist: true``. Without it, DVC would restore an earlier result and register nothing."""
_DEEPEST = 100
_SUSPICIOUS = 1000


def check_project_files(checkout: Checkout) -> None:
    """Check the project files of ``checkout``. A missing file is not an error.

    Raises:
        SettingsError: params.yaml cannot be read.
        StageError: dvc.yaml, dvc.lock, a configuration file of DVC or a .dvc file of ``data/raw`` is damaged, or params.yaml
            lacks a setting that a stage depends on. The message has file, line and remedy.
    """
    params = read_params(checkout.params) if checkout.params.is_file() else None
    if (path := checkout.dvc_yaml).is_file():
        restore = "Correct it, or restore it with git checkout dvc.yaml"
        file = _read(path, "COMPILED_MULTI_STAGE_SCHEMA", restore)
        _check_outs(file)
        if params is not None:
            _check_params(file, params, checkout.params)
    if (path := checkout.dvc_lock).is_file():
        restore = "DVC writes this file: restore it with git checkout dvc.lock, or remove it to run all stages again"
        _read(path, "COMPILED_LOCKFILE_SCHEMA", restore)
    _check_config(checkout.root)
    for path in sorted(checkout.raw.glob("*.dvc")):
        if path.is_file():
            place = path.relative_to(checkout.root)
            restore = (
                f"DVC writes this file: restore it with git checkout {place}, or remove it and track the data again: dvc add "
                f"{place.with_suffix('')}"
            )
            _check_source(_read(path, "COMPILED_SINGLE_STAGE_SCHEMA", restore))


def _check_config(root: Path) -> None:
    """Raise StageError if a configuration file of DVC cannot be read, or DVC cannot use the path of its cache.

    DVC's own error names neither.
    """
    # Imported here: DVC takes a second to import.
    from configobj import ConfigObjError
    from dvc.config import Config, ConfigError
    from voluptuous import Invalid

    folder = root / ".dvc"
    if not folder.is_dir():
        return
    own = folder / Config.CONFIG
    places = [Path(Config.get_dir(level), Config.CONFIG) for level in Config.SYSTEM_LEVELS]
    files = [file for file in (*places, own, folder / Config.CONFIG_LOCAL) if file.is_file()]
    try:
        for file in files:
            blamed = [file]
            Config.load_file(str(file))
        blamed = files  # each can be read, but together they may be invalid
        cache = Config(str(folder))["cache"].get("dir") or folder / "cache"
    except (ConfigError, ConfigObjError, Invalid) as error:
        what = str(error).removeprefix("config file error: ").splitlines()[0].rstrip(".")
        restore = ", or restore .dvc/config with git checkout .dvc/config" if own in blamed else ""
        raise StageError(
            f"{' or '.join(map(str, blamed))}: DVC cannot read this configuration: {what}. Correct it{restore}."
        ) from error
    # DVC takes a brace for the place of a value in its text, and ends with "'name'".
    if set("{}") & set(str(cache)):
        raise StageError(
            f"The path of DVC's cache, {cache}, has a brace, with which DVC cannot store anything. Rename the folder, or use a "
            "cache elsewhere: dvc cache dir --local FOLDER."
        )


def missing_stages(checkout: Checkout) -> tuple[str, ...]:
    """Gantry's stages that dvc.yaml lacks. Empty if dvc.yaml has none of them, because it then describes another pipeline.

    Raises:
        StageError: dvc.yaml is damaged.
    """
    file = _read(checkout.dvc_yaml, "COMPILED_MULTI_STAGE_SCHEMA", "Correct it")
    stages = file.values.get("stages", {})
    own = [name for name in OUTS if name in stages and stages[name].get("cmd") == f"gantry stage {name}"]
    return tuple(name for name in OUTS if name not in stages) if own else ()


@dataclass(frozen=True)
class _File:
    """A parsed file of DVC."""

    path: Path
    text: str
    values: dict[str, Any]
    remedy: str

    @cached_property
    def nodes(self) -> yaml.Node | None:
        """The same as YAML nodes, which know their lines. Made for errors only, because it takes longer than parsing."""
        with suppress(yaml.YAMLError):
            return yaml.compose(self.text, Loader=yaml.SafeLoader)
        return None

    def fault(self, where: Sequence[Any], what: str) -> StageError:
        """The error ``what`` at ``where``, a path of names and indices into the values."""
        line = _line(self.nodes, where)
        return StageError(f"{self.path}{f', line {line}' if line else ''}: {what}. {self.remedy}.")


def _read(path: Path, schema: str, remedy: str) -> _File:
    """Read a file with DVC's parser and check it against the schema of that name in ``dvc.schema``."""
    # Imported here: DVC takes a second to import.
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
        raise StageError(f"{place}: not valid YAML, or truncated ({problem.rstrip('.')}). {remedy}.") from error
    file = _File(path, text, values, remedy)
    if not values and file.nodes is None:
        raise StageError(f"{path} is empty. {remedy}.")
    if not isinstance(values, dict) or (not values and not isinstance(file.nodes, yaml.MappingNode)):
        # DVC's parser turns an empty list into an empty mapping.
        kind = "a list" if isinstance(file.nodes, yaml.SequenceNode) else "one value"
        raise file.fault((), f"it must be a mapping of names to values, but is {kind}")
    try:
        strictyaml.validate(values, getattr(schemas, schema), path=str(path))
    except strictyaml.YAMLValidationError as error:
        faults = getattr(error.exc, "errors", [error.exc])
        # Each alternative of the schema fails for its own reason; the deepest error is the most specific.
        deepest = max(faults, key=lambda fault: len(fault.path))
        where = [part if isinstance(part, str | int) else str(part) for part in deepest.path]
        name = ".".join(map(str, where)) or "the whole file"
        raise file.fault(where, f"{name}: {deepest.msg}") from error
    return file


def _check_outs(file: _File) -> None:
    """Raise StageError if one of Gantry's stages does not list exactly the outs that its code makes."""
    for name, stage in file.values.get("stages", {}).items():
        command, full = stage.get("cmd"), f"gantry stage {name}"
        if name not in OUTS or not isinstance(command, str) or not full.startswith(command):
            continue
        where = ("stages", name)
        if command != full:
            raise file.fault((*where, "cmd"), f"the command of stage '{name}' is truncated: {command}")
        listed = [*_listed(stage)]
        for out in OUTS[name]:
            if out not in OPTIONAL_OUTS and not any(out == known or out.startswith(f"{known}/") for known in listed):
                raise file.fault(where, f"stage '{name}' does not list the out {out}, which its code makes")
        for known in listed:
            if not any(out == known or out.startswith(f"{known}/") for out in OUTS[name]):
                raise file.fault(where, f"stage '{name}' lists the out {known}, which its code does not make")
        if name == NON_REPLAYABLE_STAGE and not all(
            isinstance(out, dict) and next(iter(out.values())).get("persist") for out in stage.get("outs") or ()
        ):
            raise file.fault((*where, "outs"), f"the out of stage '{name}' must have persist: true")


def _listed(stage: Mapping[str, Any]) -> Iterator[str]:
    for kind in ("outs", "metrics", "plots"):
        for entry in stage.get(kind) or ():
            yield from (entry,) if isinstance(entry, str) else entry


def _check_params(file: _File, params: Mapping[str, Any], path: Path) -> None:
    """Raise StageError if a stage of Gantry depends on a setting that params.yaml lacks, as one of an earlier version may."""
    for name, stage in file.values.get("stages", {}).items():
        if name not in OUTS or stage.get("cmd") != f"gantry stage {name}":
            continue
        for number, setting in enumerate(stage.get("params") or ()):
            value: Any = params
            for part in setting.split(".") if isinstance(setting, str) else ():
                if not isinstance(value, Mapping) or part not in value:
                    what = f"stage '{name}' depends on the setting {setting}, which {path} lacks"
                    raise replace(file, remedy=f"Add it there; gantry settings {setting} shows its default").fault(
                        ("stages", name, "params", number), what
                    )
                value = value[part]


def _check_source(file: _File) -> None:
    """Raise StageError if the .dvc file of raw data names no data or only the start of the name."""
    outs, name = file.values.get("outs"), file.path.stem
    if not outs:
        raise file.fault(("outs",), "it names no data")
    for number, out in enumerate(outs):
        if not (place := out.get("path")):
            raise file.fault(("outs", number), "the file is truncated: it names no path")
        if place != name and name.startswith(place):
            raise file.fault(
                ("outs", number, "path"), f"the file is truncated: it names the data {place!r} instead of {name!r}"
            )


def _line(node: yaml.Node | None, where: Sequence[Any]) -> int:
    """The line of the value at ``where``, or of its nearest parent that exists; 0 if unknown."""
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
    """Raise StageError if lists or mappings are nested too deeply for DVC's parser, which is recursive and would crash."""
    if max(map(text.count, ("[", "{", "- - "))) < _SUSPICIOUS:
        return
    depth = 0
    with suppress(yaml.YAMLError):  # not YAML: reported later
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST:
                line = event.start_mark.line + 1 if event.start_mark else "?"
                raise StageError(f"{path}, line {line}: lists or mappings are nested too deeply. {remedy}.")
