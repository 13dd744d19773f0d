"""RunLog: record a run in a local event log. Needs neither a network nor MLflow; usable from any process."""

import json
import os
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from PIL import Image

from gan_core.errors import TrackingError
from gan_core.files import explain_os_errors, link_or_copy
from gan_core.locks import locked
from pipelines.runtime.guard import process_identity
from pipelines.runtime.presence import hold
from pipelines.runtime.redaction import redact_credentials
from pipelines.tracking.events import (
    ARTIFACTS,
    EVENTS,
    OPEN,
    append_event,
    end_last_line,
    log_folder,
    now_ms,
    read_events,
)
from pipelines.tracking.images import IMAGES, IMAGES_TAG, image_names, preview_size

Status = Literal["FINISHED", "FAILED", "KILLED"]
_STATUSES = ("FINISHED", "FAILED", "KILLED")
STAGE_TAG, TRIAL = "gantry.stage", "trial"
"""Tag with the kind of a run: the name of a stage, or ``trial`` for a trial of the search."""
_LINK_FROM = 16 << 20


class RunLog:
    """The append-only log of one run.

    Several processes may open the same log (same directory and key) and append to it. A log that is opened again after a
    kill drops metrics at steps that it already has, because a resumed run repeats the steps after its last checkpoint.
    Steps repeated within one process, by a rollback, are kept.
    """

    def __init__(
        self,
        directory: Path | str,
        *,
        key: str,
        name: str,
        parent_key: str | None = None,
        tags: Mapping[str, Any] | None = None,
        destination: str | None = None,
    ) -> None:
        """Open the log of the run ``key`` under ``directory``, which is created if missing.

        Args:
            directory: folder of event logs, watched by a shipper.
            key: permanent identity of the run; the run on the tracking server is found by it.
            name: display name.
            parent_key: key of the parent run.
            tags: tags of the run.
            destination: where this process sends the log and those of the run's children, by
                :func:`pipelines.tracking.tree.destination_name`; None if another process sends it.

        Raises:
            TrackingError: a key is not valid.
        """
        self.key = key
        self.folder = log_folder(directory, key)
        if parent_key is not None:
            log_folder(directory, parent_key)  # checks the key
        self.folder.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self.folder / EVENTS, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._mutex = threading.Lock()
        with locked(self._file), explain_os_errors(self.folder / EVENTS):
            end_last_line(self._file)
        self._logged_until, self._images = self._earlier()
        self._presence = hold(self.folder / OPEN)
        self._append(
            "open",
            key=key,
            name=redact_credentials(name),
            parent=parent_key,
            tags=texts(tags or {}),
            process=process_identity(),
            **({"destination": destination} if destination else {}),
        )

    def log_params(self, values: Mapping[str, Any]) -> None:
        """Log parameters. Nested mappings become dotted names; values other than text are written as JSON."""
        self._append("params", values=texts(flatten(values)))

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log numbers at ``step``: anything that ``float()`` accepts, including NaN and infinities."""
        numbers = {name: float(value) for name, value in values.items()}
        with self._mutex:
            if self._logged_until:
                numbers = {name: value for name, value in numbers.items() if self._is_new(name, int(step))}
        if numbers:
            self._append("metrics", values=numbers, step=int(step))

    def set_tags(self, values: Mapping[str, Any]) -> None:
        """Set tags; a later value replaces an earlier one."""
        self._append("tags", values=texts(values))

    def log_artifact(self, path: Path | str, folder: str = "") -> None:
        """Log a copy of a file or directory, to be sent to ``folder`` of the run's artifacts.

        The caller may replace or delete the original at once, but must not write into a file of 16 MiB or more: such files
        are hard-linked if the file system allows it.

        Raises:
            TrackingError: ``path`` does not exist.
        """
        path = Path(path)
        if not path.exists():
            raise TrackingError(f"Cannot log {path} as an artifact of run '{self.key}': it does not exist.")
        # Escape a name that is not UTF-8, as the log does.
        name = path.name.encode(errors="backslashreplace").decode()

        def copy(stored: Path) -> None:
            if path.is_dir():
                shutil.copytree(path, stored, copy_function=_copy)
            else:
                _copy(path, stored)

        self._store(name, copy, folder)

    def log_image(self, path: Path | str, key: str, step: int) -> None:
        """Log a picture (PNG) as the one of ``key`` at ``step``, as MLflow's own ``log_image`` does.

        A log that is opened again drops pictures at steps that it already has, as it does with metrics.

        Raises:
            TrackingError: the key has characters other than letters, digits and ``_-. /``.
        """
        path = Path(path)
        if (key, int(step)) in self._images:
            return
        names = image_names(key, int(step), now_ms())
        with Image.open(path) as picture:
            small = picture.resize(preview_size(*picture.size))
        image = [key, int(step)]
        self._store(names.preview, small.save, IMAGES)
        # The event of the picture itself comes last: if this process is killed before, a resumed run logs both again.
        self._store(names.picture, lambda stored: shutil.copyfile(path, stored), IMAGES, image=image)
        self.set_tags({IMAGES_TAG: "True"})

    def _store(self, name: str, write: Callable[[Path], object], folder: str, **fields: Any) -> None:
        """Write an artifact called ``name`` into the log's folder, and append its event."""
        stored = Path(ARTIFACTS) / uuid.uuid4().hex[:12] / name
        with self._mutex, locked(self._file), explain_os_errors(self.folder / stored), _whole(self.folder / stored):
            write(self.folder / stored)
            event = {"kind": "artifact", "time": now_ms(), "stored": str(stored), "folder": folder, **fields}
            append_event(self._file, event)

    def log_dataset(self, name: str, source: str, digest: str, context: str = "training") -> None:
        """Log a dataset as an input of the run: its name, source, DVC hash and use."""
        self._append(
            "dataset", name=redact_credentials(name), source=redact_credentials(source), digest=digest, context=context
        )

    def finish(self, status: Status = "FINISHED") -> None:
        """Finish the run with a status and sync the log to disk. Opening the log again reopens the run."""
        if status not in _STATUSES:
            raise TrackingError(f"'{status}' is not a status of a finished run. Use one of {', '.join(_STATUSES)}.")
        self._append("finish", status=status)
        os.fsync(self._file)
        self._leave()

    def close(self) -> None:
        """Close the file without finishing the run."""
        self._leave()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _leave(self) -> None:
        """Stop being one of the processes that have the run open."""
        if self._presence is not None:
            os.close(self._presence)
            self._presence = None

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the run as FINISHED, as KILLED after an interrupt or exit, or as FAILED after any other exception."""
        if kind is None:
            self.finish("FINISHED")
        else:
            self.finish("FAILED" if issubclass(kind, Exception) else "KILLED")
        self.close()

    def _append(self, kind: str, **fields: Any) -> None:
        with self._mutex, locked(self._file), explain_os_errors(self.folder / EVENTS):
            append_event(self._file, {"kind": kind, "time": now_ms(), **fields})

    def _earlier(self) -> tuple[dict[str, int], set[tuple[str, int]]]:
        """What the log already has: for each metric the step of its last event, and the keys and steps of pictures.

        The step need not be the highest one, because of rollbacks.
        """
        steps: dict[str, int] = {}
        images: set[tuple[str, int]] = set()
        for event, _ in read_events(self.folder):
            if event and event["kind"] == "metrics":
                steps.update(dict.fromkeys(event["values"], event["step"]))
            elif event and event["kind"] == "artifact" and "image" in event:
                images.add((event["image"][0], event["image"][1]))
        return steps, images

    def _is_new(self, name: str, step: int) -> bool:
        if step <= self._logged_until.get(name, step - 1):
            return False
        self._logged_until.pop(name, None)
        return True


@contextmanager
def _whole(stored: Path) -> Iterator[None]:
    """Create the parent folder of ``stored``, and remove it if the block fails."""
    try:
        stored.parent.mkdir(parents=True)
        yield
    except BaseException:
        shutil.rmtree(stored.parent, ignore_errors=True)
        raise


def _copy(source: str | Path, target: str | Path) -> None:
    """Copy a file, or hard-link a large one: a copy is safe from writes into the original, a link takes no space."""
    if os.path.getsize(source) >= _LINK_FROM:
        link_or_copy(os.path.realpath(source), target)
    else:
        shutil.copyfile(source, target)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, by dotted name."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def texts(values: Mapping[str, Any]) -> dict[str, str]:
    """Values as a run keeps them: text as it is, anything else as JSON; without secrets."""
    plain = (bool, int, float, list, tuple, dict, type(None))
    return {
        name: redact_credentials(json.dumps(value, default=str) if isinstance(value, plain) else str(value))
        for name, value in values.items()
    }
