"""What a client of the Prefect server may ask of a served pipeline. Which code runs, and where, is not the client's choice.

``gantry serve`` fixes the checkout, the revision and the overrides. A run that comes through the server (the schedule, the
UI, the API) may ask for

- stages of dvc.yaml;
- another revision: a name of letters, digits and ``_ . / @ { } ^ ~ + -`` that starts with a letter, a digit or ``_``, and that
  git resolves to a commit on a branch, on a tag or before HEAD of that same repository;
- other values of settings in :data:`OPEN_SECTIONS`: numbers, truth values, and plain words. Other sections say
  where data comes from, where results go and what ingestion refuses.
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
class Served:
    """What ``gantry serve`` fixes for its runs."""

    revision: str
    overrides: Mapping[str, Any] = field(default_factory=dict)


def settle(served: Served, revision: str | None, overrides: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The revision and the overrides of a run for which a client asked for ``revision`` and ``overrides``.

    Raises:
        StageError: a revision that a client may not name.
        SettingsError: an override that a client may not set, or may not set to that value.
    """
    if revision is not None and revision != served.revision and not _REVISION.fullmatch(revision):
        raise StageError(
            f"A run through the Prefect server cannot have the revision {revision!r}: name a branch, a tag or a commit in "
            "letters, digits and _ . / @ { } ^ ~ + -."
        )
    for name, value in overrides.items():
        if name in served.overrides and served.overrides[name] == value:
            continue
        section = name.partition(".")[0]
        if section not in OPEN_SECTIONS:
            raise SettingsError(
                f"A run through the Prefect server cannot set '{name}': only settings of {', '.join(OPEN_SECTIONS)}. "
                "Set it where the schedule is started (gantry serve --set), or commit it."
            )
        if not (_WORD.fullmatch(name) and _is_plain(value)):
            raise SettingsError(
                f"A run through the Prefect server cannot set '{name}' to {value!r}: only to numbers, true, false, null, and "
                "words of letters, digits and _ . + -."
            )
    return revision or served.revision, {**served.overrides, **overrides}


def _is_plain(value: Any) -> bool:
    """Whether a value is of numbers and words, so that it can be no path, address or piece of a command."""
    if isinstance(value, str):
        return bool(_WORD.fullmatch(value))
    if isinstance(value, Mapping):
        return all(_is_plain(part) for pair in value.items() for part in pair)
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float)
