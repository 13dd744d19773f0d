"""Compare two sources of pictures: figures with intervals and protocol, from one feature pass per source."""

import logging
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from gan_core.data import PreparedDataset
from gan_core.files import sha256_json
from gan_core.metrics.features import MAX_ROWS, Features, extract_features, real_features, resolve_count
from gan_core.metrics.frechet import Moments
from gan_core.metrics.inception import Extractor
from gan_core.metrics.inception_score import MIN_PICTURES, VERSION, class_layer, inception_score
from gan_core.metrics.intervals import Estimate, fid_estimate, fid_infinity_estimate, fid_infinity_too_few
from gan_core.metrics.kid import kid_count, kid_estimate
from gan_core.metrics.neighbours import NAMES, Neighbours, neighbour_count, neighbours, too_few
from gan_core.metrics.protocol import Figure, Protocol
from gan_core.metrics.sources import DatasetSplit, Sample, Samples, Source, Translations

log = logging.getLogger(__name__)

ALL = ("fid", "kid", *NAMES, "fid_infinity", "inception_score")
"""All figures of a comparison, in the order of the report."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Result of comparing pictures with real ones."""

    estimates: dict[str, Estimate]
    """By name, in the order of the report: the FID first. Only the FID if no more is requested."""
    omitted: dict[str, str]
    """Figures that were requested and cannot be measured, with the reason."""
    neighbours: Neighbours | None
    """Nearest neighbours, from which precision, recall, density and coverage come."""
    real: Features
    fake: Features
    protocol: Protocol
    """Protocol of the FID."""
    generator_digest: str
    seed: int | None
    others: tuple[Figure, ...] = ()
    """Figures of the generated pictures alone: the Inception score."""

    def figures(self, baseline: Features | None = None) -> tuple[Figure, ...]:
        """All figures, in the order of ``estimates``. ``baseline``: features of the unchanged input."""
        trivial: dict[str, Estimate] = {}
        if baseline is not None:
            trivial = feature_estimates(self.real, baseline, interval=False, full="kid" in self.estimates)[0]
        figures = tuple(
            Figure(
                name=name,
                value=estimate.value,
                protocol=self.protocol_of(name),
                generator_digest=self.generator_digest,
                seed=self.seed,
                low=estimate.interval[0],
                high=estimate.interval[1],
                baseline=trivial[name].value if name in trivial else None,
                jackknife=estimate.leave_out_values,
                higher_is_better=name in NAMES,
            )
            for name, estimate in self.estimates.items()
        )
        return figures + self.others

    def protocol_of(self, name: str) -> Protocol:
        """The protocol of a figure. Some use a random subset of many pictures."""
        used = {"fid": lambda n: n, "kid": kid_count, "fid_infinity": lambda n: min(n, MAX_ROWS)}
        count = used.get(name, neighbour_count)
        # The kept rows are at most MAX_ROWS, from which a figure takes its subset.
        real, fake = (count(n) for n in (self.protocol.real_count, self.protocol.fake_count))
        return replace(self.protocol, metric=name, real_count=real, fake_count=fake)


def compare(
    real: Source,
    fake: Source,
    *,
    extractor: Extractor,
    real_count: int | None = None,
    fake_count: int | None = None,
    full: bool = True,
    wanted: Collection[str] = ALL,
    of_real: Features | None = None,
    direction: str = "",
    warn: bool = True,
    batch_size: int | None = None,
    cache_dir: Path | str | None = None,
    progress: bool = False,
) -> Comparison:
    """Every figure of two sources that features alone can give, with intervals.

    They are: FID, KID, precision, recall, density, coverage, the FID of infinitely many pictures, and the Inception score.

    Args:
        full: whether to measure all of ``wanted``; if False, measure only the value of the FID, in less memory and time.
        wanted: names of figures. The FID is always measured, and precision, recall, density and coverage all or none.
        of_real: the features of ``real``, with rows, if they were extracted before.
        direction: direction of a translation, for the protocol.
        warn: whether to warn about counts that bias the FID.

    For the other arguments and the errors see :func:`fid`.
    """
    real_n, fake_n = resolve_count(real, real_count), resolve_count(fake, fake_count)
    for source, n in ((real, real_n), (fake, fake_n)):
        if warn and n <= extractor.features:
            log.warning(
                "%s: %d pictures are few for %d features, so the FID is biased upwards. Compare it only with FIDs of the same "
                "counts.",
                source.name,
                n,
                extractor.features,
            )
    how: dict[str, Any] = {"keep": full, "batch_size": batch_size, "progress": progress}
    if of_real is not None:
        pass
    elif isinstance(real, DatasetSplit):
        of_real = real_features(real, real_n, extractor, cache_dir=cache_dir, **how)
    else:
        of_real = extract_features(real, real_n, extractor, **how)
    of_fake = extract_features(fake, fake_n, extractor, **how)
    estimates, omitted, near = feature_estimates(
        of_real, of_fake, interval=full, full=full, wanted=wanted, device=extractor.device
    )
    protocol = Protocol(
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
    )
    generator_digest = fake.digest(fake_n)
    seed = fake.seed if isinstance(fake, (Samples, Translations)) else None
    others: tuple[Figure, ...] = ()
    if full and "inception_score" in wanted:
        score = _inception_score(of_fake, protocol, generator_digest, seed)
        if isinstance(score, str):
            omitted["inception_score"] = score
        else:
            others = (score,)
    return Comparison(
        estimates=estimates,
        omitted=omitted,
        neighbours=near,
        real=of_real,
        fake=of_fake,
        protocol=protocol,
        generator_digest=generator_digest,
        seed=seed,
        others=others,
    )


def feature_estimates(
    real: Features,
    fake: Features,
    *,
    interval: bool,
    full: bool,
    wanted: Collection[str] = ALL,
    device: torch.device | None = None,
) -> tuple[dict[str, Estimate], dict[str, str], Neighbours | None]:
    """Every figure that features alone can give.

    Args:
        real: features of real pictures; with rows, if ``full``.
        fake: features of the pictures to measure, likewise.
        interval: whether to estimate intervals, too. FID-infinity is measured only with them.
        full: whether to measure more than the FID.
        wanted: see :func:`compare`.
        device: where KID and neighbours are computed; None means the CPU.

    Returns:
        Estimates by name, the FID first; the figures that cannot be measured, with the reason; the nearest neighbours.
    """
    estimates = {"fid": fid_estimate(real, fake, interval=interval)}
    omitted: dict[str, str] = {}
    near: Neighbours | None = None
    if not full:
        return estimates, omitted, near
    if "kid" in wanted:
        estimates["kid"] = kid_estimate(real, fake, interval=interval, device=device)
    few = too_few(len(real.kept), len(fake.kept))
    if set(NAMES).isdisjoint(wanted):
        pass
    elif few:
        omitted |= dict.fromkeys(NAMES, few)
    else:
        near = neighbours(real, fake, interval=interval, device=device)
        estimates |= near.estimates
    few = fid_infinity_too_few(real.moments.features, len(fake.kept))
    if "fid_infinity" not in wanted:
        pass
    elif few:
        omitted["fid_infinity"] = few
    elif interval:
        estimates["fid_infinity"] = fid_infinity_estimate(real, fake, estimates["fid"])
    return estimates, omitted, near


def _inception_score(fake: Features, protocol: Protocol, generator_digest: str, seed: int | None) -> Figure | str:
    """The Inception score, or why it cannot be measured."""
    layer = class_layer(protocol.features)
    if isinstance(layer, str):
        return layer
    if len(fake.kept) < MIN_PICTURES:
        return f"it needs at least {MIN_PICTURES} generated pictures, and there are {len(fake.kept)}"
    value, (low, high) = inception_score(fake, layer)
    return Figure(
        name="inception_score",
        value=value,
        # It compares with no real pictures.
        protocol=replace(
            protocol,
            metric="inception_score",
            extractor=sha256_json([protocol.extractor, layer.digest, VERSION]),
            real_count=0,
            fake_count=len(fake.kept),
            split="",
        ),
        generator_digest=generator_digest,
        seed=seed,
        low=low,
        high=high,
        baseline=1.0,
        higher_is_better=True,
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
        real: the real pictures; moments are cached if this is a split of a prepared dataset.
        fake: the pictures to measure.
        extractor: from ``load_inception``.
        real_count: number of real pictures, a fixed random subset; None uses all.
        fake_count: number of pictures to measure, as ``real_count``; required for a generator.
        batch_size: pictures per batch; None uses the extractor's default. Changes the FID by rounding only.
        cache_dir: folder for moments; None uses the user's cache.
        progress: whether to show a progress bar on stderr.

    Raises:
        DataError: a source has fewer pictures than requested, or too many of its pictures cannot be read.
        SettingsError: a count is below 2, or is missing for a generator.
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
    """FID of ``count`` generated pictures against a split of a prepared dataset.

    Args:
        sample: deterministic function from (n, seed) to uint8 (n, C, H, W). It is called for 1024 pictures at a time,
            whatever the batch size: first with ``seed`` itself, then with seeds derived from it.
        dataset: the prepared dataset.
        split: the split that the real pictures come from.
        count: number of generated pictures.
        seed: seed of the generated pictures.
        extractor: from ``load_inception``. With precision bf16 the figure's protocol is not ``publishable``.
        generator_digest: digest of the generator, for the figure.
        real_count: number of real pictures; None means ``count``, or all if there are fewer.
        batch_size: see :func:`fid`.
        cache_dir: see :func:`fid`.
        progress: see :func:`fid`.
    """
    real = DatasetSplit(dataset, split)
    if real_count is None:
        real_count = min(count, real.available())
        if real_count < count:
            log.info("Comparing all %d pictures of %s with %d generated ones.", real_count, real.name, count)
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
    """Moments of the features of real pictures, cached (see :func:`real_features`).

    Args:
        dataset: the prepared dataset.
        split: the split that the pictures come from.
        extractor: from ``load_inception``.
        count: number of pictures, a fixed random subset; None uses all.
        cache_dir: folder for moments; None uses ``moments`` in the user's cache.
        batch_size: pictures per batch; None uses the extractor's default.
        progress: whether to show a progress bar on stderr.

    Raises:
        DataError: the split does not exist, or has fewer pictures than ``count``.
    """
    real = DatasetSplit(dataset, split)
    how: dict[str, Any] = {"cache_dir": cache_dir, "batch_size": batch_size, "progress": progress}
    return real_features(real, resolve_count(real, count), extractor, keep=False, **how).moments


def moments(
    source: Source, count: int, extractor: Extractor, *, batch_size: int | None = None, progress: bool = False
) -> Moments:
    """Moments of the features of ``count`` pictures of ``source``."""
    return extract_features(source, count, extractor, keep=False, batch_size=batch_size, progress=progress).moments
