"""Metrics of translations between domains: FID and KID per direction, cycle error, and classifier accuracy."""

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from gan_core.data import PreparedDataset
from gan_core.metrics.class_agreement import MAX_PICTURES, Labelled
from gan_core.metrics.classes import AGREEMENT, agreement_figures, labels_of_rows
from gan_core.metrics.domain_classifier import DomainClassifier
from gan_core.metrics.evaluate import Comparison
from gan_core.metrics.features import Features
from gan_core.metrics.intervals import (
    Estimate,
    jackknife_groups,
    mean_estimate,
    mean_of_means_interval,
    proportion_interval,
)
from gan_core.metrics.measurement import Measurement, check_two_pictures, mean_value
from gan_core.metrics.pairs import l1
from gan_core.metrics.protocol import Figure
from gan_core.metrics.sources import DatasetSplit, random_subset


@dataclass(frozen=True, kw_only=True)
class Direction:
    """A direction between two domains, or an attribute switched on or off."""

    name: str
    source: DatasetSplit
    target: DatasetSplit
    to: int
    back: int
    """Target of the translation back."""
    lacking: bool = False
    """Whether the target consists of the pictures without the attribute ``to``."""

    def classified_as_target(self, classifier: DomainClassifier, pictures: Tensor) -> Tensor:
        """Whether the classifier assigns each picture, uint8 (N, C, H, W), to the target: bool (N,)."""
        return classifier.predicts(pictures, self.to) != self.lacking


def check_domains(dataset: PreparedDataset, split: str) -> None:
    """Raise DataError if a domain has fewer than two pictures in ``split``; for attributes, check both values."""
    several = bool(dataset.info.attributes)
    for domain in range(len(dataset.info.attributes or dataset.info.classes)):
        for lacking in (False, True)[: 1 + several]:
            check_two_pictures(DatasetSplit(dataset, split, domain, lacking=lacking))


def domain_translation_figures(measurement: Measurement) -> tuple[Figure, ...]:
    """Figures averaged over all directions, then those of each direction; the first is the mean FID."""
    directions = [
        direction
        for source, to in measurement.subject.directions
        if to is not None
        for direction in _directions(measurement, source, to)
    ]
    classifier = None
    if measurement.full and measurement.dataset.info.kind != "unpaired":
        classifier = DomainClassifier(
            measurement.dataset, device=measurement.extractor.device, cache_dir=measurement.cache_dir
        )
    gathered = (
        _ClassRows(measurement, directions) if measurement.full and not measurement.dataset.info.attributes else None
    )
    figures: dict[str, list[Figure]] = defaultdict(list)
    parts: dict[str, list[Estimate | _PerPicture]] = defaultdict(list)
    for direction in directions:
        for figure, part in _of_direction(measurement, direction, classifier, gathered, warn=not figures):
            figures[figure.name].append(figure)
            if part is not None:
                parts[figure.name].append(part)
    each = [figure for of_name in figures.values() for figure in of_name]
    # With one direction, the mean would repeat its figure.
    means = [_mean(of_name, parts[name]) for name, of_name in figures.items()] if len(directions) > 1 else []
    if classifier is not None:
        each.append(_accuracy_of_real(measurement, classifier, directions))
    if gathered is not None:
        each += gathered.figures()
    elif measurement.full:
        reason = "a picture may have several attributes, so it has no class; accuracy is measured for each attribute"
        measurement.findings.omitted.update(dict.fromkeys(AGREEMENT, reason))
    return (*means, *each)


def _directions(measurement: Measurement, source: int | None, to: int) -> list[Direction]:
    """The direction between two domains, or both directions of an attribute: switched on and switched off."""
    info = measurement.dataset.info
    if info.attributes:
        name, lacking, having = info.attributes[to], measurement.pictures(to, lacking=True), measurement.pictures(to)
        return [
            Direction(name=f"without {name} -> {name}", source=lacking, target=having, to=to, back=to),
            Direction(name=f"{name} -> without {name}", source=having, target=lacking, to=to, back=to, lacking=True),
        ]
    assert source is not None
    name = f"{info.classes[source]} -> {info.classes[to]}"
    return [
        Direction(name=name, source=measurement.pictures(source), target=measurement.pictures(to), to=to, back=source)
    ]


@dataclass
class _TranslationMetrics:
    """Callback that computes the cycle error and the classifier's verdict for each translated picture."""

    measurement: Measurement
    direction: Direction
    classifier: DomainClassifier | None
    errors: list[Tensor] = field(default_factory=list)
    """Cycle errors; none if the subject has no translation back."""
    right: list[Tensor] = field(default_factory=list)
    right_untouched: list[Tensor] = field(default_factory=list)

    def __call__(self, given: Tensor, made: Tensor, first: int) -> None:
        if any(to == self.direction.back for _, to in self.measurement.subject.directions):
            back = self.measurement.subject.translate(made, self.direction.back, self.measurement.seed, first=first)
            self.errors.append(l1(back.cpu(), given))
        if self.classifier is not None:
            self.right.append(self.direction.classified_as_target(self.classifier, made))
            self.right_untouched.append(self.direction.classified_as_target(self.classifier, given))


@dataclass(frozen=True)
class _PerPicture:
    """One value per translated picture."""

    values: np.ndarray
    """float64 (N,)."""
    pictures: np.ndarray
    """Rows of the pictures in the split, (N,)."""
    binary: bool
    """Whether the values are 0 or 1."""


class _ClassRows:
    """Gathers features of all directions to measure whether translations show the domain that they were made for."""

    def __init__(self, measurement: Measurement, directions: Sequence[Direction]) -> None:
        self._measurement = measurement
        split = measurement.dataset.info.splits[measurement.split]
        # A picture and its translations are in the same group, so that no translation is classified by its source.
        self._groups = jackknife_groups(split)
        self._most_real = MAX_PICTURES // max(len({direction.to for direction in directions}), 1)
        self._most_fake = MAX_PICTURES // max(len(directions), 1)
        self._real: dict[int, Labelled] = {}
        self._fake: list[Labelled] = []
        self._comparison: Comparison | None = None

    def add(self, direction: Direction, comparison: Comparison) -> None:
        """Keep a fixed random subset of the rows of a direction, and of its target if that is new."""
        self._comparison = comparison
        if direction.to not in self._real:
            pictures = direction.target.chosen_rows(comparison.real.n)
            self._real[direction.to] = self._labelled(comparison.real, pictures, direction.to, self._most_real)
        pictures = direction.source.chosen_rows(comparison.fake.n)
        self._fake.append(self._labelled(comparison.fake, pictures, direction.to, self._most_fake))

    def figures(self) -> list[Figure]:
        """The accuracies over all directions."""
        assert self._comparison is not None
        measurement = self._measurement
        return agreement_figures(
            self._comparison,
            _together([*self._real.values()]),
            _together(self._fake),
            len(measurement.dataset.info.classes),
            measurement.findings.omitted,
            measurement.extractor.device,
            translated=True,
        )

    def _labelled(self, features: Features, pictures: np.ndarray, label: int, most: int) -> Labelled:
        used = random_subset(len(features.kept), min(len(features.kept), most))
        chosen = labels_of_rows(pictures, features)[used]
        labels = np.full(len(used), label)
        return Labelled(rows=features.kept[used], labels=labels, groups=self._groups[chosen], pictures=chosen)


def _together(parts: Sequence[Labelled]) -> Labelled:
    fields = ("rows", "labels", "groups", "pictures")
    return Labelled(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in fields})


def _of_direction(
    measurement: Measurement,
    direction: Direction,
    classifier: DomainClassifier | None,
    gathered: "_ClassRows | None",
    *,
    warn: bool,
) -> list[tuple[Figure, Estimate | _PerPicture | None]]:
    """Figures of a direction, each with the values that the interval of the mean over directions is computed from."""
    watch = _TranslationMetrics(measurement, direction, classifier)
    comparison = measurement.compare_translations(
        direction.source, direction.target, direction.to, watch, direction.name, warn=warn
    )
    if gathered is not None:
        gathered.add(direction, comparison)
    count = measurement.translated_count(direction.source)
    rows = direction.source.chosen_rows(count)
    translations = measurement.translations(direction.source, direction.to)
    measurement.find_pairs(comparison, direction.target, lambda chosen: translations.pictures(chosen, count))

    def per_picture(values: Sequence[Tensor], *, binary: bool = False) -> _PerPicture:
        return _PerPicture(torch.cat(list(values)).double().numpy(), rows, binary)

    figures: list[tuple[Figure, Estimate | _PerPicture | None]] = list(
        zip(
            comparison.figures(measurement.identity_features(direction.source)),
            # Figures of the translations alone have no estimate: their mean has no interval.
            itertools.chain(comparison.estimates.values(), itertools.repeat(None)),
            strict=False,
        )
    )
    for name, reason in comparison.omitted.items():
        measurement.findings.omitted.setdefault(name, f"{direction.name}: {reason}")
    if measurement.full and not watch.errors:
        measurement.findings.omitted["cycle"] = "the generator has no translation back"
    elif measurement.full:
        # No baseline: the cycle error of unchanged input is zero.
        figures.append((measurement.mean("cycle", watch.errors, direction=direction.name), per_picture(watch.errors)))
    if classifier is not None:
        trivial = mean_value(watch.right_untouched)
        accuracy = _share(measurement, "accuracy", watch.right, classifier, direction.name, trivial)
        figures.append((accuracy, per_picture(watch.right, binary=True)))
    return figures


def _accuracy_of_real(
    measurement: Measurement, classifier: DomainClassifier, directions: Sequence[Direction]
) -> Figure:
    """Accuracy of the classifier on real pictures: the score of perfect translations."""
    right = []
    for direction in {(direction.to, direction.lacking): direction for direction in directions}.values():
        pixels, chosen = (
            measurement.dataset.pixels(measurement.split),
            direction.target.chosen_rows(measurement.translated_count(direction.target)),
        )
        for start in range(0, len(chosen), 256):
            part = torch.from_numpy(pixels[chosen[start : start + 256]])
            right.append(direction.classified_as_target(classifier, part))
    return _share(measurement, "accuracy_of_real", right, classifier, "", None)


def _share(
    measurement: Measurement,
    name: str,
    right: Sequence[Tensor],
    classifier: DomainClassifier,
    direction: str,
    baseline: float | None,
) -> Figure:
    share, count = mean_value(right), sum(map(len, right))
    return measurement.figure(
        name,
        share,
        proportion_interval(share, count),
        count,
        direction=direction,
        classifier=classifier.digest,
        baseline=baseline,
        higher_is_better=True,
    )


def _mean(figures: Sequence[Figure], parts: Sequence[Estimate | _PerPicture]) -> Figure:
    """The mean of one figure over directions."""
    n, first = len(figures), figures[0]
    baselines = [figure.baseline for figure in figures if figure.baseline is not None]
    estimates = [part for part in parts if isinstance(part, Estimate)]
    mean = mean_estimate(estimates) if estimates else None
    low, high = mean.interval if mean else _interval([p for p in parts if isinstance(p, _PerPicture)])
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
        jackknife=mean.leave_out_values if mean else (),
    )


def _interval(parts: Sequence[_PerPicture]) -> tuple[float, float] | tuple[None, None]:
    """The interval of a mean over directions of one value per picture."""
    values, pictures = [part.values for part in parts], [part.pictures for part in parts]
    varies = mean_of_means_interval(values, pictures) if parts else (None, None)
    if varies[0] is None or not parts[0].binary:
        return varies
    # If every picture is right, the values have no variance. The Wilson interval still has a width.
    counted = proportion_interval(
        float(np.mean([part.mean() for part in values])), len(np.unique(np.concatenate(pictures)))
    )
    assert counted[0] is not None
    return max(min(varies[0], counted[0]), 0.0), min(max(varies[1], counted[1]), 1.0)
