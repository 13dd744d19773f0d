"""Check what a client of the Prefect server requests from a served pipeline, so that it cannot run arbitrary code.

``gantry serve`` fixes the checkout, the revision and the overrides. A run that is started through the server (by the schedule,
the UI or the API) may request

- stages of dvc.yaml;
- another revision: a name of letters, digits and ``_ . / @ { } ^ ~ + -`` that starts with a letter, a digit or ``_``, and that
  git resolves to a commit on a branch, on a tag or before HEAD of the same repository;
- other values for settings in :data:`OPEN_SECTIONS`: numbers, booleans and plain words. The other sections control where data
  comes from, where results go and what ingestion rejects.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gan_core.errors import SettingsError, StageError

OPEN_SECTIONS = ("model", "train", "tune", "evaluate")
"""Sections of params.yaml that hold no path, address or name of anything outside the run."""
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./@{}^~+-]*")
_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")


@dataclass(frozen=True, kw_only=True)
class ServedPipeline:
    """The revision and the overrides that ``gantry serve`` fixes for its runs. A deployment on workers fixes neither."""

    revision: str | None
    """None: each run names its own."""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    origin: str | None = None
    """The repository of which a worker's host keeps a clone; None if the checkout is the user's own."""


def resolve_request(
    served: ServedPipeline, revision: str | None, overrides: Mapping[str, Any]
) -> tuple[str, dict[str, Any]]:
    """The revision and the overrides of a run for which a client requested ``revision`` and ``overrides``.

    Raises:
        StageError: the client may not request this revision, or names none where it must.
        SettingsError: the client may not override this setting, or not with this value.
    """
    wanted = served.revision if revision is None else revision
    # An empty one would mean the checkout itself, with its uncommitted changes.
    if wanted is None or (wanted != served.revision and not _REVISION.fullmatch(wanted)):
        raise StageError(
            f"A run through the Prefect server cannot use the revision {revision!r}. Name a branch, a tag or a commit, with "
            "only letters, digits and _ . / @ { } ^ ~ + -."
        )
    check_overrides(served, overrides)
    return wanted, {**served.overrides, **overrides}


def check_overrides(served: ServedPipeline, overrides: Mapping[str, Any]) -> None:
    """Raise SettingsError if a client may not override one of these settings, or not with this value."""
    for name, value in overrides.items():
        if name in served.overrides and served.overrides[name] == value:
            continue
        section = name.partition(".")[0]
        if section not in OPEN_SECTIONS:
            # Only gantry serve can fix other settings, and it always fixes a revision.
            or_fix = "" if served.revision is None else ", or set it when you start the schedule (gantry serve --set)"
            raise SettingsError(
                f"A run through the Prefect server cannot set '{name}', only settings of {', '.join(OPEN_SECTIONS)}. "
                f"Commit it{or_fix}."
            )
        if not (_WORD.fullmatch(name) and _is_plain(value)):
            raise SettingsError(
                f"A run through the Prefect server cannot set '{name}' to {value!r}, only to numbers, true, false, null, and "
                "words of letters, digits and _ . + -."
            )


def _is_plain(value: Any) -> bool:
    """Whether a value consists of numbers and plain words, so that it cannot be a path, an address or part of a command."""
    if isinstance(value, str):
        return bool(_WORD.fullmatch(value))
    if isinstance(value, Mapping):
        return all(_is_plain(part) for pair in value.items() for part in pair)
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float)
