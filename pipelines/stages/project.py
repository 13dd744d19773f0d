"""The DVC project that a checkout is."""

from pathlib import Path
from typing import TYPE_CHECKING

from gan_core.errors import StageError

if TYPE_CHECKING:
    from dvc.repo import Repo


def open_project(root: Path) -> "Repo":
    """DVC's own view of the checkout ``root``, to be used as a context; raises StageError when it is no DVC project."""
    # DVC takes a second to import, and a stage's own process comes here before it knows that it needs it.
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        return Repo(str(root))
    except DvcException as error:
        raise StageError(
            f"{root} is not a DVC project ({error}). Run gantry in the root of a Gantry checkout."
        ) from error
