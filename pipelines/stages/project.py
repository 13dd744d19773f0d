"""The DVC project that a checkout is."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from gan_core.errors import StageError
from pipelines.params import read_params

if TYPE_CHECKING:
    from dvc.repo import Repo

_DEEPEST = 100
_SUSPICIOUS = 1000


@contextmanager
def open_project(root: Path) -> Iterator["Repo"]:
    """DVC's own view of the checkout ``root``, for the length of the block.

    Raises:
        StageError: it is no DVC project, or DVC raises in the block: a file of its own is damaged, say.
        SettingsError: its params.yaml cannot be read, which DVC would report as a fault of dvc.yaml.
    """
    # DVC takes a second to import, and a stage's own process comes here before it knows that it needs it.
    from dvc.exceptions import DvcException, NotDvcRepoError
    from dvc.repo import Repo

    if (params := root / "params.yaml").is_file():
        read_params(params)
    for name in ("dvc.yaml", "dvc.lock"):
        _check_depth(root / name)
    try:
        with Repo(str(root)) as repo:
            yield repo
    except NotDvcRepoError as error:
        raise StageError(
            f"{root} is not a DVC project ({error}). Run gantry in the root of a Gantry checkout."
        ) from error
    except DvcException as error:
        raise StageError(f"{root}: {explain_dvc_error(error)}") from error


def _check_depth(path: Path) -> None:
    """Raise StageError where lists or mappings are nested so deeply that DVC's parser, which is recursive, would crash."""
    with suppress(OSError, UnicodeDecodeError, yaml.YAMLError):  # DVC says what is wrong
        text = path.read_text(encoding="utf-8")
        if max(map(text.count, ("[", "{", "- - "))) < _SUSPICIOUS:
            return
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST:
                line = event.start_mark.line + 1 if event.start_mark else "?"
                raise StageError(
                    f"{path}, line {line}: lists or mappings are nested too deeply. Restore it with git checkout {path.name}."
                )


def explain_dvc_error(error: BaseException) -> str:
    """A DVC error in a line: DVC often says in its cause alone where in a file the fault is, and names no remedy."""
    told = [str(error)]
    while (cause := error.__cause__ or error.__context__) is not None and cause is not error:
        text = " ".join(str(cause).split())
        if text and all(text not in line for line in told):
            told.append(text)
        error = cause
    remedy = ""
    if "dvc.lock" in told[0]:
        remedy = (
            " dvc.lock is a file that DVC writes: restore it with git checkout dvc.lock, or remove it to run all again."
        )
    elif "dvc.yaml" in told[0] and len(told) > 1:
        remedy = " Correct dvc.yaml, or restore it with git checkout dvc.yaml."
    return f"{': '.join(line.removesuffix('.') for line in told)}.{remedy}"
