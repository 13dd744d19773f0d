"""All metrics of a generator, chosen by the kind of its data.

From noise: FID and KID. Paired pictures: FID and KID of the translations against the real targets, L1, PSNR and SSIM, and
for colourisation the colourfulness. Between domains: FID and KID per direction and their mean, the cycle error, and, for
labelled domains and attributes, how often a classifier recognises the target domain.
"""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gan_core.data import PreparedDataset
from gan_core.images.colour import colourfulness
from gan_core.metrics.between import between_domains
from gan_core.metrics.inception import Extractor
from gan_core.metrics.measurement import Measurement, Subject, mean_value
from gan_core.metrics.pairs import l1, psnr, ssim
from gan_core.metrics.protocol import Figure
from gan_core.metrics.sources import IdentityTranslations, identity_translation

PAIRED = "condition -> image"
"""The direction of paired data."""


@dataclass(frozen=True)
class Assessment:
    """The figures of a generator."""

    objective: Figure
    """The FID, or its mean over directions: the criterion of search and promotion; lower is better."""
    figures: tuple[Figure, ...]
    """All figures, the objective first. Those of several directions have one name and different protocols."""


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

    The FID of a generator from noise is :func:`gan_core.metrics.evaluate.fid_of_samples`, bit for bit.

    Args:
        subject: a generator or a trainer.
        dataset: the data it was trained on.
        split: which real pictures.
        count: pictures to make from noise; at most so many of the split's to translate in each direction, all where there
            are fewer, a fixed fair draw otherwise.
        seed: names what is drawn at random.
        extractor: from ``load_inception``.
        generator_digest: kept in the figures.
        real_count: real pictures to compare with, in each direction; None takes ``count`` of them, or all when there are
            fewer. For translations all are taken, too, where there are fewer than this.
        batch_size: pictures at a time; None leaves it to the extractor. Does not change a figure beyond rounding.
        cache_dir: for real features and the classifier; None is the user's cache.
        progress: show bars with rate and estimate on stderr.
        full: everything; otherwise the objective's value alone, for a search.

    Raises:
        DataError: no such split, fewer real pictures than asked for, or a domain with fewer than two in it.
    """
    measurement = Measurement(
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
        figures = measurement.from_noise().figures()
    elif dataset.info.kind == "paired":
        figures = _of_pairs(measurement)
    else:
        figures = between_domains(measurement)
    return Assessment(figures[0], figures)


def _of_pairs(measurement: Measurement) -> tuple[Figure, ...]:
    info, pictures = measurement.dataset.info, measurement.pictures()
    targets, rows = (
        measurement.dataset.pixels(measurement.split),
        pictures.chosen(measurement.translated_count(pictures)),
    )
    metrics = {"l1": l1, "psnr": psnr, "ssim": ssim}
    values: dict[tuple[str, str], list[Tensor]] = defaultdict(list)
    colourised = info.derived == "greyscale" and info.channels == 3

    def watch(given: Tensor, made: Tensor, first: int) -> None:
        target = torch.from_numpy(targets[rows[first : first + len(made)]])
        trivial = identity_translation(given, info.channels, info.derived)
        for name, metric in metrics.items():
            values[name, "made"].append(metric(made, target))
            values[name, "trivial"].append(metric(trivial, target))
        if colourised:
            for kind, shown in (("made", made), ("trivial", trivial), ("real", target)):
                values["colourfulness", kind].append(colourfulness(shown))

    comparison = measurement.translated(pictures, pictures, None, watch, PAIRED)
    if not measurement.full:
        return comparison.figures()
    figures = list(
        comparison.figures(measurement.identity_features(IdentityTranslations(measurement.dataset, measurement.split)))
    )
    for name in metrics:
        made, trivial = values[name, "made"], mean_value(values[name, "trivial"])
        figures.append(measurement.mean(name, made, direction=PAIRED, baseline=trivial, higher_is_better=name != "l1"))
    if colourised:
        colours = {kind: torch.cat(values["colourfulness", kind]) for kind in ("made", "trivial", "real")}
        # More colour is not better: as much as the real picture has is right.
        gaps = {kind: (colours[kind] - colours["real"]).abs() for kind in ("made", "trivial")}
        figures += [
            measurement.mean(
                "colourfulness_gap", [gaps["made"]], direction=PAIRED, baseline=mean_value([gaps["trivial"]])
            ),
            measurement.mean("colourfulness", [colours["made"]], direction=PAIRED),
            measurement.mean("colourfulness_of_real", [colours["real"]]),
        ]
    return tuple(figures)
