"""Translations between domains: FID and KID a direction, the way there and back, and what a classifier takes them for."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from gan_core.metrics.bench import Bench, mean_value
from gan_core.metrics.domains import DomainClassifier
from gan_core.metrics.intervals import Estimate, mean_of, of_share
from gan_core.metrics.pairs import l1
from gan_core.metrics.protocol import Figure
from gan_core.metrics.sources import DatasetSplit


@dataclass(frozen=True, kw_only=True)
class Way:
    """A direction between domains, or the switching on of an attribute."""

    name: str
    source: DatasetSplit
    target: DatasetSplit
    to: int
    back: int
    """What is asked for to come back."""


def between_domains(bench: Bench) -> tuple[Figure, ...]:
    """The mean of all directions' figures, then each direction's; the first is the mean FID."""
    ways = [_way(bench, source, to) for source, to in bench.subject.directions if to is not None]
    classifier = None
    if bench.full and bench.dataset.info.kind != "unpaired":
        classifier = DomainClassifier(bench.dataset, device=bench.extractor.device, cache_dir=bench.cache_dir)
    figures: dict[str, list[Figure]] = defaultdict(list)
    estimates: dict[str, list[Estimate]] = defaultdict(list)
    for way in ways:
        for figure, estimate in _of_way(bench, way, classifier, warn=not figures):
            figures[figure.name].append(figure)
            if estimate is not None:
                estimates[figure.name].append(estimate)
    each = [figure for of_name in figures.values() for figure in of_name]
    # Of one direction the mean is its own figure.
    means = [_mean(of_name, estimates[name]) for name, of_name in figures.items()] if len(ways) > 1 else []
    if classifier is not None:
        each.append(_accuracy_of_real(bench, classifier, ways))
    return (*means, *each)


def _way(bench: Bench, source: int | None, to: int) -> Way:
    info = bench.dataset.info
    if info.attributes:
        # Pictures that lack it: what they become can be compared with the real ones that have it.
        name = info.attributes[to]
        ends = bench.pictures(to, lacking=True), bench.pictures(to)
        return Way(name=f"without {name} -> {name}", source=ends[0], target=ends[1], to=to, back=to)
    assert source is not None
    name = f"{info.classes[source]} -> {info.classes[to]}"
    return Way(name=name, source=bench.pictures(source), target=bench.pictures(to), to=to, back=source)


@dataclass
class _Watch:
    """Sees translations pass and keeps a value a picture."""

    bench: Bench
    way: Way
    classifier: DomainClassifier | None
    errors: list[Tensor] = field(default_factory=list)
    right: list[Tensor] = field(default_factory=list)
    right_untouched: list[Tensor] = field(default_factory=list)

    def __call__(self, given: Tensor, made: Tensor, first: int) -> None:
        back = self.bench.subject.translate(made, self.way.back, self.bench.seed, first=first)
        self.errors.append(l1(back.cpu(), given))
        if self.classifier is not None:
            self.right.append(self.classifier.says(made, self.way.to))
            self.right_untouched.append(self.classifier.says(given, self.way.to))


def _of_way(
    bench: Bench, way: Way, classifier: DomainClassifier | None, *, warn: bool
) -> list[tuple[Figure, Estimate | None]]:
    """A direction's figures, those of features with what they are without each group of pictures."""
    watch = _Watch(bench, way, classifier)
    comparison = bench.translated(way.source, way.target, way.to, watch, way.name, warn=warn)
    figures: list[tuple[Figure, Estimate | None]] = list(
        zip(comparison.figures(bench.untouched(way.source)), (comparison.fid, comparison.kid), strict=False)
    )
    if bench.full:
        # A generator that changes nothing comes back without error.
        figures.append((bench.mean("cycle", watch.errors, direction=way.name, baseline=0.0), None))
    if classifier is not None:
        trivial = mean_value(watch.right_untouched)
        figures.append((_share(bench, "accuracy", watch.right, classifier, way.name, trivial), None))
    return figures


def _accuracy_of_real(bench: Bench, classifier: DomainClassifier, ways: Sequence[Way]) -> Figure:
    """How often the classifier is right of real pictures: what perfect translations would get."""
    right = []
    for target in {way.to: way.target for way in ways}.values():
        assert target.domain is not None
        pixels, chosen = bench.dataset.pixels(bench.split), target.chosen(bench.taken(target))
        for start in range(0, len(chosen), 256):
            part = torch.from_numpy(pixels[chosen[start : start + 256]])
            right.append(classifier.says(part, target.domain))
    return _share(bench, "accuracy_of_real", right, classifier, "", None)


def _share(
    bench: Bench,
    name: str,
    right: Sequence[Tensor],
    classifier: DomainClassifier,
    direction: str,
    baseline: float | None,
) -> Figure:
    share, count = mean_value(right), sum(map(len, right))
    return bench.figure(
        name,
        share,
        of_share(share, count),
        count,
        direction=direction,
        classifier=classifier.digest,
        baseline=baseline,
        higher_is_better=True,
    )


def _mean(figures: Sequence[Figure], estimates: Sequence[Estimate]) -> Figure:
    """The mean of one figure over directions."""
    n, first = len(figures), figures[0]
    baselines = [figure.baseline for figure in figures if figure.baseline is not None]
    # The same groups are left out in every direction: what a picture does in several of them is counted together.
    low, high = mean_of(estimates).interval if estimates else _mean_interval(figures)
    protocol = replace(
        first.protocol,
        direction=f"mean of {n} directions",
        real_count=sum(figure.protocol.real_count for figure in figures),
        fake_count=sum(figure.protocol.fake_count for figure in figures),
    )
    return replace(
        first,
        value=float(np.mean([figure.value for figure in figures])),
        protocol=protocol,
        low=low,
        high=high,
        baseline=float(np.mean(baselines)) if len(baselines) == n else None,
    )


def _mean_interval(figures: Sequence[Figure]) -> tuple[float, float] | tuple[None, None]:
    """The interval of a mean of figures of different pictures."""
    reaches = [
        (figure.value - figure.low, figure.high - figure.value)
        for figure in figures
        if figure.low is not None and figure.high is not None
    ]
    if len(reaches) < len(figures):
        return None, None
    value = float(np.mean([figure.value for figure in figures]))
    below, above = (math.sqrt(sum(reach[end] ** 2 for reach in reaches)) / len(reaches) for end in (0, 1))
    return value - below, value + above
