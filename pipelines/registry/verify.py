"""Whether a ledger is whole: its chain, the alias, and the figures in the versions' own files. Needs no server."""

import datetime
import time
from collections.abc import Mapping
from dataclasses import dataclass

from pipelines.registry.ledger import CLOCKS_DIFFER_MS, Ledger, Move, Outcome, digest_of_early, milliseconds, place


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What the files of a version say now."""

    metrics: str | None
    """SHA-256 of its ``metrics.json``; None where it cannot be read."""
    why: str = ""
    """Why not, or what in the files contradicts the version's tags; empty where nothing does."""
    gone: bool = False
    """Whether the registry has no such version any more."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was found in a ledger."""

    entries: int
    chained: int
    chain_from: str | None
    """Where the chain begins; None where there is none."""
    head: str | None
    """Digest of the last entry of the chain. Who keeps it can tell later that nothing before it was changed."""
    champion: str | None
    figures: int
    """Promotions whose figures are those that they went by."""
    breaks: tuple[str, ...]
    """What is not as it was written, first things first."""
    notes: tuple[str, ...]
    """What could not be checked, and what is unusual and no sign of a change."""


def verify(
    ledger: Ledger, evidence: Mapping[str, Evidence], *, expected: str | None = None, now_ms: int | None = None
) -> Report:
    """Check a ledger.

    What this finds is a change by somebody who did not also write the rest of the chain anew. Who can write all the tags can
    forge a whole chain; only a digest that was kept elsewhere, ``expected``, tells then.

    Args:
        ledger: entries and present champion.
        evidence: what the files of each version say that :func:`versions` names.
        expected: digest that an entry of the chain must have.
        now_ms: the time, in milliseconds since 1970; the clock's when left out.
    """
    now = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    breaks = [f"The tag gantry.ledger.{bad.id} holds no entry: {bad.why}" for bad in ledger.unreadable]
    breaks += _chain(ledger, now)
    if expected and not any(entry.digest.startswith(expected) for entry in ledger.chain):
        breaks.append(f"No entry of the chain has the digest {expected}: the ledger was cut or written anew since then")
    breaks += _alias(ledger)
    figures, wrong, notes = _figures(ledger, evidence)
    notes = [*_unusual(ledger), *notes]
    chain = ledger.chain
    return Report(
        entries=len(ledger.entries),
        chained=len(chain),
        chain_from=place(chain[0].move) if chain else None,
        head=chain[-1].digest if chain else None,
        champion=ledger.champion,
        figures=figures,
        breaks=(*breaks, *wrong),
        notes=tuple(notes),
    )


def versions(ledger: Ledger) -> list[str]:
    """The versions whose files are evidence: those that were promoted by their figures."""
    named = {entry.move.version for entry in ledger.entries if entry.move.metrics}
    return sorted(version for version in named if version is not None)


def _chain(ledger: Ledger, now: int) -> list[str]:
    """What is wrong with the chain, in its order."""
    found: list[str] = []
    before: Move | None = None
    digest = digest_of_early(ledger.early)
    for entry in ledger.chain:
        move, number = entry.move, before.number if before else 0
        if move.number != number + 1:
            gone = (
                f"entry {number + 1} is"
                if move.number == number + 2
                else f"entries {number + 1} to {move.number - 1} are"
            )
            found.append(f"{place(move)}: {gone} missing before it")
        elif move.after != digest:
            what = place(before) if before else "an entry from before the chain"
            found.append(f"{place(move)} does not follow what is before it: {what} was changed, added or removed")
        if not entry.intact:
            found.append(f"{place(move)} was changed after it was written: its content does not match its digest")
        if before is not None and move.at < before.at:
            found.append(f"{place(move)} is dated {move.at}, before the entry that it follows ({before.at})")
        if milliseconds(move.id) > now + CLOCKS_DIFFER_MS or _milliseconds(move.at) != milliseconds(move.id):
            found.append(f"{place(move)} is dated {move.at}, and that is not when it was written")
        before, digest = move, entry.digest
    void = {name for entry in ledger.chain for name in entry.move.voids}
    for stray in ledger.strays:
        # One beside the last may have been left by a process that was killed: the next move says so.
        if stray.move.id not in void and before is not None and stray.move.number != before.number:
            found.append(f"{place(stray.move)} is in no place of the chain: another entry has its number")
    found += [f"{place(entry.move)} is younger than the chain and not in it" for entry in ledger.outside]
    return found


def _alias(ledger: Ledger) -> list[str]:
    """Whether the champion is the one that the ledger says."""
    line = [entry.move for entry in (*ledger.early, *ledger.chain)]
    valid = [move for move in line if ledger.outcomes[move.id] is not Outcome.CUT_SHORT]
    champion = _version(ledger.champion)
    if not valid:
        return [] if ledger.champion is None else [f"The champion is {champion}, and no entry made it so"]
    last = valid[-1]
    if ledger.outcomes[last.id] is Outcome.PENDING:
        return [
            f"{place(last)} is not carried out: the champion is still {champion}, not {_version(last.version)}. Run "
            f"gantry {last.kind} again"
        ]
    if ledger.outcomes[last.id] is Outcome.MOVED:
        return [f"The champion is {champion}, and by the last entry, {place(last)}, it is {_version(last.version)}"]
    return []


def _figures(ledger: Ledger, evidence: Mapping[str, Evidence]) -> tuple[int, list[str], list[str]]:
    """How many promotions have the figures that they went by, and what is wrong with others or not known of them."""
    good, wrong, unknown = 0, [], []
    for entry in (*ledger.early, *ledger.chain):
        move = entry.move
        if not move.metrics or move.version is None:
            continue
        said = evidence.get(move.version, Evidence(metrics=None, why="its files were not looked at"))
        if said.gone:
            unknown.append(f"{place(move)}: version {move.version} was deleted, so its figures cannot be compared")
        elif said.metrics != move.metrics:
            why = said.why or "metrics.json is another than the one it was promoted by"
            wrong.append(
                f"{place(move)}: the figures of version {move.version} are not those it was promoted by ({why})"
            )
        elif said.why:
            wrong.append(f"{place(move)}: version {move.version}: {said.why}")
        else:
            good += 1
    without = sum(not m.metrics for m in ledger.moves() if m.kind == "promote")
    if without:
        unknown.append(f"Promotions without figures to compare, forced or by an earlier edition: {without}")
    return good, wrong, unknown


def _unusual(ledger: Ledger) -> list[str]:
    found = []
    if ledger.early:
        where = f"the chain begins with {place(ledger.chain[0].move)}" if ledger.chain else "there is no chain yet"
        found.append(
            f"Entries from before the chain: {len(ledger.early)}. Nothing shows what happened to them before it; {where}"
        )
    for entry in (*ledger.early, *ledger.chain):
        if ledger.outcomes[entry.move.id] is Outcome.UNDONE:
            found.append(f"{place(entry.move)} was cut short, or the champion was moved by hand after it")
    return found


def _milliseconds(at: str) -> int | None:
    try:
        return round(datetime.datetime.fromisoformat(at).timestamp() * 1000)
    except ValueError:
        return None


def _version(version: str | None) -> str:
    return f"version {version}" if version else "none"
