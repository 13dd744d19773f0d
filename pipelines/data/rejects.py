"""Pictures that ingestion puts aside: the list of them, and how many are too many."""

import csv
import io
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gan_core.errors import DataError
from gan_core.files import write_text
from pipelines.data.readers.base import Reject

log = logging.getLogger(__name__)

DUPLICATE = "duplicate"
"""The reason of a picture that is there once more."""
HIDDEN_LABEL = "hidden-label"
"""The reason of a picture of a split whose labels are not published. Every reason but these two is damage."""
ENDED = ("too-slow", "crashed")
"""The reasons of a picture that has ended its decoder's process."""
_ENDED_AT_LEAST = 10
"""So many pictures may do that in any data set, before ingestion gives up."""


@dataclass(frozen=True)
class Limits:
    """Shares of all pictures, in [0, 1], that may be put aside."""

    damage: float
    """``ingest.max_reject_share``: of those that cannot be used."""
    duplicates: float
    """``ingest.max_duplicate_share``: of those that are there twice, of which one stays."""


def most_ended(total: int, share: float) -> int:
    """How many of ``total`` pictures may end their decoder where the ``share`` of rejects is allowed."""
    return max(_ENDED_AT_LEAST, int(share * total))


def refuse_endless(rejects: Sequence[Reject], most: int, raw: Path) -> None:
    """Raise DataError where more than ``most`` pictures, the ``rejects``, have ended their decoder: each may take minutes."""
    if len(rejects) > most:
        told = "; ".join(f"{reject.source} ({reject.reason}: {reject.detail})" for reject in rejects[:5])
        raise DataError(
            f"{raw}: {len(rejects)} pictures have ended their decoder, and ingestion gives up: {told}. They may be made to do "
            "so, or the machine lacks memory. Remove them, or raise ingest.max_reject_share in params.yaml."
        )


def refuse_too_many(rejects: Sequence[Reject], total: int, limits: Limits, out: Path, raw: Path) -> None:
    """Raise DataError, with the list beside ``out``, when more of ``total`` pictures was put aside than the limits allow.

    Pictures with hidden labels are no part of these shares.
    """
    everything = rejects
    rejects = [reject for reject in everything if reject.reason != HIDDEN_LABEL]
    total -= len(everything) - len(rejects)
    list_path = out.with_name(f"{out.name}.rejects.csv")
    doubled = [reject for reject in rejects if reject.reason == DUPLICATE]
    damaged = [reject for reject in rejects if reject.reason != DUPLICATE]
    flaws = [
        f"{len(found)} of {total} pictures ({len(found) / total:.2%}) {what}, above {setting} ({most:.2%}): "
        f"{_reasons(found)}. The list: {list_path}. Mend or remove them, or raise the limit in params.yaml."
        for found, most, what, setting in (
            (damaged, limits.damage, "cannot be used", "ingest.max_reject_share"),
            (doubled, limits.duplicates, "are duplicates", "ingest.max_duplicate_share"),
        )
        if len(found) > most * total
    ]
    if not flaws and len(rejects) < total:
        list_path.unlink(missing_ok=True)
        if rejects:
            log.warning("%s: %d of %d pictures put aside (%s).", raw, len(rejects), total, _reasons(rejects))
        if differing := sum("another label" in reject.detail for reject in doubled):
            log.warning("%s: %d of the duplicates have another label than the picture that stays.", raw, differing)
        return
    write_text(list_path, rejects_table(everything))
    if len(rejects) == total:
        raise DataError(f"{raw} holds no usable picture: {_reasons(rejects)}. The list: {list_path}")
    raise DataError(f"{raw}: {flaws[0]}")


def _reasons(rejects: Sequence[Reject]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in Counter(r.reason for r in rejects).most_common(5))


def rejects_table(rejects: Sequence[Reject]) -> str:
    """The list as CSV: path, reason, detail."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "reason", "detail"])
    writer.writerows([reject.source, reject.reason, reject.detail] for reject in rejects)
    return text.getvalue()
