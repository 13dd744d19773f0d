"""Errors that a user may see. Each message says what is wrong, where, and what to do."""

import difflib
from collections.abc import Iterable


class GantryError(Exception):
    """Base of every error that Gantry raises on purpose; the command line prints it without a traceback."""


class SettingsError(GantryError):
    """A setting is unknown, missing, of the wrong type or out of range."""


class DataError(GantryError):
    """A dataset is missing, empty or unreadable, or not suitable for the task."""


class DamagedFileError(GantryError, ValueError):
    """A file that Gantry wrote is damaged. ``reason`` says how, without the file's name."""

    reason = ""


class PictureError(DataError):
    """A picture cannot be used. ``reason`` is one of a few words by which rejected pictures are counted."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type["PictureError"], tuple[str, str]]:
        return type(self), (self.reason, self.detail)


class FetchError(GantryError):
    """A download failed at every address, or its content is not the expected one."""


class CheckpointError(GantryError):
    """A checkpoint is missing or damaged, or was trained with other settings."""


class TrainingDivergedError(GantryError):
    """Training diverged to NaN or collapsed, and could not be recovered by a rollback."""


class TrackingError(GantryError):
    """The tracking server or the model registry refused a request, or could not be reached."""


class StageError(GantryError):
    """A pipeline stage cannot run, for example because its work directory is in use or an input is missing."""


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the valid name closest to ``name``, or the list of valid names."""
    names = sorted(valid)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f" Did you mean '{close[0]}'?" if close else f" Valid: {', '.join(names)}."
