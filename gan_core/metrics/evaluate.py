"""Moments of pictures, cached for real ones, and the FID of two sources with its protocol."""

import logging
from pathlib import Path

from gan_core.config import check
from gan_core.data import PreparedDataset, user_cache_dir
from gan_core.errors import DataError
from gan_core.fetch import progress_bar
from gan_core.files import sha256_json
from gan_core.metrics.frechet import Moments, frechet_distance
from gan_core.metrics.inception import Extractor
from gan_core.metrics.protocol import Figure, Protocol
from gan_core.metrics.sources import DatasetSplit, Sample, Samples, Source

log = logging.getLogger(__name__)


def fid(
    real: Source,
    fake: Source,
    *,
    extractor: Extractor,
    real_count: int | None = None,
    fake_count: int | None = None,
    batch_size: int | None = None,
    cache_dir: Path | str | None = None,
    progress: bool = False,
) -> Figure:
    """Fréchet Inception distance between two sources (Heusel et al. 2017).

    Args:
        real: the real pictures; moments of a split of a prepared dataset are cached.
        fake: the pictures to measure.
        extractor: from ``load_inception``.
        real_count: how many real pictures, a fixed fair draw of them; None takes all.
        fake_count: likewise; a generator has no "all".
        batch_size: pictures at a time; None leaves it to the extractor. Does not change the figure beyond rounding.
        cache_dir: where moments are cached; None is the user's cache.
        progress: show a bar with rate and estimate on stderr.

    Raises:
        DataError: a source has fewer pictures than asked for, or one cannot be read.
        SettingsError: a count below 2.
    """
    real_n, fake_n = _count(real, real_count), _count(fake, fake_count)
    for source, n in ((real, real_n), (fake, fake_n)):
        if n <= extractor.features:
            log.warning(
                "%s: %d pictures for %d features: the FID is biased upwards. Compare it only with figures of the same counts.",
                source.name,
                n,
                extractor.features,
            )
    real_digest = real.digest(real_n)
    if isinstance(real, DatasetSplit):
        of_real = _cached(real, real_n, extractor, cache_dir=cache_dir, batch_size=batch_size, progress=progress)
    else:
        of_real = moments(real, real_n, extractor, batch_size=batch_size, progress=progress)
    of_fake = moments(fake, fake_n, extractor, batch_size=batch_size, progress=progress)
    protocol = Protocol(
        metric="fid",
        extractor=extractor.digest,
        features=extractor.features,
        precision=extractor.precision,
        resize=extractor.resize,
        real_count=real_n,
        fake_count=fake_n,
        split=real.split,
        dataset_digest=real_digest,
    )
    return Figure(
        name="fid",
        value=frechet_distance(of_real, of_fake),
        protocol=protocol,
        generator_digest=fake.digest(fake_n),
        seed=fake.seed if isinstance(fake, Samples) else None,
    )


def fid_of_samples(
    sample: Sample,
    dataset: PreparedDataset,
    *,
    split: str,
    count: int,
    seed: int,
    extractor: Extractor,
    generator_digest: str,
    real_count: int | None = None,
    batch_size: int | None = None,
    cache_dir: Path | str | None = None,
    progress: bool = False,
) -> Figure:
    """FID-``count`` of a generator against a split of a prepared dataset.

    Args:
        sample: (n, seed) to uint8 (n, C, H, W), equal for equal arguments. Asked for 1024 pictures at a time whatever the
            batch size: the first with ``seed`` itself, further ones with seeds derived from it.
        dataset: the real pictures.
        split: which of them.
        count: generated pictures.
        seed: names which pictures are generated.
        extractor: from ``load_inception``. With precision bf16 the protocol says so and is not ``publishable``.
        generator_digest: kept in the figure.
        real_count: real pictures; None takes ``count`` of them, or all when there are fewer.
        batch_size, cache_dir, progress: see :func:`fid`.
    """
    real = DatasetSplit(dataset, split)
    if real_count is None:
        real_count = min(count, real.available())
        if real_count < count:
            log.info("%s: has %d pictures; all are compared with the %d generated.", real.name, real_count, count)
    return fid(
        real,
        Samples(sample, seed=seed, digest=generator_digest),
        extractor=extractor,
        real_count=real_count,
        fake_count=count,
        batch_size=batch_size,
        cache_dir=cache_dir,
        progress=progress,
    )


def real_moments(
    dataset: PreparedDataset,
    split: str,
    extractor: Extractor,
    *,
    count: int | None,
    cache_dir: Path | str | None = None,
    batch_size: int | None = None,
    progress: bool = False,
) -> Moments:
    """Moments of real features, from the cache where they have been computed before.

    The cache's key is everything they depend on: dataset digest, split, count, extractor digest, resize. A file that is
    damaged is computed again, with a message.

    Args:
        dataset: the prepared dataset.
        split: which pictures.
        extractor: from ``load_inception``.
        count: how many of them, a fixed fair draw; None takes all.
        cache_dir: None is ``moments`` in the user's cache.
        batch_size: pictures at a time; None leaves it to the extractor.
        progress: show a bar with rate and estimate on stderr.

    Raises:
        DataError: no such split, or fewer pictures than ``count``.
    """
    real = DatasetSplit(dataset, split)
    return _cached(real, _count(real, count), extractor, cache_dir=cache_dir, batch_size=batch_size, progress=progress)


def moments(
    source: Source, count: int, extractor: Extractor, *, batch_size: int | None = None, progress: bool = False
) -> Moments:
    """Moments of the features of ``count`` pictures of ``source``."""
    result = Moments(extractor.features)
    bar = progress_bar(f"features: {source.name}", count, unit="img") if progress else None
    try:
        for inputs in source.batches(count, batch_size or extractor.batch_size, extractor.prepare):
            result.update(extractor.of_prepared(inputs))
            if bar is not None:
                bar.update(len(inputs))
    finally:
        if bar is not None:
            bar.close()
    if result.n != count:
        raise DataError(f"{source.name} gave {result.n} pictures where {count} were asked for.")
    return result


def _cached(
    real: DatasetSplit,
    count: int,
    extractor: Extractor,
    *,
    cache_dir: Path | str | None,
    batch_size: int | None,
    progress: bool,
) -> Moments:
    key = {
        "dataset": real.dataset.info.digest,
        "split": real.split,
        "count": count,
        "extractor": extractor.digest,
        "resize": extractor.resize,
    }
    path = (Path(cache_dir) if cache_dir else user_cache_dir() / "moments") / f"{sha256_json(key)[:32]}.npz"
    if path.exists():
        try:
            found, about = Moments.load_with_about(path)
            if about != key or found.n != count or found.features != extractor.features:
                raise DataError(f"{path} describes other pictures: {about}.")
            log.info("Real moments (%s, %d pictures) come from the cache %s.", real.name, count, path)
            return found
        except DataError as error:
            log.warning("Cached moments are not usable and are computed again: %s", error)
    found = moments(real, count, extractor, batch_size=batch_size, progress=progress)
    found.save(path, key)
    return found


def _count(source: Source, wanted: int | None) -> int:
    """How many pictures to take of ``source``."""
    available = source.available()
    if wanted is None:
        check(available is not None, f"{source.name}: say how many pictures to generate.")
        wanted = available or 0
    check(wanted >= 2, f"{source.name}: {wanted} pictures have no covariance; take 2 or more.")
    if available is not None and available < wanted:
        raise DataError(f"{source.name} has {available} pictures, fewer than the {wanted} asked for.")
    return wanted
