"""Extract features of pictures in one pass: moments for the FID, rows for KID and intervals. Real features are cached."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gan_core.array_file import map_array, write_array
from gan_core.cache import user_cache_dir
from gan_core.config import check
from gan_core.download.fetch import progress_bar
from gan_core.errors import DataError, SettingsError
from gan_core.files import sha256_json
from gan_core.metrics.frechet import Moments
from gan_core.metrics.inception import Extractor
from gan_core.metrics.sources import RealSource, Source, random_subset

log = logging.getLogger(__name__)

_logged: set[Path] = set()
"""Cache files whose use is already in the log."""

MAX_ROWS = 20_000
"""Maximum number of feature rows to keep: a fixed random subset of larger sets. 160 MB for 2048 features."""


@dataclass(frozen=True)
class Features:
    """Features of a set of pictures."""

    moments: Moments
    """Moments of the features of all pictures."""
    rows: np.ndarray | None = None
    """float32 (k, features) in the order of the pictures, with k at most :data:`MAX_ROWS`; None if not requested."""

    @property
    def n(self) -> int:
        """Number of pictures."""
        return self.moments.n

    @property
    def kept(self) -> np.ndarray:
        """The rows. Raises SettingsError if they were not requested."""
        if self.rows is None:
            raise SettingsError(
                "This figure needs rows of features, but only moments were kept. Extract features with keep=True."
            )
        return self.rows

    @property
    def complete(self) -> bool:
        """Whether every picture has a row."""
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
    """Features of ``count`` pictures of ``source``. Unreadable pictures are left out.

    Args:
        source: the pictures.
        count: number of pictures.
        extractor: from ``load_inception``.
        keep: whether to keep rows in addition to moments.
        batch_size: pictures per batch; None uses the extractor's default.
        progress: whether to show a progress bar on stderr.

    Raises:
        DataError: the source returns a different number of pictures.
    """
    rows = np.empty((min(count, MAX_ROWS), extractor.features), np.float32) if keep else None
    moments = Moments(extractor.features)
    _extract_batches(source, count, extractor, moments.update, rows, batch_size=batch_size, progress=progress)
    if rows is not None:  # unreadable pictures leave the last rows empty
        rows = rows[: np.searchsorted(random_subset(count, len(rows)), moments.n)]
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
    """Features of ``count`` real pictures, read from the cache if it holds them.

    The cache key covers everything that features depend on: dataset digest, split, count, extractor digest and resize.
    A damaged file is computed again, with a warning. Moments and rows (a memory map) are separate files. One pass writes
    both, so that an evaluation reuses the pass that training has made for its FIDs.

    Args:
        real: a split of a prepared dataset.
        count: number of pictures, a fixed random subset.
        extractor: from ``load_inception``.
        keep: whether to return rows in addition to moments.
        cache_dir: folder of the cache; None uses ``moments`` in the user's cache.
        batch_size: pictures per batch; None uses the extractor's default.
        progress: whether to show a progress bar on stderr.
    """
    key = {**real.key, "count": count, "extractor": extractor.digest, "resize": extractor.resize}
    stem = (Path(cache_dir) if cache_dir else user_cache_dir() / "moments") / sha256_json(key)[:32]
    of_moments, of_rows = stem.with_suffix(".npz"), stem.with_suffix(".npy")
    shape = (min(count, MAX_ROWS), extractor.features)
    found = _read(of_moments, lambda: _moments_at(of_moments, key, count, extractor))
    rows = _read(of_rows, lambda: map_array(of_rows, shape, np.float32)) if keep else None
    if found is not None and (rows is not None or not keep):
        if of_moments not in _logged:  # log it once: training with fid_every reads the file many times
            log.info("Reading moments of %d real pictures (%s) from the cache %s.", count, real.name, of_moments)
            _logged.add(of_moments)
        return Features(found, rows)
    moments = Moments(extractor.features)
    with write_array(of_rows, shape, np.float32) as writable:
        _extract_batches(real, count, extractor, moments.update, writable, batch_size=batch_size, progress=progress)
    if found is None:
        moments.save(of_moments, key)
    # Cached moments are kept even if only rows were missing: a different batch size changes the last digits.
    return Features(found or moments, map_array(of_rows, shape, np.float32) if keep else None)


def resolve_count(source: Source, wanted: int | None) -> int:
    """Number of pictures to use from ``source``: ``wanted``, or all of them if ``wanted`` is None.

    Raises:
        DataError: the source has fewer pictures than ``wanted``.
        SettingsError: the number is below 2, or is missing for a generator.
    """
    available = source.available()
    if wanted is None:
        check(available is not None, f"{source.name}: set the number of pictures to generate.")
        wanted = available or 0
    check(
        wanted >= 2,
        f"{source.name}: {wanted} {'picture is' if wanted == 1 else 'pictures are'} too few to measure. Use 2 or more.",
    )
    if available is not None and available < wanted:
        raise DataError(
            f"{source.name} has {available} {'picture' if available == 1 else 'pictures'}, fewer than the {wanted} requested. "
            + (f"Request at most {available}." if available > 1 else "A measurement needs 2 or more.")
        )
    return wanted


def check_real_count(setting: str, wanted: int, split: str, available: int) -> None:
    """Raise SettingsError if ``setting`` requests more real pictures than ``split`` has."""
    check(
        wanted <= available,
        f"{setting}: requests {wanted} real pictures, but the {split} split has {available}. Set it to {available} or less.",
    )


def _extract_batches(
    source: Source,
    count: int,
    extractor: Extractor,
    take: Callable[[Any], None],
    rows: np.ndarray | None,
    *,
    batch_size: int | None,
    progress: bool,
) -> None:
    """Run ``count`` pictures through the network. Pass all features to ``take``, and copy those to keep into ``rows``."""
    kept = random_subset(count, len(rows)) if rows is not None else np.empty(0, int)
    done = 0
    bar = progress_bar(f"features: {source.name}", count, unit="img") if progress else None
    try:
        for inputs in source.batches(count, batch_size or extractor.batch_size, extractor.prepare):
            features = extractor.extract(inputs)
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
        raise DataError(f"{source.name} returned {done} pictures, but {count} were requested.")


def _read(path: Path, read: Callable[[], Any]) -> Any:
    """The result of ``read``; None if ``path`` does not exist or, with a warning, if it cannot be used."""
    if not path.exists():
        return None
    try:
        return read()
    except DataError as error:
        log.warning("Computing cached features again, because the file cannot be used: %s", error)
        return None


def _moments_at(path: Path, key: dict[str, Any], count: int, extractor: Extractor) -> Moments:
    found, about = Moments.load_with_metadata(path)
    if about != key or found.n != count or found.features != extractor.features:
        raise DataError(f"{path} belongs to other pictures: {about}.")
    return found
