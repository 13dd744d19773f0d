"""Pictures that ingestion puts aside: the list of them, and how many are too many."""

import csv
import io
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from gan_core.errors import DataError
from gan_core.files import write_text
from pipelines.data.readers.base import Reject

log = logging.getLogger(__name__)


def refuse_too_many(rejects: Sequence[Reject], total: int, most: float, out: Path, raw: Path) -> None:
    """Raise DataError, with the list beside ``out``, when more than the share ``most`` of ``total`` pictures was put aside."""
    list_path = out.with_name(f"{out.name}.rejects.csv")
    share = len(rejects) / total
    if share <= most and len(rejects) < total:
        list_path.unlink(missing_ok=True)
        if rejects:
            log.warning("%s: %d of %d pictures put aside (%s).", raw, len(rejects), total, _reasons(rejects))
        return
    write_text(list_path, rejects_table(rejects))
    if len(rejects) == total:
        raise DataError(f"{raw} holds no usable picture: {_reasons(rejects)}. The list: {list_path}")
    raise DataError(
        f"{raw}: {len(rejects)} of {total} pictures ({share:.2%}) cannot be used, above ingest.max_reject_share "
        f"({most:.2%}): {_reasons(rejects)}. The list: {list_path}. Mend or remove them, or raise "
        f"the limit in params.yaml."
    )


def _reasons(rejects: Sequence[Reject]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in Counter(r.reason for r in rejects).most_common(5))


def rejects_table(rejects: Sequence[Reject]) -> str:
    """The list as CSV: path, reason, detail."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "reason", "detail"])
    writer.writerows([reject.source, reject.reason, reject.detail] for reject in rejects)
    return text.getvalue()
