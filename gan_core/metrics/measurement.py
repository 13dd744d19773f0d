"""The arguments that all measurements of an assessment share, and the figures made from them."""

import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gan_core.data import PreparedDataset
from gan_core.errors import DataError
from gan_core.metrics.copying import ClosestPairs, Copying, closest_pairs
from gan_core.metrics.evaluate import Comparison, compare
from gan_core.metrics.features import Features, real_features
from gan_core.metrics.inception import Extractor
from gan_core.metrics.intervals import mean_interval
from gan_core.metrics.protocol import Figure, Protocol
from gan_core.metrics.sources import DatasetSplit, Samples, Translate, Translations


@typing.runtime_checkable
class LabelledSubject(typing.Protocol):
    """A generator whose pictures from noise may have classes."""

    @property
    def conditional(self) -> bool:
        """Whether it is class-conditional."""

    def labels(self, n: int, seed: int) -> Tensor | None:
        """Classes of the pictures that ``sample(n, seed)`` makes, int64 (n,); None if it is not class-conditional."""


class Subject(typing.Protocol):
    """What is measured: a generator, or the averaged generator of a trainer."""

    @property
    def translates(self) -> bool:
        """Whether it translates pictures; False if it generates them from noise."""

    @property
    def directions(self) -> tuple[tuple[int | None, int | None], ...]:
        """(source, target) domains of each direction; (None, index) for an attribute."""

    def sample(self, n: int, seed: int) -> Tensor:
        """Generate pictures from noise: uint8 (n, C, H, W)."""

    @property
    def translate(self) -> Translate:
        """Translate pictures."""


@dataclass
class Findings:
    """Results of an assessment besides its figures."""

    omitted: dict[str, str] = field(default_factory=dict)
    """Figures that cannot be measured, with the reason."""
    copying: Copying | None = None
    """Distances of generated pictures to training pictures; None if they were not measured."""
    pairs: ClosestPairs | None = None
    """The closest pairs of a generated and a real picture; None if only the objective is measured."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A subject and how to measure it. For the fields see :func:`gan_core.metrics.assess.assess`."""

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
    path_samples: int = 0
    findings: Findings = field(default_factory=Findings)
    """What is found besides figures; filled while measuring."""

    def pictures(self, domain: int | None = None, *, lacking: bool = False) -> DatasetSplit:
        """Real pictures of the split, or of one of its domains. Raises DataError if there are fewer than two."""
        return check_two_pictures(DatasetSplit(self.dataset, self.split, domain, lacking=lacking))

    def translated_count(self, source: DatasetSplit) -> int:
        """Number of pictures of ``source`` to translate."""
        return min(self.count, source.available())

    def compare_samples(self) -> Comparison:
        """Compare pictures generated from noise with the split."""
        real = DatasetSplit(self.dataset, self.split)
        fake = self.samples()
        wanted = min(self.count, real.available()) if self.real_count is None else self.real_count
        return self._compare(real, fake, wanted, self.count)

    def samples(self) -> Samples:
        """The pictures that the subject generates from noise."""
        return Samples(self.subject.sample, seed=self.seed, digest=self.generator_digest)

    def translations(
        self, of: DatasetSplit, to: int | None, on_batch: Callable[[Tensor, Tensor, int], None] | None = None
    ) -> Translations:
        """The translations of ``of`` to domain ``to``; for ``on_batch`` see :class:`Translations`."""
        return Translations(
            self.subject.translate, of, to, seed=self.seed, digest=self.generator_digest, on_batch=on_batch
        )

    def compare_translations(
        self,
        of: DatasetSplit,
        real: DatasetSplit,
        to: int | None,
        on_batch: Callable[[Tensor, Tensor, int], None],
        direction: str,
        *,
        warn: bool = True,
    ) -> Comparison:
        """Compare translations of ``of`` to domain ``to`` with ``real``.

        ``on_batch`` is called for each batch of translations, as in :class:`Translations`, if ``full`` is set.
        """
        fake = self.translations(of, to, on_batch if self.full else None)
        wanted = min(self.count if self.real_count is None else self.real_count, real.available())
        return self._compare(real, fake, wanted, self.translated_count(of), direction=direction, warn=warn)

    def find_pairs(self, comparison: Comparison, real: DatasetSplit, fakes: Callable[[np.ndarray], Tensor]) -> None:
        """Find the closest pairs of a comparison, unless pairs were found before.

        Args:
            comparison: of generated pictures with ``real``.
            real: the real pictures.
            fakes: function from indices of generated pictures, int64 (n,), to the pictures, uint8 (n, C, H, W).
        """
        if not self.full or self.findings.pairs is not None:
            return
        pixels, rows = self.dataset.pixels(self.split), real.chosen_rows(comparison.real.n)
        self.findings.pairs = closest_pairs(
            comparison.real,
            comparison.fake,
            comparison.neighbours.to_real if comparison.neighbours else None,
            reals=lambda chosen: torch.from_numpy(np.stack([pixels[rows[index : index + 1]][0] for index in chosen])),
            fakes=fakes,
        )

    def identity_features(self, source: DatasetSplit) -> Features | None:
        """Features of ``source`` itself, for the baseline of unchanged input; None unless ``full`` is set."""
        if not self.full:
            return None
        return real_features(
            source,
            self.translated_count(source),
            self.extractor,
            keep=True,
            cache_dir=self.cache_dir,
            batch_size=self.batch_size,
            progress=self.progress,
        )

    def mean(self, name: str, values: Sequence[Tensor], **more: Any) -> Figure:
        """A figure that is the mean of one value per picture; ``values`` are batches (N,). For ``more`` see :meth:`figure`."""
        whole = torch.cat(list(values)).double().numpy()
        return self.figure(name, float(whole.mean()), mean_interval(whole), len(whole), **more)

    def figure(
        self,
        name: str,
        value: float,
        interval: tuple[float, float] | tuple[None, None],
        count: int,
        *,
        direction: str = "",
        classifier: str = "",
        **more: Any,
    ) -> Figure:
        """A figure that is computed from pixels or by a classifier, without Inception features."""
        protocol = Protocol(
            metric=name,
            extractor=classifier,
            features=0,
            precision="fp32" if classifier else "fp64",
            resize="",
            real_count=count,
            fake_count=count,
            split=self.split,
            dataset_digest=self.dataset.info.digest,
            direction=direction,
        )
        return Figure(
            name=name,
            value=value,
            protocol=protocol,
            generator_digest=self.generator_digest,
            seed=self.seed,
            low=interval[0],
            high=interval[1],
            **more,
        )

    def _compare(
        self,
        real: DatasetSplit,
        fake: Samples | Translations,
        real_count: int,
        fake_count: int,
        *,
        direction: str = "",
        warn: bool = True,
    ) -> Comparison:
        return compare(
            real,
            fake,
            extractor=self.extractor,
            real_count=real_count,
            fake_count=fake_count,
            full=self.full,
            batch_size=self.batch_size,
            cache_dir=self.cache_dir,
            progress=self.progress,
            direction=direction,
            # Repeated measurements of a search or a run are compared only with each other: no warning for each.
            warn=warn and self.full,
        )


def check_two_pictures(source: DatasetSplit) -> DatasetSplit:
    """Return ``source``; raise DataError if it has fewer than two pictures, which are too few to measure."""
    available = source.available()
    if available >= 2:
        return source
    what = "picture" if available == 1 else "pictures"
    remedy = "Increase the test split (ingest.test_share), or measure on another split (evaluate.split)."
    if source.split == "train":
        remedy = "Add pictures, or remove the domain."
        if source.dataset.info.attributes:
            remedy = "Remove the attribute from ingest.attributes: there is too little data to learn it."
    raise DataError(f"{source.name} has {available} {what}, but a measurement needs at least 2. {remedy}")


def mean_value(values: Sequence[Tensor]) -> float:
    """The mean of one value per picture; ``values`` are batches (N,)."""
    return float(torch.cat(list(values)).double().mean())
