"""Two sources compared: FID and KID with their intervals and protocol, all from one feature pass a source."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gan_core.data import PreparedDataset
from gan_core.metrics.features import Features, extract_features, real_features, source_count
from gan_core.metrics.frechet import Moments
from gan_core.metrics.inception import Extractor
from gan_core.metrics.intervals import Estimate, fid_estimate
from gan_core.metrics.kid import kid_count, kid_estimate
from gan_core.metrics.protocol import Figure, Protocol
from gan_core.metrics.sources import DatasetSplit, Sample, Samples, Source, Translated

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What one comparison of pictures with real ones gave."""

    fid: Estimate
    kid: Estimate | None
    """None where only the FID was asked for."""
    real: Features
    fake: Features
    protocol: Protocol
    """The FID's."""
    generator_digest: str
    seed: int | None

    def figures(self, baseline: Features | None = None) -> tuple[Figure, ...]:
        """The FID and, where there is one, the KID; ``baseline`` is the trivial answer's features."""
        trivial = fid_estimate(self.real, baseline, interval=False) if baseline is not None else None
        figures = [self._figure("fid", self.fid, self.protocol, trivial)]
        if self.kid is not None:
            trivial = kid_estimate(self.real, baseline, interval=False) if baseline is not None else None
            figures.append(self._figure("kid", self.kid, of_kid(self.protocol), trivial))
        return tuple(figures)

    def _figure(self, name: str, estimate: Estimate, protocol: Protocol, trivial: Estimate | None) -> Figure:
        low, high = estimate.interval
        return Figure(
            name=name,
            value=estimate.value,
            protocol=protocol,
            generator_digest=self.generator_digest,
            seed=self.seed,
            low=low,
            high=high,
            baseline=trivial.value if trivial is not None else None,
        )


def of_kid(protocol: Protocol) -> Protocol:
    """The KID's protocol beside the FID's."""
    real, fake = kid_count(protocol.real_count), kid_count(protocol.fake_count)
    return replace(protocol, metric="kid", real_count=real, fake_count=fake)


def compare(
    real: Source,
    fake: Source,
    *,
    extractor: Extractor,
    real_count: int | None = None,
    fake_count: int | None = None,
    full: bool = True,
    direction: str = "",
    warn: bool = True,
    batch_size: int | None = None,
    cache_dir: Path | str | None = None,
    progress: bool = False,
) -> Comparison:
    """FID and KID of two sources, with intervals.

    Args:
        full: with KID and intervals; the FID's value alone otherwise, which takes less memory and time.
        direction: of a translation, for the protocol.
        warn: of counts that bias the FID.

    Other arguments and errors as :func:`fid`.
    """
    real_n, fake_n = source_count(real, real_count), source_count(fake, fake_count)
    for source, n in ((real, real_n), (fake, fake_n)):
        if warn and n <= extractor.features:
            log.warning(
                "%s: %d pictures for %d features: the FID is biased upwards. Compare it only with figures of the same counts.",
                source.name,
                n,
                extractor.features,
            )
    how: dict[str, Any] = {"keep": full, "batch_size": batch_size, "progress": progress}
    if isinstance(real, DatasetSplit):
        of_real = real_features(real, real_n, extractor, cache_dir=cache_dir, **how)
    else:
        of_real = extract_features(real, real_n, extractor, **how)
    of_fake = extract_features(fake, fake_n, extractor, **how)
    return Comparison(
        fid=fid_estimate(of_real, of_fake, interval=full),
        kid=kid_estimate(of_real, of_fake, interval=True, device=extractor.device) if full else None,
        real=of_real,
        fake=of_fake,
        protocol=Protocol(
            metric="fid",
            extractor=extractor.digest,
            features=extractor.features,
            precision=extractor.precision,
            resize=extractor.resize,
            real_count=of_real.n,
            fake_count=of_fake.n,
            split=real.split,
            dataset_digest=real.digest(real_n),
            direction=direction,
            unreadable=len(real.unreadable) + len(fake.unreadable),
        ),
        generator_digest=fake.digest(fake_n),
        seed=fake.seed if isinstance(fake, (Samples, Translated)) else None,
    )


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
    comparison = compare(
        real,
        fake,
        extractor=extractor,
        real_count=real_count,
        fake_count=fake_count,
        full=False,
        batch_size=batch_size,
        cache_dir=cache_dir,
        progress=progress,
    )
    return comparison.figures()[0]


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
        batch_size: see :func:`fid`.
        cache_dir: see :func:`fid`.
        progress: see :func:`fid`.
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
    """Moments of real features, from the cache where they have been computed before (see :func:`real_features`).

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
    how: dict[str, Any] = {"cache_dir": cache_dir, "batch_size": batch_size, "progress": progress}
    return real_features(real, source_count(real, count), extractor, keep=False, **how).moments


def moments(
    source: Source, count: int, extractor: Extractor, *, batch_size: int | None = None, progress: bool = False
) -> Moments:
    """Moments of the features of ``count`` pictures of ``source``."""
    return extract_features(source, count, extractor, keep=False, batch_size=batch_size, progress=progress).moments
