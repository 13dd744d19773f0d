"""Measure all metrics of a generator; the kind of its data decides which.

- All of them: FID, KID, precision, recall, density, coverage, and, where they can be measured, the FID of infinitely many
  pictures and the Inception score.
- Generators from noise: also the share of copies of training pictures, and, if they are class-conditional, the FID of each
  class, and whether pictures show their class.
- Paired data: also L1, PSNR and SSIM against the real targets; for colourisation also the colourfulness.
- Domains and attributes: each figure per direction and its mean over them, the cycle error, the accuracy of a classifier of
  pictures that recognises the target domain (not for unpaired data), and whether translations show their domain in the
  features (not for attributes).

A figure that cannot be measured is listed with the reason.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from gan_core.data import PreparedDataset
from gan_core.images.colour import colourfulness
from gan_core.metrics.classes import AGREEMENT
from gan_core.metrics.domain_translation import domain_translation_figures
from gan_core.metrics.inception import Extractor
from gan_core.metrics.measurement import Findings, Measurement, Subject, mean_value
from gan_core.metrics.pairs import l1, psnr, ssim
from gan_core.metrics.protocol import Figure
from gan_core.metrics.samples import sample_figures
from gan_core.metrics.sources import IdentityTranslations, identity_translation

PAIRED = "condition -> image"
"""The direction of paired data."""


@dataclass(frozen=True)
class Assessment:
    """The figures of a generator."""

    objective: Figure
    """The criterion of search and promotion: the FID or its mean over directions, or the figure of ``evaluate.objective``."""
    figures: tuple[Figure, ...]
    """All figures, the FID first. Figures of different directions share a name and differ in their protocols."""
    findings: Findings = field(default_factory=Findings, compare=False)
    """What was found besides figures: those that could not be measured, and copies of training pictures."""


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
    path_samples: int = 0,
) -> Assessment:
    """Measure a generator against a split of a prepared dataset.

    The FID of a generator from noise is :func:`gan_core.metrics.evaluate.fid_of_samples`, bit for bit.

    Args:
        subject: a generator or a trainer.
        dataset: the data it was trained on.
        split: the split that the real pictures come from.
        count: number of pictures to generate from noise; for translations, the maximum number of pictures to translate in
            each direction (a fixed random subset of the split).
        seed: seed of everything that is drawn at random.
        extractor: from ``load_inception``.
        generator_digest: digest of the generator, for the figures.
        real_count: number of real pictures to compare with, in each direction; None means ``count``, or all if there are
            fewer. Translations use all real pictures if there are fewer than this number.
        batch_size: pictures per batch; None uses the extractor's default. Changes a figure by rounding only.
        cache_dir: folder for real features and the classifier; None uses the user's cache.
        progress: whether to show progress bars on stderr.
        full: whether to measure everything; if False, measure the value of the objective only, for a search.
        path_samples: number of steps for each perceptual path length, two pictures each; 0 leaves them out.

    Raises:
        DataError: the split does not exist, has fewer pictures than requested, or a domain has fewer than two.
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
        path_samples=path_samples,
    )
    if full and subject.translates:
        measurement.findings.omitted["memorisation"] = (
            "translations follow their input, so only pictures made from noise can be copies of training pictures"
        )
    if not subject.translates:
        figures = sample_figures(measurement)
    elif dataset.info.kind == "paired":
        if full:
            measurement.findings.omitted.update(
                dict.fromkeys(AGREEMENT, "translations of pairs have no class of their own")
            )
        figures = _paired_figures(measurement)
    else:
        figures = domain_translation_figures(measurement)
    return Assessment(figures[0], figures, measurement.findings)


def _paired_figures(measurement: Measurement) -> tuple[Figure, ...]:
    info, pictures = measurement.dataset.info, measurement.pictures()
    targets, rows = (
        measurement.dataset.pixels(measurement.split),
        pictures.chosen_rows(measurement.translated_count(pictures)),
    )
    metrics = {"l1": l1, "psnr": psnr, "ssim": ssim}
    values: dict[tuple[str, str], list[Tensor]] = defaultdict(list)
    colourised = info.derived == "greyscale" and info.channels == 3

    def on_batch(given: Tensor, made: Tensor, first: int) -> None:
        target = torch.from_numpy(targets[rows[first : first + len(made)]])
        trivial = identity_translation(given, info.channels, info.derived)
        for name, metric in metrics.items():
            values[name, "made"].append(metric(made, target))
            values[name, "trivial"].append(metric(trivial, target))
        if colourised:
            for kind, shown in (("made", made), ("trivial", trivial), ("real", target)):
                values["colourfulness", kind].append(colourfulness(shown))

    comparison = measurement.compare_translations(pictures, pictures, None, on_batch, PAIRED)
    measurement.findings.omitted.update(comparison.omitted)
    translations = measurement.translations(pictures, None)
    measurement.find_pairs(comparison, pictures, lambda chosen: translations.pictures(chosen, comparison.fake.n))
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
        # More colour is not better: the best colourfulness is that of the real picture.
        gaps = {kind: (colours[kind] - colours["real"]).abs() for kind in ("made", "trivial")}
        figures += [
            measurement.mean(
                "colourfulness_gap", [gaps["made"]], direction=PAIRED, baseline=mean_value([gaps["trivial"]])
            ),
            measurement.mean("colourfulness", [colours["made"]], direction=PAIRED),
            measurement.mean("colourfulness_of_real", [colours["real"]]),
        ]
    return tuple(figures)
