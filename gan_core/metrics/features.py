"""Features of pictures from one pass: their moments for the FID, and rows for what needs more; real ones are cached."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gan_core.config import check
from gan_core.data import user_cache_dir
from gan_core.disk import new_array
from gan_core.download.fetch import progress_bar
from gan_core.errors import DataError
from gan_core.files import replacing, sha256_json
from gan_core.metrics.frechet import Moments
from gan_core.metrics.inception import Extractor
from gan_core.metrics.sources import RealSource, Source, subset

log = logging.getLogger(__name__)

_told: set[Path] = set()
"""Cached moments that were named in the log."""

KEPT = 20_000
"""Rows of features that are kept, at most: a fixed fair draw where there are more. 160 MB of 2048 features."""


@dataclass(frozen=True)
class Features:
    """What is known of the features of some pictures."""

    moments: Moments
    """Of all of them."""
    rows: np.ndarray | None = None
    """float32 (k, features): of all of them, or of :data:`KEPT` in their order; None where they were not asked for."""

    @property
    def n(self) -> int:
        """How many pictures."""
        return self.moments.n

    @property
    def complete(self) -> bool:
        """Whether every picture has its row."""
        return self.rows is not None and len(self.rows) == self.n


def extract_features(
    source: Source,
    count: int,
    extractor: Extractor,
    *,
    keep: bool,
    batch_size: int | None = None,
    progress: bool = False,
) -> Features:
    """Features of ``count`` pictures of ``source``, less those that it finds to be unreadable.

    Args:
        source: the pictures.
        count: how many of them.
        extractor: from ``load_inception``.
        keep: keep rows, not moments alone.
        batch_size: pictures at a time; None leaves it to the extractor.
        progress: show a bar with rate and estimate on stderr.

    Raises:
        DataError: the source gave another number of pictures.
    """
    rows = np.empty((min(count, KEPT), extractor.features), np.float32) if keep else None
    moments = Moments(extractor.features)
    _pass(source, count, extractor, moments.update, rows, batch_size=batch_size, progress=progress)
    if rows is not None:  # fewer came than were asked for where some could not be read
        rows = rows[: np.searchsorted(subset(count, len(rows)), moments.n)]
    return Features(moments, rows)


def real_features(
    real: RealSource,
    count: int,
    extractor: Extractor,
    *,
    keep: bool,
    cache_dir: Path | str | None = None,
    batch_size: int | None = None,
    progress: bool = False,
) -> Features:
    """Features of ``count`` real pictures, from the cache where they have been computed before.

    The cache's key is everything they depend on: dataset digest, split, count, extractor digest, resize. A file that is
    damaged is computed again, with a message. Moments are one file there, rows (a memory map) another; a pass keeps both,
    so that an evaluation finds the rows of what training was measured against.

    Args:
        real: a split of a prepared dataset.
        count: how many of its pictures, a fixed fair draw.
        extractor: from ``load_inception``.
        keep: rows are wanted, not moments alone.
        cache_dir: None is ``moments`` in the user's cache.
        batch_size: pictures at a time; None leaves it to the extractor.
        progress: show a bar with rate and estimate on stderr.
    """
    key = {**real.key, "count": count, "extractor": extractor.digest, "resize": extractor.resize}
    stem = (Path(cache_dir) if cache_dir else user_cache_dir() / "moments") / sha256_json(key)[:32]
    of_moments, of_rows = stem.with_suffix(".npz"), stem.with_suffix(".npy")
    shape = (min(count, KEPT), extractor.features)
    found = _read(of_moments, lambda: _moments_at(of_moments, key, count, extractor))
    rows = _read(of_rows, lambda: _rows_at(of_rows, shape)) if keep else None
    if found is not None and (rows is not None or not keep):
        if of_moments not in _told:  # once: a run that is measured as it trains reads them again and again
            log.info("Real moments (%s, %d pictures) come from the cache %s.", real.name, count, of_moments)
            _told.add(of_moments)
        return Features(found, rows)
    moments = Moments(extractor.features)
    with replacing(of_rows) as temporary:
        writable = new_array(temporary, shape, np.float32)
        _pass(real, count, extractor, moments.update, writable, batch_size=batch_size, progress=progress)
        writable.flush()
        del writable
    if found is None:
        moments.save(of_moments, key)
    # Those in the cache stay: another batch size would round the figure to other last digits.
    return Features(found or moments, np.load(of_rows, mmap_mode="r") if keep else None)


def source_count(source: Source, wanted: int | None) -> int:
    """How many pictures to take of ``source``: ``wanted``, or all.

    Raises:
        DataError: it has fewer than that.
        SettingsError: fewer than 2, or no number where there is no "all".
    """
    available = source.available()
    if wanted is None:
        check(available is not None, f"{source.name}: say how many pictures to generate.")
        wanted = available or 0
    check(
        wanted >= 2,
        f"{source.name}: {wanted} {'picture is' if wanted == 1 else 'pictures are'} too few to measure; it takes 2 or more.",
    )
    if available is not None and available < wanted:
        raise DataError(
            f"{source.name} has {available} {'picture' if available == 1 else 'pictures'}, fewer than the {wanted} asked for. "
            + (f"Ask for {available} at most." if available > 1 else "It takes 2 or more to measure.")
        )
    return wanted


def check_count(setting: str, wanted: int, split: str, available: int) -> None:
    """Raise SettingsError, naming the setting, where it asks for more real pictures than ``split`` has."""
    check(
        wanted <= available,
        f"{setting}: asks for {wanted} real pictures, and the {split} split has {available}. Set it to {available} or less.",
    )


def _pass(
    source: Source,
    count: int,
    extractor: Extractor,
    take: Callable[[Any], None],
    rows: np.ndarray | None,
    *,
    batch_size: int | None,
    progress: bool,
) -> None:
    """Run ``count`` pictures through the network: all features to ``take``, those to be kept into ``rows``."""
    kept = subset(count, len(rows)) if rows is not None else np.empty(0, int)
    done = 0
    bar = progress_bar(f"features: {source.name}", count, unit="img") if progress else None
    try:
        for inputs in source.batches(count, batch_size or extractor.batch_size, extractor.prepare):
            features = extractor.features_of_prepared(inputs)
            take(features)
            if rows is not None:
                first, last = np.searchsorted(kept, (done, done + len(features)))
                rows[first:last] = features.cpu().numpy()[kept[first:last] - done]
            done += len(features)
            if bar is not None:
                bar.update(len(inputs))
    finally:
        if bar is not None:
            bar.close()
    if done + len(source.unreadable) != count:
        raise DataError(f"{source.name} gave {done} pictures where {count} were asked for.")


def _read(path: Path, read: Callable[[], Any]) -> Any:
    """What ``read`` finds at ``path``; None where there is nothing, or nothing usable, which the log says."""
    if not path.exists():
        return None
    try:
        return read()
    except DataError as error:
        log.warning("Cached moments are not usable and are computed again: %s", error)
        return None


def _moments_at(path: Path, key: dict[str, Any], count: int, extractor: Extractor) -> Moments:
    found, about = Moments.load_with_about(path)
    if about != key or found.n != count or found.features != extractor.features:
        raise DataError(f"{path} describes other pictures: {about}.")
    return found


def _rows_at(path: Path, shape: tuple[int, int]) -> np.ndarray:
    try:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"{path} does not hold features: {error}") from error
    if rows.shape != shape or rows.dtype != np.float32:
        raise DataError(f"{path} holds {rows.dtype} {rows.shape} where float32 {shape} is expected.")
    return rows
