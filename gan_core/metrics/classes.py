"""Figures of pictures with classes: the FID of each class, and whether generated pictures show their class."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from gan_core.files import sha256_json
from gan_core.metrics.class_agreement import MAX_PICTURES, VERSION, Accuracy, Labelled, class_accuracies, too_few
from gan_core.metrics.evaluate import Comparison
from gan_core.metrics.features import Features
from gan_core.metrics.frechet import Moments
from gan_core.metrics.intervals import fid_estimate, jackknife_groups
from gan_core.metrics.protocol import Figure, Protocol
from gan_core.metrics.sources import random_subset

AGREEMENT = ("class_agreement", "class_training")
"""The accuracies, in the order in which they are reported."""
NAMES = ("fid_class", *AGREEMENT)


@dataclass(frozen=True, kw_only=True)
class Classes:
    """The classes of the pictures of a comparison."""

    names: tuple[str, ...]
    real: np.ndarray
    """Class of each row of ``comparison.real``, int64 (n,)."""
    fake: np.ndarray
    """Class of each row of ``comparison.fake``, int64 (m,)."""


def labels_of_rows(labels: np.ndarray, features: Features) -> np.ndarray:
    """The labels of the kept rows, given those of all pictures that features were extracted from."""
    return labels[random_subset(features.n, len(features.kept))]


def class_figures(
    comparison: Comparison, classes: Classes | str, omitted: dict[str, str], device: torch.device | None = None
) -> list[Figure]:
    """The FID of each class, whose direction is the name of the class, and the accuracies of :mod:`.class_agreement`.

    Args:
        comparison: of generated with real pictures, with rows.
        classes: their classes, or the reason why there are none.
        omitted: takes the figures that cannot be measured, with the reason.
        device: where classifiers are fitted; None means the CPU.
    """
    if isinstance(classes, str):
        omitted.update(dict.fromkeys(NAMES, classes))
        return []
    real, fake = (
        _labelled(features, labels)
        for features, labels in ((comparison.real, classes.real), (comparison.fake, classes.fake))
    )
    return [
        *_fid_of_classes(comparison, classes, omitted),
        *agreement_figures(comparison, real, fake, len(classes.names), omitted, device),
    ]


def agreement_figures(
    comparison: Comparison,
    real: Labelled,
    fake: Labelled,
    classes: int,
    omitted: dict[str, str],
    device: torch.device | None = None,
    *,
    translated: bool = False,
) -> list[Figure]:
    """Both accuracies, and that of real pictures beside them; for the arguments see :func:`class_figures` and
    :func:`gan_core.metrics.class_agreement.class_accuracies`.
    """
    reason = too_few(len(real.rows), len(fake.rows))
    if len(np.unique(real.labels)) < 2:
        reason = "all real pictures have the same class"
    if reason:
        omitted.update(dict.fromkeys(AGREEMENT, reason))
        return []
    found = class_accuracies(real, fake, classes=classes, translated=translated, device=device)
    protocol = replace(
        comparison.protocol,
        # Rows and their order decide the classifier, so its name need not be the digest of its weights.
        extractor=sha256_json([comparison.protocol.extractor, "linear discriminant", VERSION]),
        real_count=len(real.rows),
        fake_count=len(fake.rows),
        direction="",
    )
    training = protocol
    if translated:
        how = [comparison.protocol.extractor, "linear discriminant without the translations of a picture", VERSION]
        training = replace(protocol, extractor=sha256_json(how))

    def figure(name: str, accuracy: Accuracy, how: Protocol, seed: int | None) -> Figure:
        return Figure(
            name=name,
            value=accuracy.value,
            protocol=replace(how, metric=name),
            generator_digest=comparison.generator_digest,
            seed=seed,
            low=accuracy.interval[0],
            high=accuracy.interval[1],
            baseline=accuracy.chance,
            higher_is_better=True,
            jackknife=accuracy.jackknife,
        )

    of_each = ((found.agreement, protocol), (found.training, training))
    return [
        *(figure(name, value, how, comparison.seed) for name, (value, how) in zip(AGREEMENT, of_each, strict=True)),
        figure("class_agreement_of_real", found.of_real, replace(protocol, fake_count=0), None),
    ]


def _labelled(features: Features, labels: np.ndarray) -> Labelled:
    used = random_subset(len(features.kept), min(len(features.kept), MAX_PICTURES))
    groups = jackknife_groups(len(used))
    return Labelled(rows=features.kept[used], labels=labels[used], groups=groups, pictures=used)


def _fid_of_classes(comparison: Comparison, classes: Classes, omitted: dict[str, str]) -> list[Figure]:
    of_each = ((comparison.real.kept, classes.real), (comparison.fake.kept, classes.fake))
    figures, few = [], []
    for index, name in enumerate(classes.names):
        of_real, of_fake = (rows[labels == index] for rows, labels in of_each)
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
        omitted["fid_class"] = f"too few pictures (2 are needed on each side) of {', '.join(few)}"
    return figures


def _features(rows: np.ndarray) -> Features:
    moments = Moments(rows.shape[1])
    moments.update(rows)
    return Features(moments, rows)
