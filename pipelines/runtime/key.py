"""Stage keys: a digest of everything that determines a stage's result, read through DVC's API."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from gan_core.errors import StageError, did_you_mean
from gan_core.files import sha256_json
from pipelines.runtime.checkout import DVC_YAML, RAW, Checkout
from pipelines.runtime.dvc_repo import explain_dvc_error, open_project

if TYPE_CHECKING:
    from dvc.repo import Repo

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class StageDefinition:
    """A stage of dvc.yaml, with the hashes of its dependencies as they are on disk now."""

    name: str
    command: tuple[str, ...]
    dependencies: dict[str, str]
    """Hash by path. They include the stage's code, so a change of the code changes the key."""
    parameters: dict[str, dict[str, Any]]
    """For each parameters file, the values by dotted name."""
    outs: tuple[str, ...]
    """Paths relative to the checkout."""
    replayable: bool
    """Whether earlier results may replace a run. False if an out has ``persist``: the stage then has effects elsewhere."""

    inputs: Mapping[str, str] = field(default_factory=dict)
    """Digest of each input that DVC does not know, by name; for train, of the run that it starts from."""

    def with_inputs(self, inputs: Mapping[str, str]) -> "StageDefinition":
        """A copy that also depends on ``inputs``."""
        return replace(self, inputs=dict(inputs))

    def differences(self, other: "StageDefinition") -> list[str]:
        """Names of what differs from ``other``, another reading of this stage: settings, dependencies, or dvc.yaml itself."""
        found = [
            f"{name} in {file}"
            for file in sorted({*self.parameters, *other.parameters})
            for name in _differing(self.parameters.get(file, {}), other.parameters.get(file, {}))
        ]
        found += _differing(self.dependencies, other.dependencies)
        same = (self.command, self.outs) == (other.command, other.outs)
        return found if same else [*found, f"the stage in {DVC_YAML}"]

    @property
    def key(self) -> str:
        """24 hex digits. Equal on every machine and in every checkout if everything that determines the result is equal."""
        determines = {
            "command": list(self.command),
            "dependencies": self.dependencies,
            "parameters": self.parameters,
            "outs": list(self.outs),
            **({"inputs": dict(self.inputs)} if self.inputs else {}),
        }
        return sha256_json(determines)[:24]


def _differing(one: Mapping[str, Any], other: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of the values that differ between two nested mappings, sorted."""
    names: list[str] = []
    for name in sorted({*one, *other}):
        here, there = one.get(name), other.get(name)
        if isinstance(here, Mapping) and isinstance(there, Mapping):
            names += _differing(here, there, f"{prefix}{name}.")
        elif (name in one, here) != (name in other, there):
            names.append(f"{prefix}{name}")
    return names


def read_stage(name: str, checkout: Checkout) -> StageDefinition:
    """Read stage ``name`` of the DVC project at ``checkout`` and hash its dependencies as they are on disk.

    Takes none of DVC's locks, so a stage's own command can call it while ``dvc repro`` runs the stage.

    Raises:
        StageError: there is no DVC project or no such stage, or a dependency or parameter is missing.
    """
    with open_project(checkout) as repo:
        return _read(repo, name, checkout)


def read_stages(names: Sequence[str], checkout: Checkout) -> dict[str, StageDefinition]:
    """Those of the stages ``names`` that :func:`read_stage` can read, by name. Why others cannot be read is logged.

    Raises:
        StageError: there is no DVC project.
    """
    found = {}
    with open_project(checkout) as repo:
        for name in names:
            try:
                found[name] = _read(repo, name, checkout)
            except StageError as error:
                LOG.info("Stage %s cannot be read: %s", name, error)
    return found


def describe_missing(stage: str, place: str) -> str:
    """An error about an input of ``stage`` that does not exist, with the remedy."""
    remedy = "Run the stage that makes it first."
    if place.startswith(f"{RAW}/"):
        remedy = "Add it (gantry data add or gantry data fetch), or change data.name in params.yaml."
    return f"Stage '{stage}' needs {place}, which does not exist. {remedy}"


def _read(repo: "Repo", name: str, checkout: Checkout) -> StageDefinition:
    # Imported here: DVC takes a second to import.
    from dvc.dependency import ParamsDependency
    from dvc.exceptions import DvcException
    from dvc.stage.exceptions import StageFileDoesNotExistError, StageNotFound

    root = checkout.root
    try:
        stage = repo.stage.load_one(path=str(checkout.dvc_yaml), name=name)
    except StageFileDoesNotExistError:
        raise StageError(
            f"There is no dvc.yaml in {root}. Run gantry in the root folder of a Gantry project."
        ) from None
    except StageNotFound:
        names = [known.name for known in repo.index.stages if getattr(known, "name", None)]
        raise StageError(f"There is no stage '{name}' in {checkout.dvc_yaml}.{did_you_mean(name, names)}") from None
    except DvcException as error:
        raise StageError(f"{checkout.dvc_yaml}: {explain_dvc_error(error)}") from error
    dependencies: dict[str, str] = {}
    parameters: dict[str, dict[str, Any]] = {}
    for dep in stage.deps:
        place = checkout.place(dep.fs_path) if dep.is_in_repo else str(dep)
        if not dep.exists:
            raise StageError(describe_missing(name, place))
        try:
            if isinstance(dep, ParamsDependency):
                parameters.setdefault(place, {}).update(dep.get_hash().value)
            else:
                dependencies[place] = dep.get_hash().value
        except DvcException as error:
            raise StageError(f"Stage '{name}' needs {place}: {explain_dvc_error(error)}") from error
    return StageDefinition(
        name=name,
        command=(stage.cmd,) if isinstance(stage.cmd, str) else tuple(stage.cmd),
        dependencies=dependencies,
        parameters=parameters,
        outs=tuple(checkout.place(out.fs_path) for out in stage.outs),
        replayable=not any(out.persist for out in stage.outs),
    )
