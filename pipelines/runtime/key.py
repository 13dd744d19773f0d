"""Stage keys: one digest of everything that determines a stage's result, read through DVC's own API."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gan_core.errors import StageError, nearest
from gan_core.files import sha256_json
from pipelines.runtime.checkout import RAW, Checkout
from pipelines.runtime.dvc_repo import explain_dvc_error, open_project


@dataclass(frozen=True, kw_only=True)
class StageDefinition:
    """What DVC knows of a stage, as the files are now."""

    name: str
    command: tuple[str, ...]
    dependencies: dict[str, str]
    """Hash by path. The stage's code is among them, which is how a change of code makes another key."""
    parameters: dict[str, dict[str, Any]]
    """Values by dotted name, by parameters file."""
    outs: tuple[str, ...]
    """Paths relative to the checkout."""
    replayable: bool
    """Whether a run may be replaced by its results: not where an out persists, the mark of a stage that acts elsewhere."""

    @property
    def key(self) -> str:
        """24 hex digits; equal in any checkout, on any machine, when everything that determines the result is equal."""
        determines = {
            "command": list(self.command),
            "dependencies": self.dependencies,
            "parameters": self.parameters,
            "outs": list(self.outs),
        }
        return sha256_json(determines)[:24]


def read_stage(name: str, checkout: Checkout) -> StageDefinition:
    """Read stage ``name`` of the DVC project at ``checkout`` and hash its dependencies as they are on disk.

    Takes none of DVC's locks, so that it works inside the stage's own command while ``dvc repro`` runs it.

    Raises:
        StageError: no DVC project, no such stage, or a dependency or parameter that is missing.
    """
    # DVC takes a second to import, and a stage's own process imports this module before it knows that it is needed.
    from dvc.dependency import ParamsDependency
    from dvc.exceptions import DvcException
    from dvc.stage.exceptions import StageFileDoesNotExistError, StageNotFound

    root = checkout.root
    with open_project(checkout) as repo:
        try:
            stage = repo.stage.load_one(path=str(checkout.dvc_yaml), name=name)
        except StageFileDoesNotExistError:
            raise StageError(f"There is no dvc.yaml in {root}. Run gantry in the root of a Gantry checkout.") from None
        except StageNotFound:
            names = [known.name for known in repo.index.stages if getattr(known, "name", None)]
            raise StageError(f"There is no stage '{name}' in {checkout.dvc_yaml}.{nearest(name, names)}") from None
        except DvcException as error:
            raise StageError(f"{checkout.dvc_yaml}: {explain_dvc_error(error)}") from error
        dependencies: dict[str, str] = {}
        parameters: dict[str, dict[str, Any]] = {}
        for dep in stage.deps:
            place = Path(dep.fs_path).relative_to(root).as_posix() if dep.is_in_repo else str(dep)
            if not dep.exists:
                remedy = "Run the stages before it."
                if place.startswith(f"{RAW}/"):
                    remedy = (
                        "Bring it there (gantry data add or gantry data fetch), or change data.name in params.yaml."
                    )
                raise StageError(f"Stage '{name}' needs {place}, which does not exist. {remedy}")
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
            outs=tuple(Path(out.fs_path).relative_to(root).as_posix() for out in stage.outs),
            replayable=not any(out.persist for out in stage.outs),
        )
