"""Errors that a user may see. Each message names the thing, the place and the remedy."""

import difflib
from collections.abc import Iterable


class GantryError(Exception):
    """Base of every error that Gantry raises on purpose; the command line prints it without a traceback."""


class SettingsError(GantryError):
    """A setting is unknown, missing, of the wrong type or out of range."""


class DataError(GantryError):
    """A data set is missing, empty, unreadable or does not fit what was asked of it."""


class DamagedFileError(GantryError, ValueError):
    """A file that Gantry wrote does not hold what Gantry writes. ``reason`` says it without the file's name."""

    reason = ""


class PictureError(DataError):
    """One picture cannot be used. ``reason`` is one of a few words that rejects are counted by."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type["PictureError"], tuple[str, str]]:
        return type(self), (self.reason, self.detail)


class FetchError(GantryError):
    """A download failed at every address, or its content is not what was expected."""


class CheckpointError(GantryError):
    """No valid checkpoint where one is needed, or one that belongs to other settings."""


class TrainingDivergedError(GantryError):
    """Training went to NaN or collapsed and could not be rolled back any more."""


class TrackingError(GantryError):
    """The tracking server or the registry refused or could not be reached where it is needed."""


class StageError(GantryError):
    """A pipeline stage cannot run here and now (its work directory is taken, an input is missing)."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the valid name closest to ``name``, or the list of valid names."""
    names = sorted(valid)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f" Did you mean '{close[0]}'?" if close else f" Valid: {', '.join(names)}."
