"""All figures of two sources of pictures, whatever they are, and figures of a generator against its truncation."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gan_core.config import check
from gan_core.inference.generator import Generator
from gan_core.metrics.assess import Assessment, assess
from gan_core.metrics.classes import Classes, class_figures, labels_of_rows
from gan_core.metrics.copying import MIN_PICTURES, copying
from gan_core.metrics.evaluate import Comparison, compare, fid
from gan_core.metrics.features import Features
from gan_core.metrics.inception import Extractor
from gan_core.metrics.measurement import Findings
from gan_core.metrics.protocol import Figure
from gan_core.metrics.samples import memorisation_figure
from gan_core.metrics.sources import DatasetSplit, Samples, Source, Translations
from gan_core.metrics.translated_data import assess_translations

CURVE = ("fid", "precision", "recall")
"""The figures that are measured against the truncation."""


def assess_sources(
    real: Source,
    fake: Source,
    *,
    generator: Generator | None = None,
    extractor: Extractor,
    count: int | None,
    path_samples: int = 0,
    truncations: Sequence[float] = (),
    batch_size: int | None = None,
    cache_dir: Path | str | None = None,
    progress: bool = False,
) -> Assessment:
    """All figures of ``fake`` against ``real``, from one feature pass per source (and one for each truncation).

    A generator against a split of a prepared dataset is measured by :func:`gan_core.metrics.assess.assess`, with the figures of
    the evaluate stage. Other sources have no latents, and classes only if both are prepared datasets with the same classes.
    Copies are searched among the pictures of ``real``. A generator that translates is measured by
    :func:`gan_core.metrics.translated_data.assess_translations`.

    Args:
        real: the real pictures.
        fake: the pictures to measure.
        generator: the generator of ``fake``, which is then :class:`Samples` or :class:`Translations` of it; None if there is
            none.
        extractor: from ``load_inception``.
        count: number of pictures of each side, a fixed random subset; None uses all. Required for a generator. For
            translations, the maximum number in each direction.
        path_samples: see :func:`gan_core.metrics.assess.assess`.
        truncations: see :func:`truncation_figures`.
        batch_size: pictures per batch; None uses the extractor's default.
        cache_dir: folder for features; None uses the user's cache.
        progress: whether to show progress bars on stderr.

    Raises:
        DataError: a source has fewer pictures than requested, or too many of its pictures cannot be read.
        SettingsError: a count is below 2 or missing, or the generator does not accept a truncation.
    """
    how: dict[str, Any] = {
        "extractor": extractor,
        "batch_size": batch_size,
        "cache_dir": cache_dir,
        "progress": progress,
    }
    if generator is not None and isinstance(fake, Translations):
        check(
            not truncations,
            "truncation: only a generator that makes pictures from noise can be measured against its truncation, and this one "
            "translates. Leave it out.",
        )
        check(
            not path_samples,
            "path samples: a generator that translates has no latents, so it has no path lengths. Leave them out.",
        )
        assert count is not None, "translations have a maximum number"
        return assess_translations(generator, fake.of, count=count, seed=fake.seed, **how)
    if not (generator is not None and isinstance(fake, Samples)):
        check(
            not truncations, "truncation: only a generator can be measured against its truncation, and there is none."
        )
        return _assess(real, fake, count=count, **how)[0]
    for truncation in truncations:  # before the long measurement
        generator.sample(1, 0, truncation=truncation)
    of_real: Features | None = None
    if isinstance(real, DatasetSplit) and count is not None:
        found = assess(
            generator,
            real.dataset,
            split=real.split,
            count=count,
            real_count=count,
            seed=fake.seed,
            generator_digest=generator.digest,
            path_samples=path_samples,
            **how,
        )
    else:
        found, of_real = _assess(real, fake, count=count, **how)
    curve: list[Figure] = []
    for truncation in truncations:
        curve += truncation_figures(real, fake, generator, truncation, count=count, of_real=of_real, **how)
    return Assessment(found.objective, (*found.figures, *curve), found.findings)


def fid_of_sources(
    real: Source, fake: Source, *, generator: Generator | None, extractor: Extractor, count: int | None, **how: Any
) -> Figure:
    """The FID of :func:`assess_sources`, alone. ``how``: ``batch_size``, ``cache_dir`` and ``progress``."""
    if generator is not None and isinstance(fake, Translations):
        assert count is not None, "translations have a maximum number"
        return assess_translations(
            generator, fake.of, count=count, seed=fake.seed, extractor=extractor, full=False, **how
        ).figures[0]
    return fid(real, fake, extractor=extractor, real_count=count, fake_count=count, **how)


def truncation_figures(
    real: Source, fake: Samples, generator: Generator, truncation: float, *, count: int | None, **how: Any
) -> list[Figure]:
    """FID, precision and recall of the pictures of ``fake`` with a truncation, which their direction names.

    For StyleGAN2, it is psi, the factor of the distance of w from its mean (Karras et al. 2019); for other families the bound
    of each latent coordinate (Brock et al. 2019). ``how``: arguments of :func:`gan_core.metrics.evaluate.compare`.
    """
    samples = Samples(
        partial(generator.sample, truncation=truncation),
        seed=fake.seed,
        digest=generator.digest,
        name=f"{fake.name}, {name_truncation(truncation)}",
    )
    how = {"wanted": CURVE, "direction": name_truncation(truncation), "warn": False, **how}
    found = compare(real, samples, real_count=count, fake_count=count, **how)
    return [figure for figure in found.figures() if figure.name in CURVE]


def name_truncation(truncation: float) -> str:
    """The direction of figures at ``truncation``, with all its digits: two truncations have two protocols."""
    return f"truncation {truncation!r}".removesuffix(".0")


def _assess(
    real: Source, fake: Source, *, count: int | None, extractor: Extractor, **how: Any
) -> tuple[Assessment, Features]:
    comparison = compare(real, fake, extractor=extractor, real_count=count, fake_count=count, **how)
    findings = Findings(omitted=dict(comparison.omitted))
    figures = [
        *comparison.figures(),
        *class_figures(comparison, _classes(real, fake, comparison), findings.omitted, extractor.device),
        *_memorisation(real, comparison, findings),
    ]
    findings.omitted |= dict.fromkeys(("ppl_z", "ppl_w"), "it needs a generator and a prepared dataset")
    return Assessment(figures[0], tuple(figures), findings), comparison.real


def _classes(real: Source, fake: Source, comparison: Comparison) -> Classes | str:
    sides: list[np.ndarray] = []
    names: list[tuple[str, ...]] = []
    for source, features in ((real, comparison.real), (fake, comparison.fake)):
        labels = source.dataset.labels(source.split) if isinstance(source, DatasetSplit) else None
        if not isinstance(source, DatasetSplit) or labels is None or labels.ndim > 1:
            return f"{source.name} has no classes (those of a prepared dataset are used)"
        names.append(source.dataset.info.classes)
        sides.append(labels_of_rows(labels[source.chosen_rows(features.n)], features))
    if names[0] != names[1]:
        return f"{real.name} has other classes ({', '.join(names[0])}) than {fake.name} ({', '.join(names[1])})"
    return Classes(names=names[0], real=sides[0], fake=sides[1])


def _memorisation(real: Source, comparison: Comparison, findings: Findings) -> list[Figure]:
    near = comparison.neighbours
    counts = len(comparison.real.kept), len(comparison.fake.kept)
    if near is None or min(counts) < MIN_PICTURES:
        findings.omitted["memorisation"] = (
            f"it needs at least {MIN_PICTURES} pictures on each side, and there are {counts[0]} and {counts[1]}"
        )
        return []
    findings.copying = copying(
        near.to_real.distances,
        near.real_to_real,
        held_out=False,
        training_count=len(near.to_real.real_rows),
        training_total=real.available() or comparison.real.n,
    )
    return [memorisation_figure(comparison, findings.copying, comparison.protocol_of("memorisation"))]
