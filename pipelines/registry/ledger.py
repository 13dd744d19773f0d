"""The ledger: every move of the champion, kept in the registry itself as tags of the registered model.

The registry is the truth about who is champion, so it keeps the history too: it is seen in the MLflow UI, shared by
everyone who uses the registry, and cannot drift from it. An entry is one tag with a name of its own (time and a random
part), so that two people who promote at the same moment both leave theirs. Entries are added, never changed.
"""

import getpass
import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

PREFIX = "gantry.ledger."


@dataclass(frozen=True, kw_only=True)
class Move:
    """One move of the champion. It is written before the alias is moved: one that was not carried out was interrupted."""

    kind: Literal["promote", "rollback"]
    version: str | None
    """The champion afterwards; None when there is none."""
    previous: str | None
    """The champion before."""
    at: str
    """UTC time, ISO 8601."""
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


def new_move(
    kind: Literal["promote", "rollback"],
    *,
    version: str | None,
    previous: str | None,
    reason: str,
    forced: bool = False,
    undoes: str | None = None,
    found: str = "",
    within_noise: bool | None = None,
) -> Move:
    """A move made here and now by this user."""
    now = time.time_ns()
    at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now / 1e9)) + f".{now // 1_000_000 % 1000:03d}Z"
    return Move(
        kind=kind,
        version=version,
        previous=previous,
        at=at,
        by=getpass.getuser(),
        reason=reason,
        forced=forced,
        undoes=undoes,
        found=found,
        within_noise=within_noise,
        id=f"{now // 1_000_000:013d}-{uuid.uuid4().hex[:8]}",
    )


def as_tag(move: Move) -> tuple[str, str]:
    """Name and value of the tag that keeps a move."""
    return PREFIX + move.id, json.dumps(asdict(move), ensure_ascii=False)


def from_tags(tags: Mapping[str, str]) -> list[Move]:
    """The moves kept in a registered model's tags, oldest first."""
    return [Move(**json.loads(tags[key])) for key in sorted(tags) if key.startswith(PREFIX)]


def carried_out(moves: list[Move], champion: str | None) -> list[bool]:
    """Whether each of ``moves`` was made, and not only noted: who is champion after it is what the next one found.

    After the last it is ``champion``; None where that is not known, and the last is believed.
    """
    after = [
        *(move.previous for move in moves[1:]),
        champion if champion is not None or not moves else moves[-1].version,
    ]
    return [move.version == found for move, found in zip(moves, after, strict=False)]


def to_undo(moves: list[Move], champion: str) -> Move | None:
    """The latest promotion that made ``champion`` the champion and was not undone, or None.

    A rollback that was cut short, or that somebody reversed by hand, undid nothing.
    """
    undone = {move.undoes for move, made in zip(moves, carried_out(moves, champion), strict=False) if made}
    made = [m for m in moves if m.kind == "promote" and m.version == champion and m.id not in undone]
    return made[-1] if made else None
