"""The ledger: every move of the champion, kept in the registry itself as tags of the registered model.

The registry is the truth about who is champion, so it keeps the history too: it is seen in the MLflow UI and shared by
everyone who uses the registry. An entry is one tag with a name of its own. Entries form a hash chain: each holds its number
and the digest of the entry before it, the first the digest of all entries that an edition without a chain has left. An
entry is written before the alias is moved; the next entry says which ones before it were never carried out.

Nothing here talks to a server: :mod:`pipelines.registry.champion` reads and writes, :mod:`pipelines.registry.verify` checks.
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

PREFIX = "gantry.ledger."
LONGEST_REASON = 1000
"""Characters; a registry's database may keep 5000 of a whole entry."""
_DIGEST = "digest"
_CLOCK_DIGITS = 13
CLOCKS_DIFFER_MS = 86_400_000
"""An entry that is dated later than this from now is no matter of clocks that differ."""


@dataclass(frozen=True, kw_only=True)
class Move:
    """One move of the champion."""

    kind: Literal["promote", "rollback"]
    version: str | None
    """The champion afterwards; None when there is none."""
    previous: str | None
    """The champion before."""
    at: str
    """UTC time, ISO 8601. Never before that of the entry that it follows."""
    by: str
    """User name."""
    reason: str
    forced: bool = False
    undoes: str | None = None
    """For a rollback, the id of the entry that it undoes."""
    found: str = ""
    """For a promotion that passed the gate, both figures and whether they differ by more than noise."""
    within_noise: bool | None = None
    """Whether the 95 % intervals of both figures overlap; None where they were not compared, or one has none."""
    id: str = ""
    number: int = 0
    """Place in the chain, from 1 on; 0 for an entry of an edition that kept no chain."""
    after: str = ""
    """Digest of the entry before it in the chain; for the first, of all entries without a chain."""
    voids: tuple[str, ...] = ()
    """Ids of the entries before it that were found not to be carried out."""
    metrics: str = ""
    """SHA-256 of the ``metrics.json`` of ``version``; empty where it has none, or there is no version."""

    def __post_init__(self) -> None:
        check(self.number >= 0, f"number: must be 0 or more, got {self.number}.")


class Outcome(StrEnum):
    """What became of an entry."""

    MADE = "made"
    CUT_SHORT = "cut short"
    """It was not carried out, and a later entry says so."""
    UNDONE = "cut short, or undone by hand"
    """The next entry found another champion than this one names."""
    PENDING = "in progress or cut short"
    """The last entry, and the champion is still the one before."""
    MOVED = "the champion was moved since, and not by gantry promote"
    """The last entry, and the champion is neither the one it names nor the one before."""
    OUTSIDE = "outside the chain"
    """Written by an earlier edition or by hand when there was a chain already; nothing relies on it."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A move as it is stored."""

    move: Move
    digest: str
    """SHA-256 of the stored content."""
    intact: bool
    """Whether the stored content matches the digest stored with it. True without a chain: there is nothing to compare."""


@dataclass(frozen=True, kw_only=True)
class Unreadable:
    """A tag that is named like an entry and holds none."""

    id: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """The entries of one registered model and its present champion."""

    entries: tuple[Entry, ...]
    """All that can be read, by id: the time at which they were written."""
    unreadable: tuple[Unreadable, ...]
    champion: str | None
    """The version that the alias names now; None where there is no champion."""

    @cached_property
    def chain(self) -> list[Entry]:
        """The entries of the chain by number, one each.

        Of two processes that write at once, one may be killed before it withdraws, and leaves a second entry of one number:
        the one that the next entry follows is in the chain. Of two last ones it is the one that was carried out.
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
    def strays(self) -> list[Entry]:
        """Entries with a number that are not in the chain: they were not carried out."""
        chosen = {entry.move.id for entry in self.chain}
        return [entry for entry in self.entries if entry.move.number and entry.move.id not in chosen]

    @cached_property
    def early(self) -> list[Entry]:
        """Entries from before the chain."""
        first = self.chain[0].move.id if self.chain else None
        return [e for e in self.entries if not e.move.number and (first is None or e.move.id < first)]

    @cached_property
    def outside(self) -> list[Entry]:
        """Entries without a number that are younger than the chain."""
        early = {entry.move.id for entry in self.early}
        return [entry for entry in self.entries if not entry.move.number and entry.move.id not in early]

    @property
    def early_changed(self) -> bool:
        """Whether the entries from before the chain are others than those that its first entry found."""
        return (
            bool(self.chain)
            and self.chain[0].move.number == 1
            and self.chain[0].move.after != digest_of_early(self.early)
        )

    @cached_property
    def outcomes(self) -> dict[str, Outcome]:
        """What became of each entry, by its id."""
        line = [entry.move for entry in (*self.early, *self.chain)]
        void = {name for move in line for name in move.voids} | {entry.move.id for entry in self.strays}
        found = {entry.move.id: Outcome.OUTSIDE for entry in self.outside} | dict.fromkeys(void, Outcome.CUT_SHORT)
        valid = [move for move in line if move.id not in void]
        for move, later in itertools.pairwise(valid):
            found[move.id] = Outcome.MADE if later.previous == move.version else Outcome.UNDONE
        if valid:
            last = valid[-1]
            found[last.id] = Outcome.MOVED
            if self.champion == last.version:
                found[last.id] = Outcome.MADE
            elif self.champion == last.previous:
                found[last.id] = Outcome.PENDING
        return found

    @property
    def pending(self) -> Move | None:
        """The last entry where its alias is not moved yet: its process is at work, or was killed."""
        return next((move for move in self.moves() if self.outcomes[move.id] is Outcome.PENDING), None)

    def moves(self) -> list[Move]:
        """All moves, oldest first."""
        return [entry.move for entry in self.entries]

    def to_undo(self) -> Move | None:
        """The latest promotion that made the present champion and was not undone, or None.

        A rollback that was cut short, or that somebody reversed by hand, undid nothing.

        Raises:
            TrackingError: the content of that entry was changed.
        """
        line = [*self.early, *self.chain]
        undone = {entry.move.undoes for entry in line if self.outcomes[entry.move.id] is Outcome.MADE}
        for entry in reversed(line):
            move = entry.move
            if move.kind != "promote" or move.version != self.champion or move.id in undone:
                continue
            if self.outcomes[move.id] is Outcome.CUT_SHORT:
                continue
            if not entry.intact or (not move.number and self.early_changed):
                raise TrackingError(
                    f"{place(move)} of the ledger, which made version {move.version} champion, cannot be trusted: the ledger "
                    "was changed there (gantry ledger --verify says where). Name the version to go back to yourself: "
                    'gantry promote --version V --force --reason "why".'
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
    ) -> Move:
        """A move from the present champion to ``version``, made here and now by this user: the next entry of the chain."""
        tail = self.chain[-1] if self.chain else None
        done = {name for entry in self.chain for name in entry.move.voids}
        void = [entry.move.id for entry in self.strays if entry.move.id not in done]
        void += [self.pending.id] if self.pending else []
        # Entries are listed by time, also where this machine's clock is behind that of another, but not if it is far off.
        now = time.time_ns() // 1_000_000
        before = [milliseconds(entry.move.id) for entry in (*self.early, *self.chain)]
        now = max([now, *(one + 1 for one in before if one < now + CLOCKS_DIFFER_MS)])
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
            after=tail.digest if tail else digest_of_early(self.early),
            voids=tuple(void),
            metrics=metrics,
        )

    def rivals(self, move: Move) -> list[Move]:
        """Entries of others with the number of ``move``: somebody moved the champion at the same moment."""
        return [other for other in self.moves() if other.number == move.number and other.id != move.id]


def read_ledger(tags: Mapping[str, str], champion: str | None) -> Ledger:
    """The ledger in the tags of a registered model whose alias ``champion`` names the version ``champion``."""
    entries, unreadable = [], []
    for name in sorted(tags):
        if name.startswith(PREFIX):
            identity = name.removeprefix(PREFIX)
            try:
                entries.append(_entry(identity, tags[name]))
            except (ValueError, RecursionError, SettingsError) as error:
                unreadable.append(Unreadable(id=identity, why=" ".join(str(error).split())[:200]))
    return Ledger(entries=tuple(entries), unreadable=tuple(unreadable), champion=champion)


def as_tag(move: Move) -> tuple[str, str]:
    """Name and value of the tag that keeps a move, its digest included."""
    content = _stored(move)
    return PREFIX + move.id, json.dumps({**content, _DIGEST: sha256_json(content)}, ensure_ascii=False)


def digest_of_early(entries: Sequence[Entry]) -> str:
    """What the first entry of a chain holds about the entries without a chain."""
    return sha256_json([[entry.move.id, entry.digest] for entry in entries])


def place(move: Move) -> str:
    """An entry as messages name it."""
    return f"Entry {move.number} ({move.id})" if move.number else f"Entry {move.id}"


def check_reason(reason: str | None) -> str | None:
    """A reason as the ledger keeps it: in one line, any text that UTF-8 can hold.

    Raises:
        TrackingError: it is too long.
    """
    if reason is None:
        return None
    line = " ".join(reason.encode("utf-8", "backslashreplace").decode().split())
    if len(line) > LONGEST_REASON:
        raise TrackingError(
            f"--reason has {len(line)} characters; the ledger keeps {LONGEST_REASON}. Say it in fewer words."
        )
    return line


def in_one_line(text: object) -> str:
    """``text`` as a listing may show it: control characters, line breaks and the like are spelled out, not obeyed."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def _stored(move: Move) -> dict[str, Any]:
    return {**asdict(move), "voids": list(move.voids)}


def _entry(identity: str, value: str) -> Entry:
    """Raise ValueError, RecursionError or SettingsError where ``value`` holds no entry."""
    content = json.loads(value)
    if not isinstance(content, dict):
        raise ValueError("it holds no table of values")
    stored = content.pop(_DIGEST, None)
    known = {field.name for field in fields(Move)}  # a later edition may keep more
    move = build(Move, {name: of for name, of in content.items() if name in known})
    if move.id != identity:
        raise ValueError(f"it says that it is the entry {move.id}")
    milliseconds(identity)
    digest = sha256_json(content)
    return Entry(move=move, digest=digest, intact=not move.number or stored == digest)


def milliseconds(identity: str) -> int:
    """The time in an entry's id; raises ValueError where there is none."""
    number = identity.partition("-")[0]
    if not (number.isascii() and number.isdecimal() and len(number) == _CLOCK_DIGITS):
        raise ValueError("its name does not begin with a time")
    return int(number)
