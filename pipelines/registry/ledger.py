"""The ledger: the history of the champion, stored in the registry as tags of the registered model.

The registry is the source of truth for the champion, so it also keeps the history: everyone who uses the registry shares
it, and the MLflow UI shows it. Each entry is one tag. Entries form a hash chain: each holds its number and the digest of
the previous entry; the first holds the digest of all entries written by versions of Gantry that kept no chain. An entry is
written before the alias moves. The next entry lists the earlier entries that were never carried out.

This module does not access a server: :mod:`pipelines.registry.champion` reads and writes,
:mod:`pipelines.registry.verify` checks.
"""

import itertools
import json
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from functools import cached_property
from typing import Any, Literal

from gan_core.config import build, check
from gan_core.errors import SettingsError, TrackingError
from gan_core.files import sha256_json
from pipelines.runtime.account import user_name

TAG_PREFIX = "gantry.ledger."
MAX_REASON_LENGTH = 1000
"""In characters. A registry's database may limit a whole entry to 5000."""
_DIGEST = "digest"
_CLOCK_DIGITS = 13
MAX_CLOCK_SKEW_MS = 86_400_000
"""An entry dated further than this in the future is not explained by clock skew between machines."""


@dataclass(frozen=True, kw_only=True)
class Move:
    """One move of the champion."""

    kind: Literal["promote", "rollback"]
    version: str | None
    """The champion after the move; None for no champion."""
    previous: str | None
    """The champion before the move; None for no champion."""
    at: str
    """UTC time, ISO 8601. Never earlier than the time of the previous entry."""
    by: str
    """User name."""
    reason: str
    forced: bool = False
    undoes: str | None = None
    """For a rollback, the id of the entry that it undoes."""
    found: str = ""
    """For a promotion that passed the gate: both figures, and whether the difference exceeds the noise."""
    within_noise: bool | None = None
    """Whether the 95 % intervals of both figures overlap; None if they were not compared or one has no interval."""
    id: str = ""
    number: int = 0
    """Position in the chain, from 1; 0 for an entry written by a version of Gantry that kept no chain."""
    after: str = ""
    """Digest of the previous entry in the chain; for the first entry, digest of all legacy entries."""
    voids: tuple[str, ...] = ()
    """Ids of earlier entries that were never carried out."""
    metrics: str = ""
    """SHA-256 of the ``metrics.json`` of ``version``; empty if it has no such file, or ``version`` is None."""
    gates: tuple[str, ...] = ()
    """For a promotion, the verdict of each gate, forced or not."""

    def __post_init__(self) -> None:
        check(self.number >= 0, f"number: must be 0 or more, got {self.number}.")


class Outcome(StrEnum):
    """Status of an entry."""

    MADE = "made"
    INTERRUPTED = "interrupted, or undone outside gantry before the next move"
    """The alias did not name its champion when the next entry was written, which records this."""
    UNDONE = "interrupted, or undone outside gantry"
    """The next entry started from a different champion."""
    PENDING = "in progress, interrupted, or undone outside gantry"
    """The last entry; the alias names the previous champion."""
    DELETED = "made or interrupted; its version was deleted later"
    """The last entry; the alias, which MLflow deletes with the version, does not name its champion."""
    MOVED = "the champion was moved later, outside gantry"
    """The last entry; the alias names neither its champion nor the previous one."""
    LATE = "made late, after it counted as interrupted"
    """Its process hung, and another one recorded it as interrupted and moved the champion. Then it moved the champion all the
    same, and was killed before it could undo that."""
    REPLACED = "replaced by an earlier entry that was made late"
    """The last entry, if an earlier one is :attr:`LATE`."""
    OUTSIDE = "outside the chain"
    """Written without a number although a chain existed, by an older version of Gantry or by hand. Ignored."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A move as stored in the registry."""

    move: Move
    digest: str
    """SHA-256 of the stored content."""
    intact: bool
    """Whether the content matches the digest stored with it. Always True for a legacy entry, which has no digest."""


@dataclass(frozen=True, kw_only=True)
class UnreadableEntry:
    """A tag with the name of an entry but without a valid entry in it."""

    id: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """The entries of one registered model and its current champion."""

    entries: tuple[Entry, ...]
    """All valid entries, sorted by id, which begins with the time of writing."""
    unreadable: tuple[UnreadableEntry, ...]
    champion: str | None
    """The version that the alias names now; None for no champion."""
    deleted: frozenset[str] = frozenset()
    """Versions that are known to be deleted."""

    @cached_property
    def chain(self) -> list[Entry]:
        """The entries of the chain, one per number, in ascending order.

        When two processes write at once and one is killed before it withdraws, two entries share a number. The chain holds
        the one that the next entry follows; at the end of the chain, the one whose version is champion.
        """
        numbered: dict[int, list[Entry]] = {}
        for entry in self.entries:
            if entry.move.number:
                numbered.setdefault(entry.move.number, []).append(entry)
        line: list[Entry] = []
        for number in sorted(numbered, reverse=True):
            candidates = numbered[number]
            if line:
                chosen = next((one for one in candidates if one.digest == line[-1].move.after), candidates[0])
            else:
                chosen = next((one for one in candidates if one.move.version == self.champion), candidates[0])
            line.append(chosen)
        return line[::-1]

    @cached_property
    def orphans(self) -> list[Entry]:
        """Numbered entries that are not in the chain; they were not carried out."""
        chosen = {entry.move.id for entry in self.chain}
        return [entry for entry in self.entries if entry.move.number and entry.move.id not in chosen]

    @cached_property
    def legacy(self) -> list[Entry]:
        """Entries from before the chain, written by versions of Gantry that kept none."""
        first = self.chain[0].move.id if self.chain else None
        return [e for e in self.entries if not e.move.number and (first is None or e.move.id < first)]

    @cached_property
    def outside(self) -> list[Entry]:
        """Entries without a number that are newer than the start of the chain."""
        legacy = {entry.move.id for entry in self.legacy}
        return [entry for entry in self.entries if not entry.move.number and entry.move.id not in legacy]

    @property
    def legacy_changed(self) -> bool:
        """Whether the legacy entries differ from those that the first entry of the chain recorded."""
        return (
            bool(self.chain)
            and self.chain[0].move.number == 1
            and self.chain[0].move.after != digest_of_legacy(self.legacy)
        )

    @cached_property
    def outcomes(self) -> dict[str, Outcome]:
        """The status of each entry, by id."""
        line = [entry.move for entry in (*self.legacy, *self.chain)]
        void = {name for move in line for name in move.voids} | {entry.move.id for entry in self.orphans}
        found = {entry.move.id: Outcome.OUTSIDE for entry in self.outside} | dict.fromkeys(void, Outcome.INTERRUPTED)
        valid = [move for move in line if move.id not in void]
        for move, later in itertools.pairwise(valid):
            found[move.id] = Outcome.MADE if later.previous == move.version else Outcome.UNDONE
        if valid:
            last = valid[-1]
            found[last.id] = Outcome.MOVED
            if self.champion == last.version:
                found[last.id] = Outcome.MADE
            elif last.version in self.deleted:
                found[last.id] = Outcome.DELETED
            elif self.champion == last.previous:
                found[last.id] = Outcome.PENDING
            elif late := [entry.move.id for entry in self.entries if self._is_late(entry.move, void)]:
                found |= {last.id: Outcome.REPLACED, late[-1]: Outcome.LATE}
        return found

    def _is_late(self, move: Move, void: set[str]) -> bool:
        """Whether ``move``, one of the interrupted entries ``void``, made the current champion."""
        return move.id in void and move.version == self.champion

    @property
    def pending(self) -> Move | None:
        """The last entry if the alias names the previous champion: its process is still running, or was killed, or someone has
        moved the alias back."""
        return next((move for move in self.moves() if self.outcomes[move.id] is Outcome.PENDING), None)

    def moves(self) -> list[Move]:
        """All moves, oldest first."""
        return [entry.move for entry in self.entries]

    def promotion_to_undo(self) -> Move | None:
        """The latest promotion of the current champion that no rollback has undone, or None.

        A rollback that was interrupted, or reversed by hand, does not count.

        Raises:
            TrackingError: the entry was modified after it was written.
        """
        line = [*self.legacy, *self.chain]
        undone = {entry.move.undoes for entry in line if self.outcomes[entry.move.id] is Outcome.MADE}
        for entry in reversed(line):
            move = entry.move
            if move.kind != "promote" or move.version != self.champion or move.id in undone:
                continue
            if self.outcomes[move.id] in (Outcome.INTERRUPTED, Outcome.LATE):
                continue
            if not entry.intact or (not move.number and self.legacy_changed):
                raise TrackingError(
                    f"{entry_label(move)} of the ledger, which made version {move.version} champion, cannot be trusted: it, or "
                    "what it follows, was modified after it was written (gantry ledger --verify shows the changes). Choose "
                    'the version to return to yourself: gantry promote --version V --force --reason "why".'
                )
            return move
        return None

    def next_move(
        self,
        kind: Literal["promote", "rollback"],
        *,
        version: str | None,
        reason: str,
        forced: bool = False,
        undoes: str | None = None,
        found: str = "",
        within_noise: bool | None = None,
        metrics: str = "",
        gates: tuple[str, ...] = (),
    ) -> Move:
        """The next entry of the chain: a move from the current champion to ``version``, by this user, at this time."""
        tail = self.chain[-1] if self.chain else None
        done = {name for entry in self.chain for name in entry.move.voids}
        void = [entry.move.id for entry in self.orphans if entry.move.id not in done]
        void += [self.pending.id] if self.pending else []
        # Keep entries in order of time even if this machine's clock is behind another's. Ignore times far in the future.
        now = time.time_ns() // 1_000_000
        before = [written_at_ms(entry.move.id) for entry in (*self.legacy, *self.chain)]
        now = max([now, *(one + 1 for one in before if one < now + MAX_CLOCK_SKEW_MS)])
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now / 1000)) + f".{now % 1000:03d}Z"
        return Move(
            kind=kind,
            version=version,
            previous=self.champion,
            at=at,
            by=user_name(),
            reason=reason,
            forced=forced,
            undoes=undoes,
            found=found,
            within_noise=within_noise,
            id=f"{now:0{_CLOCK_DIGITS}d}-{uuid.uuid4().hex[:8]}",
            number=tail.move.number + 1 if tail else 1,
            after=tail.digest if tail else digest_of_legacy(self.legacy),
            voids=tuple(void),
            metrics=metrics,
            gates=gates,
        )

    def competing_moves(self, move: Move) -> list[Move]:
        """Other entries with the number of ``move``, written by processes that moved the champion at the same time."""
        return [other for other in self.moves() if other.number == move.number and other.id != move.id]


def read_ledger(tags: Mapping[str, str], champion: str | None) -> Ledger:
    """Read the ledger from the tags of a registered model.

    Args:
        tags: all tags of the registered model; those that are not entries are ignored.
        champion: the version that the alias ``champion`` names, or None.
    """
    entries, unreadable = [], []
    for name in sorted(tags):
        if name.startswith(TAG_PREFIX):
            identity = name.removeprefix(TAG_PREFIX)
            try:
                entries.append(_entry(identity, tags[name]))
            except (ValueError, RecursionError, SettingsError) as error:
                unreadable.append(UnreadableEntry(id=identity, why=" ".join(str(error).split())[:200]))
    return Ledger(entries=tuple(entries), unreadable=tuple(unreadable), champion=champion)


def to_tag(move: Move) -> tuple[str, str]:
    """Name and value of the tag that stores ``move``, with its digest."""
    content = _stored(move)
    return TAG_PREFIX + move.id, json.dumps({**content, _DIGEST: sha256_json(content)}, ensure_ascii=False)


def digest_of_legacy(entries: Sequence[Entry]) -> str:
    """Digest of the legacy entries, stored in the first entry of a chain."""
    return sha256_json([[entry.move.id, entry.digest] for entry in entries])


def entry_label(move: Move) -> str:
    """Name of an entry in messages."""
    return f"Entry {move.number} ({move.id})" if move.number else f"Entry {move.id}"


def check_reason(reason: str | None) -> str | None:
    """Normalise a reason for the ledger: one line of valid UTF-8.

    Raises:
        TrackingError: the reason is longer than ``MAX_REASON_LENGTH``.
    """
    if reason is None:
        return None
    line = " ".join(reason.encode("utf-8", "backslashreplace").decode().split())
    if len(line) > MAX_REASON_LENGTH:
        raise TrackingError(f"--reason has {len(line)} characters; the limit is {MAX_REASON_LENGTH}. Shorten it.")
    return line


def escape_nonprintable(text: object) -> str:
    """``text`` in one line that is safe to print: line breaks, control characters and the like become escape sequences."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def _stored(move: Move) -> dict[str, Any]:
    return {**asdict(move), "voids": list(move.voids), "gates": list(move.gates)}


def _entry(identity: str, value: str) -> Entry:
    """Parse an entry; raises ValueError, RecursionError or SettingsError if ``value`` is not a valid one."""
    content = json.loads(value)
    if not isinstance(content, dict):
        raise ValueError("it is not a JSON object")
    stored = content.pop(_DIGEST, None)
    known = {field.name for field in fields(Move)}  # a later version of Gantry may store more
    move = build(Move, {name: of for name, of in content.items() if name in known})
    if move.id != identity:
        raise ValueError(f"its id field is {move.id}")
    written_at_ms(identity)
    digest = sha256_json(content)
    return Entry(move=move, digest=digest, intact=not move.number or stored == digest)


def written_at_ms(identity: str) -> int:
    """Time of writing from an entry's id, in milliseconds since 1970; raises ValueError if the id has none."""
    number = identity.partition("-")[0]
    if not (number.isascii() and number.isdecimal() and len(number) == _CLOCK_DIGITS):
        raise ValueError("its name does not start with a time")
    return int(number)
