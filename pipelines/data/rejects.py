"""Rejects: the pictures that ingestion does not use, and limits on their number."""

import csv
import io
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gan_core.errors import DataError
from gan_core.files import write_text
from pipelines.data.readers.base import Reject, printable_name

log = logging.getLogger(__name__)

DUPLICATE = "duplicate"
"""Reason of a picture that equals another one."""
HIDDEN_LABEL = "hidden-label"
"""Reason of a picture in a split whose labels are not published. All other reasons mean an unusable picture."""
DECODER_FAILURES = ("too-slow", "crashed")
"""Reasons of a picture that ended the process that decodes it."""
_MIN_DECODER_FAILURES = 10
"""Number of decoder failures that every dataset is allowed."""


@dataclass(frozen=True)
class RejectLimits:
    """Limits on rejects, as shares of all pictures in [0, 1]."""

    unusable: float
    """``ingest.max_reject_share``: limit on unusable pictures."""
    duplicates: float
    """``ingest.max_duplicate_share``: limit on duplicates."""


def max_decoder_failures(total: int, share: float) -> int:
    """Number of decoder failures that are allowed among ``total`` pictures, for ``share``, the ``ingest.max_reject_share``."""
    return max(_MIN_DECODER_FAILURES, int(share * total))


class UnusableError(DataError):
    """No picture can be used, or too many cannot. ``why`` says so with examples, for a caller that removes the list."""

    why = ""

    @classmethod
    def listed(cls, why: str, pictures: Sequence[Reject], place: Path, remedy: str) -> "UnusableError":
        """The error ``why``, about ``pictures``, which are listed at ``place``."""
        error = cls(f"{why} {place} lists them. {remedy}")
        examples = [f"{printable_name(one.source)} ({(one.detail or one.reason).rstrip('.')})" for one in pictures[:5]]
        error.why = f"{why} For example: {'; '.join(examples)}."
        return error


def check_decoder_failures(rejects: Sequence[Reject], most: int, raw: Path) -> None:
    """Raise DataError if there are more than ``most`` decoder failures (``rejects``): each of them may take minutes."""
    if len(rejects) > most:
        examples = "; ".join(f"{reject.source} ({reject.reason}: {reject.detail})" for reject in rejects[:5])
        raise DataError(
            f"{raw}: ingestion stops because the decoder failed on {len(rejects)} pictures: {examples}. They may be malicious, "
            "or the machine lacks memory. Remove them, or raise ingest.max_reject_share in params.yaml."
        )


def check_rejects(rejects: Sequence[Reject], total: int, limits: RejectLimits, out: Path, raw: Path) -> None:
    """Raise UnusableError, and write ``OUT.rejects.csv``, if rejects or duplicates among ``total`` pictures exceed the limits.

    Pictures with hidden labels do not count.
    """
    everything = rejects
    rejects = [reject for reject in everything if reject.reason != HIDDEN_LABEL]
    total -= len(everything) - len(rejects)
    list_path = out.with_name(f"{out.name}.rejects.csv")
    doubled = [reject for reject in rejects if reject.reason == DUPLICATE]
    damaged = [reject for reject in rejects if reject.reason != DUPLICATE]
    flaws = [
        (
            found,
            f"{len(found)} of {total} pictures ({len(found) / total:.2%}) {what}, above {setting} ({most:.2%}): "
            f"{_reasons(found)}.",
        )
        for found, most, what, setting in (
            (damaged, limits.unusable, "are unusable", "ingest.max_reject_share"),
            (doubled, limits.duplicates, "are duplicates", "ingest.max_duplicate_share"),
        )
        if len(found) > most * total
    ]
    if not flaws and len(rejects) < total:
        list_path.unlink(missing_ok=True)
        if rejects:
            log.warning("%s: %d of %d pictures are not used (%s).", raw, len(rejects), total, _reasons(rejects))
        if differing := sum("another label" in reject.detail for reject in doubled):
            log.warning("%s: %d of the duplicates have another label than the picture that is kept.", raw, differing)
        return
    write_text(list_path, rejects_table(everything))
    if len(rejects) == total:
        found, why = rejects, f"{raw} has no usable pictures: {_reasons(rejects)}."
        remedy = "Repair the files, or add others."
    else:
        found, flaw = flaws[0]
        why, remedy = f"{raw}: {flaw}", "Repair or remove them, or raise the limit in params.yaml."
    raise UnusableError.listed(why, found, list_path, remedy)


def _reasons(rejects: Sequence[Reject]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in Counter(r.reason for r in rejects).most_common(5))


def rejects_table(rejects: Sequence[Reject]) -> str:
    """The rejects as CSV with the columns path, reason and detail."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "reason", "detail"])
    # A picture without a row in a label table may have a name that is not UTF-8; it gets no further than here.
    writer.writerows([printable_name(reject.source), reject.reason, reject.detail] for reject in rejects)
    return text.getvalue()
