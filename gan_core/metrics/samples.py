"""Metrics of generators from noise."""

from dataclasses import replace

import numpy as np

from gan_core.inference.generator import Generator
from gan_core.inference.path import Space
from gan_core.metrics.classes import Classes, class_figures, labels_of_rows
from gan_core.metrics.copying import MIN_PICTURES, Copying, copying
from gan_core.metrics.evaluate import Comparison
from gan_core.metrics.features import real_features
from gan_core.metrics.measurement import LabelledSubject, Measurement
from gan_core.metrics.neighbours import nearest, neighbour_count
from gan_core.metrics.path_length import MEASURE, PathSubject, path_length_estimate, path_lengths
from gan_core.metrics.protocol import Figure, Protocol
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
    """The perceptual path lengths in z and w, with jackknife intervals. Their protocol names the measure with the resize."""
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
        elif measurement.extractor.precision == "bf16":
            omitted[name] = "a step changes a picture by less than bf16 can represent; measure it in fp32"
        elif not count:
            omitted[name] = (
                "it makes two more passes of the feature network a step; evaluate.path_samples: 1000 (gantry evaluate: "
                "--path-samples 1000) measures it"
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
                        resize=f"{protocol.resize}, {MEASURE}",
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
        # Held-out pictures decide, too: also by their number, which is named if it is not that of the training pictures.
        held_out = measurement.split
        if comparison.real.n != count:
            held_out = f"{neighbour_count(comparison.real.n)} of {held_out}"
        protocol = replace(protocol, split=f"train beside {held_out}", real_count=neighbour_count(count))
    found = copying(
        fakes.distances,
        reference,
        held_out=measurement.split != "train",
        training_count=len(fakes.real_rows),
        training_total=total,
    )
    measurement.findings.copying = found
    return [memorisation_figure(comparison, found, protocol)]


def memorisation_figure(comparison: Comparison, found: Copying, protocol: Protocol) -> Figure:
    """The share of copies as a figure."""
    low, high = found.estimate.interval
    return Figure(
        name="memorisation",
        value=found.estimate.value,
        protocol=protocol,
        generator_digest=comparison.generator_digest,
        seed=comparison.seed,
        low=low,
        high=high,
        baseline=found.expected,
    )


def _class_figures(measurement: Measurement, comparison: Comparison) -> list[Figure]:
    """The FID of each class, and whether pictures show their class."""
    return class_figures(
        comparison, _classes(measurement, comparison), measurement.findings.omitted, measurement.extractor.device
    )


def _classes(measurement: Measurement, comparison: Comparison) -> Classes | str:
    info, labels = measurement.dataset.info, measurement.dataset.labels(measurement.split)
    if not info.classes or labels is None or labels.ndim > 1:
        return "the data has no classes"
    made = _labels_of_samples(measurement, comparison.fake.n)
    if made is None:
        return "the generator is not class-conditional"
    if isinstance(measurement.subject, Generator):
        named = tuple(measurement.subject.info.get("classes", ()))
        if named != info.classes:
            return f"the generator has other classes ({', '.join(map(str, named))}) than the data ({', '.join(info.classes)})"
    real, fake = comparison.real, comparison.fake
    chosen = labels[random_subset(len(labels), real.n)]
    return Classes(names=info.classes, real=labels_of_rows(chosen, real), fake=labels_of_rows(made, fake))


def _labels_of_samples(measurement: Measurement, count: int) -> np.ndarray | None:
    """Class of each generated picture, int64 (count,); None if the generator is not class-conditional."""
    subject = measurement.subject
    if not isinstance(subject, LabelledSubject) or not subject.conditional:
        return None
    parts = [subject.labels(size, seed) for size, seed in measurement.samples().chunks(count)]
    return np.concatenate([part.cpu().numpy() for part in parts if part is not None])
