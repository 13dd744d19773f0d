"""Where the work in progress of a stage is kept, so that no run begins anew without a word."""

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from gan_core.errors import StageError
from gan_core.files import read_json, write_json
from pipelines.runtime.progress import say
from pipelines.runtime.versions import TORCH, version_tags
from pipelines.tracking.forward import begin_again

_KEPT = "kept.json"
"""Note in a work directory of where the work in progress is kept."""


def check_kept(stage: str, work: Path, uri: str, *, on_disk: str, brought: str) -> list[str]:
    """Check that this run goes on where an interrupted run of the stage keeps its work, if there is one.

    Says so if that one had another version of torch, whose rounding may differ.

    Args:
        stage: the stage.
        work: its work directory on this host.
        uri: of the storage in which this run keeps its work; empty for ``work`` itself.
        on_disk: name of what a run without a storage keeps in ``work``.
        brought: name of what a run with a storage brings there.

    Returns:
        The versions of torch with which the work was made so far, for :func:`note_kept`.

    Raises:
        StageError: it is kept elsewhere: this run would begin anew.
    """
    note, here = work / _KEPT, (work / on_disk).exists()
    if not here and not (work / brought).exists():
        return []
    # Earlier versions of Gantry have left no note. Where theirs was kept is not known if it was in a storage.
    noted = read_json(note) if note.is_file() else {"storage": "" if here else uri, "torch": []}
    known, versions = str(noted["storage"]), list(noted.get("torch", []))
    if known == uri:
        if versions and versions[-1] != _torch_version():
            say(
                stage,
                f"the interrupted run had torch {versions[-1]}, and this one goes on with torch {_torch_version()}: its result "
                "is not that of one of them alone",
            )
        return versions
    setting = (
        f"set storage.uri or GANTRY_STORAGE_URI to {known}" if known else "unset storage.uri and GANTRY_STORAGE_URI"
    )
    raise StageError(
        f"An interrupted run of stage '{stage}' keeps its work in {known or work}, and this one would begin anew in "
        f"{uri or work}. To go on with it, {setting}. To begin anew, remove {work}."
    )


def note_kept(work: Path, uri: str, versions: Sequence[str]) -> None:
    """Note where a run that begins keeps its work, and with which torch it goes on after ``versions``."""
    work.mkdir(parents=True, exist_ok=True)
    now = _torch_version()
    write_json(work / _KEPT, {"storage": uri, "torch": [*versions, *([now] if now not in versions[-1:] else [])]})


def torch_tags(work: Path) -> dict[str, str]:
    """A tag with all versions of torch with which the work in ``work`` was made; empty if it was one."""
    note = work / _KEPT
    versions = read_json(note).get("torch", []) if note.is_file() else []
    return {TORCH: ", then ".join(versions)} if len(versions) > 1 else {}


def _torch_version() -> str:
    return version_tags()[TORCH]


def forget_brought(work: Path, names: Iterable[str], events: Path | None) -> None:
    """Remove what an interrupted run has brought from a storage that has lost its work, so that this run can bring its own.

    ``gantry storage --prune`` removes work that nobody has used for a while. Says that training begins anew.

    Args:
        work: work directory of the driver.
        names: of the files and folders there that come from the storage.
        events: log folder of the run on the driver's host; None without tracking.
    """
    found = [work / name for name in names if (work / name).exists()]
    if not found:
        return
    say("train", "the storage no longer has the work of an interrupted run: training begins anew")
    for path in found:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    if events:
        begin_again(events)
