"""Prepare pictures in any of the supported layouts for a generator that translates, to measure it on them."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gan_core.data import PreparedDataset
from gan_core.errors import DataError
from gan_core.families import FAMILIES, ImageShape
from gan_core.metrics.sources import MAX_UNREADABLE_SHARE
from pipelines.data import archives
from pipelines.data.ingest import REJECTS_FILE, ingest
from pipelines.data.rejects import DUPLICATE, UnusableError
from pipelines.settings.ingest import IngestSettings, Pairs, Side


@dataclass(frozen=True, kw_only=True)
class PreparedPictures:
    """Pictures that were prepared for a generator."""

    dataset: PreparedDataset
    left_out: dict[str, str]
    """File to reason, for the pictures that cannot be used."""
    duplicates: int
    """Number of pictures that equal another one and are left out."""


def prepare_for(
    family: str,
    shape: ImageShape,
    pictures: Path,
    scratch: Path,
    *,
    attributes: Sequence[str] = (),
    pairs: Pairs = "folders",
    condition_side: Side = "first",
    encoding: str | None = None,
) -> PreparedPictures:
    """Prepare the pictures of a folder or archive in the shape and the kind of data that a generator was trained on.

    They are fitted as ``ingest.fit: crop`` does. A generator whose sources are derived from the pictures (greyscale, edges,
    mask, lowres) gets sources derived in the same way; ``pairs`` and ``condition_side`` are for other paired data.

    Args:
        family: the generator's family.
        shape: the generator's shape.
        pictures: a folder, zip or tar; raw data of ``gantry data`` too.
        scratch: an existing folder for the prepared data, which is read from there.
        attributes: names of the generator's attributes.
        pairs: ``folders`` or ``side-by-side``, see ``ingest.pairs``.
        condition_side: see ``ingest.condition_side``.
        encoding: of the file names in an archive that does not state it.

    Raises:
        DataError: the layout does not fit the family, or more than one picture and more than 1 % of them cannot be used.
    """
    (kind, *_) = sorted(FAMILIES[family].kinds)
    settings: dict[str, Any] = {"kind": kind}
    if kind == "paired":
        settings |= {"pairs": shape.derived or pairs, "condition_channels": shape.condition_channels}
        settings |= {} if shape.derived else {"condition_side": condition_side}
    elif shape.attributes:
        settings |= {"attributes": tuple(attributes)}
    chosen = IngestSettings(
        **settings,
        size=(shape.height, shape.width),
        channels=shape.channels,
        max_reject_share=1.0,  # checked below: one picture is always allowed to be broken
        max_duplicate_share=1.0,
    )
    raw, prepared = pictures, scratch / "prepared"
    if not pictures.is_dir():
        if not archives.looks_like_archive(pictures) or not archives.is_archive(pictures):
            raise DataError(
                f"{pictures} is neither a folder nor a zip or tar. Give a folder or an archive of pictures."
            )
        raw = scratch / "unpacked"
        archives.unpack(pictures, raw, pictures.name, encoding=encoding)
    try:
        info = ingest(raw, prepared, chosen, name=pictures.name)
    except DataError as error:
        # The list of the pictures, and the folder of an unpacked archive, are removed with the scratch folder.
        why = error.why if isinstance(error, UnusableError) else str(error)
        reason = why.replace(str(raw.resolve()), str(pictures))
        raise DataError(
            f"{pictures} cannot be measured with {family}, which needs {kind} data. {reason} Or give prepared data."
        ) from error
    left_out, duplicates = {}, 0
    with open(prepared / REJECTS_FILE, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["reason"] == DUPLICATE:
                duplicates += 1
            else:
                left_out[row["path"]] = ": ".join(filter(None, (row["reason"], row["detail"])))
    total = sum(info.splits.values()) + len(left_out)
    if len(left_out) > max(1, MAX_UNREADABLE_SHARE * total):
        examples = "; ".join(f"{name} ({why.rstrip('.')})" for name, why in [*left_out.items()][:5])
        raise DataError(
            f"{pictures}: {len(left_out)} of {total} pictures cannot be used, more than {MAX_UNREADABLE_SHARE:.0%} and more "
            f"than one: {examples}. Repair or remove these files, and run again."
        )
    dataset = PreparedDataset(prepared, scratch / "decoded")
    return PreparedPictures(dataset=dataset, left_out=left_out, duplicates=duplicates)
