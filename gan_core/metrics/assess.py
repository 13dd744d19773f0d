"""Everything that is measured of a generator, whatever it makes its pictures of, by the words of its data.

From noise: FID and KID. Of paired pictures: these of the translations against the real targets, L1, PSNR, SSIM, and of
colourisation how colourful they are. Between domains: FID and KID a direction and their mean, the error of going there and
back, and how often a classifier sees the domain that was asked for.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from typing import Protocol as Typed

import numpy as np
import torch
from torch import Tensor

from gan_core.colour import colourfulness
from gan_core.data import PreparedDataset
from gan_core.errors import DataError
from gan_core.metrics.domains import DomainClassifier
from gan_core.metrics.evaluate import Comparison, compare
from gan_core.metrics.features import real_features
from gan_core.metrics.inception import Extractor
from gan_core.metrics.intervals import mean_of, of_share, of_values
from gan_core.metrics.pairs import l1, psnr, ssim
from gan_core.metrics.protocol import Figure, Protocol
from gan_core.metrics.sources import DatasetSplit, Samples, Translate, Translated, Unchanged, as_answer

PAIRED = "condition -> image"
"""The direction of paired data."""


class Subject(Typed):
    """What is assessed: a generator, or a trainer's averaged one."""

    @property
    def translates(self) -> bool:
        """Whether it makes pictures of pictures."""

    @property
    def directions(self) -> tuple[tuple[int | None, int | None], ...]:
        """From which domain to which; an attribute has (None, its number)."""

    def sample(self, n: int, seed: int) -> Tensor:
        """Pictures made from noise: uint8 (n, C, H, W)."""

    @property
    def translate(self) -> Translate:
        """Pictures made of pictures."""


@dataclass(frozen=True)
class Assessment:
    """What was measured."""

    objective: Figure
    """The FID, or the mean of the directions': what search and promotion go by; lower is better."""
    figures: tuple[Figure, ...]
    """All figures, the objective first."""


def assess(
    subject: Subject,
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
    full: bool = True,
) -> Assessment:
    """Measure a generator against a split of a prepared dataset.

    Args:
        subject: a generator or a trainer: see :class:`Subject`.
        dataset: the data it was trained on.
        split: which real pictures.
        count: pictures to make from noise; at most so many of the split's to translate in each direction, all where there
            are fewer, a fixed fair draw otherwise.
        seed: names what is drawn at random.
        extractor: from ``load_inception``.
        generator_digest: kept in the figures.
        real_count: real pictures to compare with, in each direction; None takes ``count`` of them, or all when there are
            fewer. A domain that has fewer gives all.
        batch_size: pictures at a time; None leaves it to the extractor. Does not change a figure beyond rounding.
        cache_dir: for real features and the classifier; None is the user's cache.
        progress: show bars with rate and estimate on stderr.
        full: everything; otherwise the objective's value alone, for a search.

    Raises:
        DataError: no such split, or a domain with fewer than two pictures in it.
    """
    bench = _Bench(
        subject=subject,
        dataset=dataset,
        split=split,
        count=count,
        seed=seed,
        extractor=extractor,
        generator_digest=generator_digest,
        real_count=real_count,
        batch_size=batch_size,
        cache_dir=cache_dir,
        progress=progress,
        full=full,
    )
    if not subject.translates:
        return _from_noise(bench)
    return _of_pairs(bench) if dataset.info.kind == "paired" else _between_domains(bench)


@dataclass(frozen=True, kw_only=True)
class _Bench:
    """What every measurement of an assessment shares."""

    subject: Subject
    dataset: PreparedDataset
    split: str
    count: int
    seed: int
    extractor: Extractor
    generator_digest: str
    real_count: int | None
    batch_size: int | None
    cache_dir: Path | str | None
    progress: bool
    full: bool

    @property
    def how(self) -> dict[str, Any]:
        return {"batch_size": self.batch_size, "cache_dir": self.cache_dir, "progress": self.progress}

    def compare(
        self, real: DatasetSplit, fake: Samples | Translated, fake_count: int, direction: str = "", *, warn: bool = True
    ) -> Comparison:
        wanted = self.count if self.real_count is None else self.real_count
        # A generator from noise is held to the number that was asked for, as `fid_of_samples` is.
        exact = self.real_count is not None and not direction
        return compare(
            real,
            fake,
            extractor=self.extractor,
            real_count=wanted if exact else min(wanted, real.available()),
            fake_count=fake_count,
            full=self.full,
            direction=direction,
            warn=warn,
            **self.how,
        )

    def figure(
        self,
        name: str,
        value: float,
        interval: tuple[float, float] | tuple[None, None],
        count: int,
        *,
        direction: str = "",
        extractor: str = "",
        **more: Any,
    ) -> Figure:
        """A figure of pictures themselves, not of their Inception features."""
        protocol = Protocol(
            metric=name,
            extractor=extractor,
            features=0,
            precision="fp32" if extractor else "fp64",
            resize="",
            real_count=count,
            fake_count=count,
            split=self.split,
            dataset_digest=self.dataset.info.digest,
            direction=direction,
        )
        low, high = interval
        digest = self.generator_digest
        return Figure(
            name=name,
            value=value,
            protocol=protocol,
            generator_digest=digest,
            seed=self.seed,
            low=low,
            high=high,
            **more,
        )

    def mean(self, name: str, values: Sequence[Tensor], **more: Any) -> Figure:
        """A figure that is the mean of a value a picture."""
        whole = torch.cat(list(values)).double().numpy()
        return self.figure(name, float(whole.mean()), of_values(whole), len(whole), **more)


def _from_noise(bench: _Bench) -> Assessment:
    real = DatasetSplit(bench.dataset, bench.split)
    fake = Samples(bench.subject.sample, seed=bench.seed, digest=bench.generator_digest)
    figures = bench.compare(real, fake, bench.count).figures()
    return Assessment(figures[0], figures)


def _of_pairs(bench: _Bench) -> Assessment:
    dataset, split, info = bench.dataset, bench.split, bench.dataset.info
    real = DatasetSplit(dataset, split)
    count = min(bench.count, _at_least_two(real))
    targets, rows = dataset.pixels(split), real.chosen(count)
    values: dict[str, list[Tensor]] = {}
    metrics = {"l1": l1, "psnr": psnr, "ssim": ssim}

    def watch(given: Tensor, made: Tensor, first: int) -> None:
        target = torch.from_numpy(targets[rows[first : first + len(made)]])
        trivial = as_answer(given, info.channels, info.derived)
        for name, metric in metrics.items():
            values.setdefault(name, []).append(metric(made, target))
            values.setdefault(f"{name} unchanged", []).append(metric(trivial, target))
        if info.derived == "greyscale" and info.channels == 3:
            for kind, pictures in (("made", made), ("unchanged", trivial), ("real", target)):
                values.setdefault(f"colourfulness {kind}", []).append(colourfulness(pictures))

    comparison = bench.compare(real, _translated(bench, real, None, watch), count, PAIRED)
    if not bench.full:
        return Assessment(comparison.figures()[0], comparison.figures())
    unchanged = real_features(Unchanged(dataset, split), count, bench.extractor, keep=True, **bench.how)
    figures = list(comparison.figures(unchanged))
    for name in metrics:
        baseline = _mean(values[f"{name} unchanged"])
        figures.append(
            bench.mean(name, values[name], direction=PAIRED, baseline=baseline, higher_is_better=name != "l1")
        )
    if "colourfulness made" in values:
        baseline = _mean(values["colourfulness unchanged"])
        made, of_real = values["colourfulness made"], values["colourfulness real"]
        figures += [
            bench.mean("colourfulness", made, direction=PAIRED, baseline=baseline, higher_is_better=True),
            bench.mean("colourfulness_of_real", of_real, direction=PAIRED, higher_is_better=True),
        ]
    return Assessment(figures[0], tuple(figures))


@dataclass(frozen=True, kw_only=True)
class _Way:
    """A direction between domains, or the switching on of an attribute."""

    name: str
    source: DatasetSplit
    target: DatasetSplit
    to: int
    back: int
    """What is asked for to come back."""


def _between_domains(bench: _Bench) -> Assessment:
    ways = [_way(bench, source, to) for source, to in bench.subject.directions if to is not None]
    for way in ways:
        for side in (way.source, way.target):
            _at_least_two(side)
    domains = bench.dataset.info.kind != "unpaired"
    classifier = None
    if bench.full and domains:
        classifier = DomainClassifier(bench.dataset, device=bench.extractor.device, cache_dir=bench.cache_dir)
    comparisons: list[Comparison] = []
    figures: dict[str, list[Figure]] = {}
    for way in ways:
        count = min(bench.count, way.source.available())
        errors: list[Tensor] = []
        seen: list[Tensor] = []
        untouched: list[Tensor] = []

        def watch(
            given: Tensor,
            made: Tensor,
            first: int,
            way: _Way = way,
            errors: list[Tensor] = errors,
            seen: list[Tensor] = seen,
            untouched: list[Tensor] = untouched,
        ) -> None:
            errors.append(l1(bench.subject.translate(made, way.back, bench.seed, first=first), given))
            if classifier is not None:
                seen.append(classifier.says(made, way.to))
                untouched.append(classifier.says(given, way.to))

        fake = _translated(bench, way.source, way.to, watch)
        comparison = bench.compare(way.target, fake, count, way.name, warn=not comparisons)
        comparisons.append(comparison)
        baseline = None
        if bench.full:
            baseline = real_features(way.source, count, bench.extractor, keep=True, **bench.how)
        measured = list(comparison.figures(baseline))
        if bench.full:
            measured.append(bench.mean("cycle", errors, direction=way.name, baseline=0.0))
        if classifier is not None:
            measured.append(_share(bench, "accuracy", seen, classifier, way.name, baseline=_mean(untouched)))
        for figure in measured:
            figures.setdefault(figure.name, []).append(figure)
    means = _means(figures, comparisons)
    rest = [figure for of_name in figures.values() for figure in of_name]
    if classifier is not None:
        rest.append(_accuracy_of_real(bench, classifier, ways))
    # With one direction its figures are the means.
    whole = [*means, *rest] if len(ways) > 1 else rest
    return Assessment(whole[0], tuple(whole))


def _way(bench: _Bench, source: int | None, to: int) -> _Way:
    dataset, split, info = bench.dataset, bench.split, bench.dataset.info
    if info.attributes:
        # Pictures that lack it: what they become can be compared with the real ones that have it.
        lacking, having = (DatasetSplit(dataset, split, to, lacking=lacking) for lacking in (True, False))
        name = info.attributes[to]
        return _Way(name=f"without {name} -> {name}", source=lacking, target=having, to=to, back=to)
    assert source is not None
    name = f"{info.classes[source]} -> {info.classes[to]}"
    ends = DatasetSplit(dataset, split, source), DatasetSplit(dataset, split, to)
    return _Way(name=name, source=ends[0], target=ends[1], to=to, back=source)


def _means(figures: dict[str, list[Figure]], comparisons: list[Comparison]) -> list[Figure]:
    """The mean over directions of each figure that every direction has."""
    means = []
    for name, each in figures.items():
        first, n = each[0], len(each)
        baselines = [figure.baseline for figure in each if figure.baseline is not None]
        if name in ("fid", "kid"):
            # The same groups of pictures in every direction: what a picture does to all of them is counted together.
            estimates = [getattr(comparison, name) for comparison in comparisons]
            low, high = mean_of(estimates).interval
        else:
            low, high = _mean_interval(each)
        protocol = replace(
            first.protocol,
            direction=f"mean of {n} directions",
            real_count=sum(figure.protocol.real_count for figure in each),
            fake_count=sum(figure.protocol.fake_count for figure in each),
        )
        means.append(
            replace(
                first,
                value=float(np.mean([figure.value for figure in each])),
                protocol=protocol,
                low=low,
                high=high,
                baseline=float(np.mean(baselines)) if len(baselines) == n else None,
            )
        )
    return means


def _mean_interval(figures: Sequence[Figure]) -> tuple[float, float] | tuple[None, None]:
    """The interval of a mean of figures of different pictures."""
    ends = [
        (figure.value - figure.low, figure.high - figure.value)
        for figure in figures
        if figure.low is not None and figure.high is not None
    ]
    if len(ends) < len(figures):
        return None, None
    value = float(np.mean([figure.value for figure in figures]))
    below, above = (math.sqrt(sum(end[side] ** 2 for end in ends)) / len(ends) for side in (0, 1))
    return value - below, value + above


def _accuracy_of_real(bench: _Bench, classifier: DomainClassifier, ways: Sequence[_Way]) -> Figure:
    """How often the classifier is right of real pictures: what a perfect translation would get."""
    right = []
    for target in {way.to: way.target for way in ways}.values():
        pixels, chosen = bench.dataset.pixels(bench.split), target.chosen(min(bench.count, target.available()))
        assert target.domain is not None
        for start in range(0, len(chosen), 256):
            part = torch.from_numpy(pixels[chosen[start : start + 256]])
            right.append(classifier.says(part, target.domain))
    return _share(bench, "accuracy_of_real", right, classifier, "")


def _share(
    bench: _Bench, name: str, right: Sequence[Tensor], classifier: DomainClassifier, direction: str, **more: Any
) -> Figure:
    share, count = _mean(right), sum(map(len, right))
    return bench.figure(
        name,
        share,
        of_share(share, count),
        count,
        direction=direction,
        extractor=classifier.digest,
        higher_is_better=True,
        **more,
    )


def _translated(
    bench: _Bench, of: DatasetSplit, to: int | None, watch: Callable[[Tensor, Tensor, int], None]
) -> Translated:
    seen = watch if bench.full else None
    return Translated(bench.subject.translate, of, to, seed=bench.seed, digest=bench.generator_digest, watch=seen)


def _at_least_two(source: DatasetSplit) -> int:
    """How many pictures there are; raises DataError for fewer than two, which no figure can be made of."""
    available = source.available()
    if available < 2:
        raise DataError(
            f"{source.name} has {available} pictures, and a figure needs 2 or more. Hold more out (ingest.test_share), or "
            "measure on another split (evaluate.split)."
        )
    return available


def _mean(values: Sequence[Tensor]) -> float:
    return float(torch.cat(list(values)).double().mean())
