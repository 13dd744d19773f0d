"""Metrics of generators from noise."""

from dataclasses import replace

import numpy as np

from gan_core.inference.path import Space
from gan_core.metrics.copying import MIN_PICTURES, copying
from gan_core.metrics.evaluate import Comparison
from gan_core.metrics.features import Features, real_features
from gan_core.metrics.frechet import Moments
from gan_core.metrics.intervals import fid_estimate
from gan_core.metrics.measurement import LabelledSubject, Measurement
from gan_core.metrics.neighbours import nearest, neighbour_count
from gan_core.metrics.path_length import DISTANCE, EPSILON, PathSubject, path_length_estimate, path_lengths
from gan_core.metrics.protocol import Figure
from gan_core.metrics.sources import DatasetSplit, random_subset


def sample_figures(measurement: Measurement) -> tuple[Figure, ...]:
    """All figures of pictures generated from noise; the first is the FID."""
    comparison = measurement.compare_samples()
    measurement.findings.omitted.update(comparison.omitted)
    if not measurement.full:
        return comparison.figures()
    real = measurement.pictures()
    measurement.find_pairs(comparison, real, lambda chosen: measurement.samples().pictures(chosen, comparison.fake.n))
    return (
        *comparison.figures(),
        *_class_figures(measurement, comparison),
        *_memorisation(measurement, comparison),
        *_path_figures(measurement, comparison),
    )


def _path_figures(measurement: Measurement, comparison: Comparison) -> list[Figure]:
    """The perceptual path lengths in z and w, with jackknife intervals. Their protocol names the distance as the resize."""
    count, subject, omitted = measurement.path_samples, measurement.subject, measurement.findings.omitted
    figures = []
    spaces: dict[str, Space] = {"ppl_z": "z", "ppl_w": "w"}
    for name, space in spaces.items():
        if not isinstance(subject, PathSubject):
            omitted[name] = "the subject has no latents"
        elif measurement.dataset.info.channels == 4:
            omitted[name] = "pictures with an alpha channel have no float form for the feature network"
        elif space == "w" and not subject.takes_mixed_styles:
            omitted[name] = "the generator has no space w of styles"
        elif not count:
            omitted[name] = (
                "it makes two more passes of the feature network a step; evaluate.path_samples: 1000 measures it"
            )
        else:
            lengths = path_lengths(
                subject,
                count,
                measurement.extractor,
                space=space,
                seed=measurement.seed,
                batch_size=measurement.batch_size,
            )
            estimate = path_length_estimate(lengths)
            protocol = comparison.protocol
            figures.append(
                Figure(
                    name=name,
                    value=estimate.value,
                    protocol=replace(
                        protocol,
                        metric=name,
                        resize=f"{protocol.resize}, {DISTANCE}, step {EPSILON:g}",
                        real_count=0,
                        fake_count=count,
                        split="",
                    ),
                    generator_digest=comparison.generator_digest,
                    seed=comparison.seed,
                    low=estimate.interval[0],
                    high=estimate.interval[1],
                )
            )
    return figures


def _memorisation(measurement: Measurement, comparison: Comparison) -> list[Figure]:
    """The share of pictures that are near to a training picture, with its jackknife interval."""
    splits, near = measurement.dataset.info.splits, comparison.neighbours
    total, measured = splits.get("train", 0), min(comparison.real.n, comparison.fake.n)
    if near is None or min(total, measured) < MIN_PICTURES:
        measurement.findings.omitted["memorisation"] = (
            f"it needs at least {MIN_PICTURES} generated, {MIN_PICTURES} real and {MIN_PICTURES} training pictures, and there "
            f"are {comparison.fake.n}, {comparison.real.n} and {total}"
        )
        return []
    protocol = comparison.protocol_of("memorisation")
    if measurement.split == "train":
        fakes, reference = near.to_real, near.real_to_real
    else:
        training = real_features(
            DatasetSplit(measurement.dataset, "train"),
            count := min(comparison.real.n, total),
            measurement.extractor,
            keep=True,
            cache_dir=measurement.cache_dir,
            batch_size=measurement.batch_size,
            progress=measurement.progress,
        )
        device = measurement.extractor.device
        fakes = nearest(training, comparison.fake, interval=True, device=device)
        reference = nearest(training, comparison.real, interval=True, device=device).distances
        # Held-out pictures are part of what the figure depends on.
        protocol = replace(protocol, split=f"train beside {measurement.split}", real_count=neighbour_count(count))
    found = copying(
        fakes.distances,
        reference,
        held_out=measurement.split != "train",
        training_count=len(fakes.real_rows),
        training_total=total,
    )
    measurement.findings.copying = found
    low, high = found.estimate.interval
    return [
        Figure(
            name="memorisation",
            value=found.estimate.value,
            protocol=protocol,
            generator_digest=comparison.generator_digest,
            seed=comparison.seed,
            low=low,
            high=high,
            baseline=found.expected,
        )
    ]


def _class_figures(measurement: Measurement, comparison: Comparison) -> list[Figure]:
    """The FID of each class, with its jackknife interval; its direction is the name of the class."""
    info, labels = measurement.dataset.info, measurement.dataset.labels(measurement.split)
    if not info.classes or labels is None or labels.ndim > 1:
        measurement.findings.omitted["fid_class"] = "the data has no classes"
        return []
    made = _labels_of_samples(measurement, comparison.fake.n)
    if made is None:
        measurement.findings.omitted["fid_class"] = "the generator is not class-conditional"
        return []
    real, fake = comparison.real, comparison.fake
    labels = labels[random_subset(len(labels), real.n)][random_subset(real.n, len(real.kept))]
    made = made[random_subset(fake.n, len(fake.kept))]
    of_each = ((real.kept, labels), (fake.kept, made))
    figures, few = [], []
    for index, name in enumerate(info.classes):
        of_real, of_fake = (rows[classes == index] for rows, classes in of_each)
        if min(len(of_real), len(of_fake)) < 2:
            few.append(f"{name} ({len(of_real)} real, {len(of_fake)} generated)")
            continue
        estimate = fid_estimate(_features(of_real), _features(of_fake), interval=True)
        low, high = estimate.interval
        protocol = replace(
            comparison.protocol,
            metric="fid_class",
            direction=name,
            real_count=len(of_real),
            fake_count=len(of_fake),
        )
        figures.append(
            Figure(
                name="fid_class",
                value=estimate.value,
                protocol=protocol,
                generator_digest=comparison.generator_digest,
                seed=comparison.seed,
                low=low,
                high=high,
            )
        )
    if few:
        measurement.findings.omitted["fid_class"] = f"too few pictures (2 are needed on each side) of {', '.join(few)}"
    return figures


def _labels_of_samples(measurement: Measurement, count: int) -> np.ndarray | None:
    """Class of each generated picture, int64 (count,); None if the generator is not class-conditional."""
    subject = measurement.subject
    if not isinstance(subject, LabelledSubject) or not subject.conditional:
        return None
    parts = [subject.labels(size, seed) for size, seed in measurement.samples().chunks(count)]
    return np.concatenate([part.cpu().numpy() for part in parts if part is not None])


def _features(rows: np.ndarray) -> Features:
    moments = Moments(rows.shape[1])
    moments.update(rows)
    return Features(moments, rows)
