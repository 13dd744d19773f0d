"""What the measurements of one assessment share: the subject, the data, and figures stamped alike."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from gan_core.data import PreparedDataset
from gan_core.errors import DataError
from gan_core.metrics.evaluate import Comparison, compare
from gan_core.metrics.features import Features, real_features
from gan_core.metrics.inception import Extractor
from gan_core.metrics.intervals import mean_interval
from gan_core.metrics.protocol import Figure
from gan_core.metrics.protocol import Protocol as Stamp
from gan_core.metrics.sources import DatasetSplit, Samples, Translate, Translated


class Subject(Protocol):
    """What is assessed: a generator, or a trainer's averaged one."""

    @property
    def translates(self) -> bool:
        """Whether it makes pictures of pictures; of noise otherwise."""

    @property
    def directions(self) -> tuple[tuple[int | None, int | None], ...]:
        """From which domain to which; an attribute has (None, its number)."""

    def sample(self, n: int, seed: int) -> Tensor:
        """Pictures made from noise: uint8 (n, C, H, W)."""

    @property
    def translate(self) -> Translate:
        """Pictures made of pictures."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Where a subject is measured; fields are the arguments of :func:`gan_core.metrics.assess.assess`."""

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

    def pictures(self, domain: int | None = None, *, lacking: bool = False) -> DatasetSplit:
        """The split, or a domain of it; raises DataError for fewer than two pictures, which no figure can be made of."""
        return check_two_pictures(DatasetSplit(self.dataset, self.split, domain, lacking=lacking))

    def translated_count(self, source: DatasetSplit) -> int:
        """How many pictures of ``source`` are translated."""
        return min(self.count, source.available())

    def from_noise(self) -> Comparison:
        """What the subject makes from noise against the split."""
        real = DatasetSplit(self.dataset, self.split)
        fake = Samples(self.subject.sample, seed=self.seed, digest=self.generator_digest)
        wanted = min(self.count, real.available()) if self.real_count is None else self.real_count
        return self._compare(real, fake, wanted, self.count)

    def translated(
        self,
        of: DatasetSplit,
        real: DatasetSplit,
        to: int | None,
        watch: Callable[[Tensor, Tensor, int], None],
        direction: str,
        *,
        warn: bool = True,
    ) -> Comparison:
        """Translations of ``of`` to domain ``to`` against ``real``; ``watch`` sees them pass where all is measured."""
        fake = Translated(
            self.subject.translate,
            of,
            to,
            seed=self.seed,
            digest=self.generator_digest,
            watch=watch if self.full else None,
        )
        wanted = min(self.count if self.real_count is None else self.real_count, real.available())
        return self._compare(real, fake, wanted, self.translated_count(of), direction=direction, warn=warn)

    def identity_features(self, source: DatasetSplit) -> Features | None:
        """Features of ``source`` as the trivial answer; None where only the objective is wanted."""
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
        """A figure that is the mean of a value a picture, (N,) in parts; ``more`` as :meth:`figure`."""
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
        """A figure of pictures themselves, or of what a classifier says of them, not of their Inception features."""
        protocol = Stamp(
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
        fake: Samples | Translated,
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
            # What is measured again and again, to be compared with itself alone, is not warned of each time.
            warn=warn and self.full,
        )


def check_two_pictures(source: DatasetSplit) -> DatasetSplit:
    """``source`` itself; raises DataError where it has fewer than two pictures, which no figure can be made of."""
    available = source.available()
    if available >= 2:
        return source
    what = "picture" if available == 1 else "pictures"
    remedy = "Hold more out (ingest.test_share), or measure on another split (evaluate.split)."
    if source.split == "train":
        remedy = "Add some, or leave it out."
        if source.dataset.info.attributes:
            remedy = "Leave the attribute out (ingest.attributes): nothing can be learnt of it."
    raise DataError(f"{source.name} has {available} {what}, and a figure needs 2 or more. {remedy}")


def mean_value(values: Sequence[Tensor]) -> float:
    """The mean of a value a picture, (N,) in parts."""
    return float(torch.cat(list(values)).double().mean())
