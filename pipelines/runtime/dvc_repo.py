"""Open a checkout as a DVC project."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from gan_core.errors import StageError
from pipelines.runtime.checkout import Checkout
from pipelines.runtime.project_files import check_project_files

if TYPE_CHECKING:
    from dvc.repo import Repo


@contextmanager
def open_project(checkout: Checkout) -> Iterator["Repo"]:
    """Open ``checkout`` with DVC's Python API for the length of the block.

    Raises:
        StageError: it is not a DVC project, or DVC raises in the block, for example because one of its files is damaged.
        SettingsError: its params.yaml cannot be read. (DVC would report that as an error of dvc.yaml.)
    """
    # Imported here: DVC takes a second to import.
    from dvc.exceptions import DvcException, NotDvcRepoError
    from dvc.repo import Repo

    check_project_files(checkout)
    try:
        with Repo(str(checkout.root)) as repo:
            yield repo
    except NotDvcRepoError as error:
        raise StageError(
            f"{checkout.root} is not a DVC project ({error}). Run gantry in the root folder of a Gantry project."
        ) from error
    except DvcException as error:
        raise StageError(f"{checkout.root}: {explain_dvc_error(error)}") from error


def explain_dvc_error(error: BaseException) -> str:
    """A DVC error in one line, with its causes and a remedy.

    Often only the cause says where in a file the error is, and DVC names no remedy.
    """
    told = [str(error)]
    while (cause := error.__cause__ or error.__context__) is not None and cause is not error:
        text = " ".join(str(cause).split())
        if text and all(text not in line for line in told):
            told.append(text)
        error = cause
    remedy = ""
    if "dvc.lock" in told[0]:
        remedy = " DVC writes dvc.lock: restore it with git checkout dvc.lock, or remove it to run all stages again."
    elif "dvc.yaml" in told[0] and len(told) > 1:
        remedy = " Correct dvc.yaml, or restore it with git checkout dvc.yaml."
    return f"{': '.join(line.removesuffix('.') for line in told)}.{remedy}"
