"""Verify a ledger: its hash chain, the alias, and the figures in the versions' files. Needs no server."""

import datetime
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass

from gan_core.errors import SettingsError
from pipelines.registry.ledger import (
    MAX_CLOCK_SKEW_MS,
    Ledger,
    Move,
    Outcome,
    digest_of_legacy,
    entry_label,
    written_at_ms,
)


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Current state of the files of a version."""

    metrics: str | None
    """SHA-256 of its ``metrics.json``; None if it cannot be read."""
    why: str = ""
    """What is wrong with the files, or how they contradict the version's tags; empty if nothing is."""
    gone: bool = False
    """Whether the version was deleted from the registry."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """Result of a verification."""

    entries: int
    chained: int
    chain_from: str | None
    """First entry of the chain; None if there is no chain."""
    head: str | None
    """Digest of the last entry of the chain. Keep it elsewhere to detect later changes to any entry up to this one."""
    champion: str | None
    figures: int
    """Number of promotions whose version still has the figures it was promoted by."""
    breaks: tuple[str, ...]
    """Signs of modification, in the order of the chain."""
    notes: tuple[str, ...]
    """What could not be checked, and what is unusual without being a sign of modification."""


def verify(
    ledger: Ledger, evidence: Mapping[str, Evidence], *, expected: str | None = None, now_ms: int | None = None
) -> Report:
    """Check a ledger for modifications.

    This detects any change that does not also rewrite the rest of the chain. Anyone who can write all the tags can forge a
    whole chain; only a digest that was kept elsewhere (``expected``) reveals that.

    Args:
        ledger: entries and current champion.
        evidence: state of the files of each version in :func:`promoted_versions`.
        expected: digest, or its first 8 or more digits, that an entry of the chain must have.
        now_ms: current time in milliseconds since 1970; by default, read from the clock.

    Raises:
        SettingsError: ``expected`` is no such digest. A shorter one could be that of any entry, an empty one that of all.
    """
    if expected is not None and not re.fullmatch("[0-9a-f]{8,64}", expected):
        raise SettingsError(
            f"--expect is {expected!r}. Give the head that an earlier gantry ledger --verify printed, or at least its first 8 "
            "digits. If it comes from a shell variable, check that the variable is set."
        )
    now = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    breaks = [f"The tag gantry.ledger.{bad.id} is not a valid entry: {bad.why}" for bad in ledger.unreadable]
    breaks += _chain(ledger, now)
    if expected is not None and not any(entry.digest.startswith(expected) for entry in ledger.chain):
        breaks.append(f"No entry of the chain has the digest {expected}: entries were removed or rewritten since then")
    breaks += _alias(ledger)
    figures, wrong, notes = _figures(ledger, evidence)
    notes = [*_unusual(ledger), *notes]
    chain = ledger.chain
    return Report(
        entries=len(ledger.entries),
        chained=len(chain),
        chain_from=entry_label(chain[0].move) if chain else None,
        head=chain[-1].digest if chain else None,
        champion=ledger.champion,
        figures=figures,
        breaks=(*breaks, *wrong),
        notes=tuple(notes),
    )


def promoted_versions(ledger: Ledger) -> list[str]:
    """The versions that were promoted by their figures, whose files :func:`verify` compares with the ledger."""
    named = {entry.move.version for entry in ledger.entries if entry.move.metrics}
    return sorted(version for version in named if version is not None)


def _chain(ledger: Ledger, now: int) -> list[str]:
    """Breaks of the chain, in its order."""
    found: list[str] = []
    before: Move | None = None
    digest = digest_of_legacy(ledger.legacy)
    for entry in ledger.chain:
        move, number = entry.move, before.number if before else 0
        if move.number != number + 1:
            gone = (
                f"entry {number + 1} is"
                if move.number == number + 2
                else f"entries {number + 1} to {move.number - 1} are"
            )
            found.append(f"{entry_label(move)}: {gone} missing before it")
        elif move.after != digest:
            what = entry_label(before) if before else "an entry from before the chain"
            found.append(
                f"{entry_label(move)} does not follow the previous entry: {what} was changed, added or removed"
            )
        if not entry.intact:
            found.append(f"{entry_label(move)} was changed after it was written: its content does not match its digest")
        if before is not None and move.at < before.at:
            found.append(f"{entry_label(move)} is dated {move.at}, before the previous entry ({before.at})")
        if written_at_ms(move.id) > now + MAX_CLOCK_SKEW_MS or _milliseconds(move.at) != written_at_ms(move.id):
            found.append(f"{entry_label(move)} is dated {move.at}, which is not the time of writing")
        before, digest = move, entry.digest
    void = {name for entry in ledger.chain for name in entry.move.voids}
    for stray in ledger.orphans:
        # An orphan beside the last entry may come from a killed process; the next move will void it.
        if stray.move.id not in void and before is not None and stray.move.number != before.number:
            found.append(f"{entry_label(stray.move)} is not in the chain: another entry has its number")
    found += [
        f"{entry_label(entry.move)} is newer than the start of the chain but not part of it" for entry in ledger.outside
    ]
    return found


def _alias(ledger: Ledger) -> list[str]:
    """Breaks between the alias and the ledger."""
    line = [entry.move for entry in (*ledger.legacy, *ledger.chain)]
    valid = [move for move in line if ledger.outcomes[move.id] not in (Outcome.INTERRUPTED, Outcome.LATE)]
    champion = _version(ledger.champion)
    if not valid:
        return [] if ledger.champion is None else [f"The champion is {champion}, but the ledger has no promotion"]
    last = valid[-1]
    if ledger.outcomes[last.id] is Outcome.PENDING:
        return [
            f"{entry_label(last)} was not carried out, or was undone outside gantry: the champion is {champion}, not "
            f"{_version(last.version)}. Run gantry {last.kind} again"
        ]
    if ledger.outcomes[last.id] is Outcome.DELETED:
        return [
            f"The champion is {champion}: {_version(last.version)}, which the last entry, {entry_label(last)}, names, was "
            "deleted. Promote another one: gantry promote --version V"
        ]
    if ledger.outcomes[last.id] is Outcome.REPLACED:
        late = next(move for move in ledger.moves() if ledger.outcomes[move.id] is Outcome.LATE)
        return [
            f"{entry_label(late)} was made late, after it counted as interrupted, so the champion is {champion}, not "
            f"{_version(last.version)}. Run gantry {last.kind} again"
        ]
    if ledger.outcomes[last.id] is Outcome.MOVED:
        return [f"The champion is {champion}, but the last entry, {entry_label(last)}, names {_version(last.version)}"]
    return []


def _figures(ledger: Ledger, evidence: Mapping[str, Evidence]) -> tuple[int, list[str], list[str]]:
    """Number of promotions whose figures are unchanged; breaks; and notes on promotions that could not be checked."""
    good, wrong, unknown = 0, [], []
    for entry in (*ledger.legacy, *ledger.chain):
        move = entry.move
        if not move.metrics or move.version is None:
            continue
        said = evidence.get(move.version, Evidence(metrics=None, why="its files were not checked"))
        if said.gone:
            unknown.append(
                f"{entry_label(move)}: version {move.version} was deleted, so its figures cannot be compared"
            )
        elif said.metrics != move.metrics:
            why = said.why or "metrics.json was replaced"
            wrong.append(
                f"{entry_label(move)}: the figures of version {move.version} are not those it was promoted by ({why})"
            )
        elif said.why:
            wrong.append(f"{entry_label(move)}: version {move.version}: {said.why}")
        else:
            good += 1
    without = sum(not m.metrics for m in ledger.moves() if m.kind == "promote")
    if without:
        unknown.append(f"Promotions without figures to compare (forced, or by an older version of Gantry): {without}")
    return good, wrong, unknown


def _unusual(ledger: Ledger) -> list[str]:
    found = []
    if ledger.legacy:
        where = (
            f"the chain begins with {entry_label(ledger.chain[0].move)}" if ledger.chain else "there is no chain yet"
        )
        found.append(
            f"Entries from before the chain: {len(ledger.legacy)}. Changes made to them before that cannot be detected; {where}"
        )
    for entry in (*ledger.legacy, *ledger.chain):
        if ledger.outcomes[entry.move.id] is Outcome.UNDONE:
            found.append(f"{entry_label(entry.move)} was interrupted, or the champion was moved by hand afterwards")
    return found


def _milliseconds(at: str) -> int | None:
    try:
        return round(datetime.datetime.fromisoformat(at).timestamp() * 1000)
    except ValueError:
        return None


def _version(version: str | None) -> str:
    return f"version {version}" if version else "none"
