"""FID of the averaged generator during training, and the best generator so far."""

import contextlib
import logging
import math
import shutil
import time
from pathlib import Path
from typing import Any

import torch

from gan_core.data import PreparedDataset
from gan_core.errors import CheckpointError
from gan_core.files import atomic_write, read_json, write_json
from gan_core.inference.description import DESCRIPTION, generator_digest
from gan_core.metrics.assess import assess
from gan_core.metrics.domain_translation import check_domains
from gan_core.metrics.inception import load_inception
from gan_core.metrics.measurement import Subject, check_two_pictures
from gan_core.metrics.protocol import Figure
from gan_core.metrics.sources import DatasetSplit, Samples, Source, Translations

log = logging.getLogger(__name__)

SEED = 0
"""Seed of the measured pictures; the default of ``gantry fid`` and of the evaluate stage."""


class QualityMonitor:
    """Measures a run at several steps, always under the protocol of published figures: 2048 features in fp32."""

    def __init__(
        self, dataset: PreparedDataset, split: str, count: int, device: torch.device, *, translates: bool = False
    ) -> None:
        """Load the feature network and check the data, so that problems are found before training starts.

        Args:
            dataset: the prepared dataset.
            split: the split that the real pictures come from.
            count: number of pictures to generate from noise; for translations, the maximum number of pictures to
                translate in each direction.
            device: device of the feature network.
            translates: whether the family translates pictures.

        Raises:
            DataError: the split, or one of its domains, has too few pictures.
            FetchError: the Inception weights cannot be fetched.
        """
        if translates and dataset.info.kind != "paired":
            check_domains(dataset, split)
        else:
            check_two_pictures(DatasetSplit(dataset, split))
        self._dataset, self._split, self._count = dataset, split, count
        self._extractor = load_inception(device)

    def measure(self, subject: Subject, step: int) -> Figure:
        """FID of ``subject`` (or its mean over directions); ``step`` is recorded as the generator's digest."""
        return assess(
            subject,
            self._dataset,
            split=self._split,
            count=self._count,
            seed=SEED,
            extractor=self._extractor,
            generator_digest=f"step {step}",
            full=False,
        ).objective

    def estimate_seconds(self, subject: Subject) -> tuple[float, float]:
        """Estimate the seconds of :meth:`measure`: for the pictures of ``subject``, and for the real ones, which are cached.

        One batch of pictures is made and measured, after another one that is not timed.
        """
        extractor = self._extractor
        of, to = next(iter(subject.directions), (None, None))
        given = DatasetSplit(self._dataset, self._split, of)
        pictures: Source = Samples(subject.sample, seed=SEED, digest="")
        if subject.translates:
            pictures = Translations(subject.translate, given, to, seed=SEED, digest="")
        size = min(extractor.batch_size, given.available())
        seconds = 0.0
        for _ in range(2):
            began = time.perf_counter()
            done = extractor.extract(next(iter(pictures.batches(size, size, extractor.prepare)))).cpu()
            seconds = (time.perf_counter() - began) / len(done)
        domains = [DatasetSplit(self._dataset, self._split, source) for source, _ in subject.directions] or [given]
        real = sum(min(self._count, domain.available()) for domain in domains)
        return (real if subject.translates else self._count) * seconds, real * seconds


class BestGenerator:
    """The generator with the lowest FID of a run: an exported folder whose description holds that FID."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @property
    def figure(self) -> dict[str, Any] | None:
        """Its FID as a dict (:meth:`Figure.as_dict`). None if there is none yet or, with a warning, if it cannot be read."""
        description = self.directory / DESCRIPTION
        if not description.is_file():
            return None
        try:
            generator_digest(self.directory)
            figure = read_json(description)["fid"]
            if not (math.isfinite(figure["value"]) and isinstance(figure["protocol_digest"], str)):
                raise ValueError("its FID is not a number")
        except (CheckpointError, ValueError, LookupError, TypeError, OverflowError) as error:
            log.warning("Ignoring the best generator so far, %s: %s.", self.directory, str(error).rstrip("."))
            return None
        return figure

    def is_beaten_by(self, figure: Figure) -> bool:
        """Whether ``figure`` is lower than the best one, or there is no best one with the same protocol."""
        if not math.isfinite(figure.value):
            return False
        best = self.figure
        return best is None or best["protocol_digest"] != figure.protocol.digest or figure.value < best["value"]

    def copy_to(self, directory: Path | str, **extra: Any) -> None:
        """Copy it to the folder ``directory`` atomically; ``extra`` are values to set in its description."""
        with atomic_write(directory) as temporary:
            shutil.copytree(self.directory, temporary)
            write_json(temporary / DESCRIPTION, {**read_json(temporary / DESCRIPTION), **extra})

    def delete(self) -> None:
        """Delete it from disk, if it exists."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.directory)
