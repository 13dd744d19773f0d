"""The DVC project that a checkout is."""

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
    """DVC's own view of ``checkout``, for the length of the block.

    Raises:
        StageError: it is no DVC project, or DVC raises in the block: a file of its own is damaged, say.
        SettingsError: its params.yaml cannot be read, which DVC would report as a fault of dvc.yaml.
    """
    # DVC takes a second to import, and a stage's own process comes here before it knows that it needs it.
    from dvc.exceptions import DvcException, NotDvcRepoError
    from dvc.repo import Repo

    check_project_files(checkout)
    try:
        with Repo(str(checkout.root)) as repo:
            yield repo
    except NotDvcRepoError as error:
        raise StageError(
            f"{checkout.root} is not a DVC project ({error}). Run gantry in the root of a Gantry checkout."
        ) from error
    except DvcException as error:
        raise StageError(f"{checkout.root}: {explain_dvc_error(error)}") from error


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
