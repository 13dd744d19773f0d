"""Where the pictures of a comparison come from: a split of a prepared dataset, a folder or zip of files, a generator that
makes them from noise or of other pictures."""

import hashlib
import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from gan_core.data import PreparedDataset
from gan_core.errors import DataError, SettingsError
from gan_core.images import bounded, files
from gan_core.images.colour import lab_to_rgb
from gan_core.images.pictures import PictureError
from gan_core.metrics.inception import composite_on_white
from gan_core.randomness import derive_seed

log = logging.getLogger(__name__)

SAMPLE_CHUNK = 1024
"""Pictures asked of a generator at a time. Fixed, so that the pictures do not depend on any batch size."""

MAX_UNREADABLE_SHARE = 0.01
"""Above this share of pictures that cannot be read there is no figure: it would be of other pictures than was meant. As
``ingest.max_reject_share`` has it by default."""

Prepare = Callable[[Tensor], Tensor]
"""uint8 (N, C, H, W) to the extractor's input."""
TRANSLATE_CHUNK = 64
"""Pictures given to a translating generator at a time, at most."""
Sample = Callable[[int, int], Tensor]
"""(n, seed) to uint8 (n, C, H, W), equal for equal arguments."""


class Translate(Protocol):
    """What translates: a generator, or a trainer's averaged networks."""

    def __call__(self, images: Tensor, target: int | None = None, seed: int = 0, *, first: int = 0) -> Tensor:
        """uint8 (N, C', H, W) to uint8 (N, C, H, W); picture i depends on the seed and on ``first + i``, no other picture."""


class Source(Protocol):
    """Pictures to take features of."""

    name: str
    """For messages and progress."""
    split: str
    """Name of the split; empty when there is none."""

    @property
    def unreadable(self) -> Mapping[str, str]:
        """By name, why a picture could not be read in the last pass and is left out; empty where all come from Gantry."""

    def available(self) -> int | None:
        """How many pictures there are; None when as many as asked for."""

    def digest(self, count: int) -> str:
        """Names the content of the first ``count`` pictures taken."""

    def batches(self, count: int, batch_size: int, prepare: Prepare) -> Iterator[Tensor]:
        """The extractor's input for ``count`` pictures, less those that are found to be unreadable, in batches."""


class RealSource(Source, Protocol):
    """Pictures whose features are worth keeping: the same in every comparison."""

    @property
    def key(self) -> dict[str, Any]:
        """Names them, whatever their number."""


class DatasetSplit:
    """A split of a prepared dataset, or those of its pictures that are of one domain."""

    unreadable: Mapping[str, str] = MappingProxyType({})

    def __init__(
        self, dataset: PreparedDataset, split: str, domain: int | None = None, *, lacking: bool = False
    ) -> None:
        """``domain`` is a label, or the number of an attribute: pictures that have it, or with ``lacking`` have it not.

        Raises:
            DataError: no such split, or no domains.
        """
        self.dataset = dataset
        self.split = split
        self.domain = domain
        self.lacking = lacking
        self.name = f"{dataset.info.name} {split}"
        dataset.shards(split)
        if domain is not None:
            named = dataset.info.attributes or dataset.info.classes
            if not named:
                raise DataError(f"{dataset.directory} has no domains. Ingest it with ingest.kind: domains.")
            self.name += f" {'without ' if lacking else ''}{named[domain]}"

    @property
    def key(self) -> dict[str, Any]:
        """See :class:`RealSource`."""
        key: dict[str, Any] = {"dataset": self.dataset.info.digest, "split": self.split}
        if self.domain is not None:
            key |= {"domain": self.domain, "lacking": self.lacking}
        return key

    @cached_property
    def rows(self) -> np.ndarray:
        """Which of the split's pictures these are, in order."""
        if self.domain is None:
            return np.arange(self.dataset.info.splits[self.split])
        labels = self.dataset.labels(self.split)
        assert labels is not None  # the constructor has looked
        has = labels[:, self.domain] == 1 if labels.ndim == 2 else labels == self.domain
        return np.flatnonzero(has != self.lacking)

    def available(self) -> int:
        """Pictures there are."""
        return len(self.rows)

    def digest(self, count: int) -> str:
        """The dataset's own digest."""
        return self.dataset.info.digest

    def chosen(self, count: int) -> np.ndarray:
        """Rows of the split that ``count`` pictures are: a fixed fair draw, in order."""
        return self.rows[subset(len(self.rows), count)]

    def batches(self, count: int, batch_size: int, prepare: Prepare) -> Iterator[Tensor]:
        """See :class:`Source`."""
        pixels = self.dataset.pixels(self.split)
        chosen = self.chosen(count)
        for start in range(0, count, batch_size):
            yield prepare(torch.from_numpy(pixels[chosen[start : start + batch_size]]))


class IdentityTranslations(DatasetSplit):
    """What the pictures of a split of paired data are made from, unchanged, as the answer: what a translation must beat."""

    def __init__(self, dataset: PreparedDataset, split: str) -> None:
        super().__init__(dataset, split)
        self.name += " unchanged"

    @property
    def key(self) -> dict[str, Any]:
        """See :class:`RealSource`."""
        return {**super().key, "column": "condition"}

    def batches(self, count: int, batch_size: int, prepare: Prepare) -> Iterator[Tensor]:
        """See :class:`Source`."""
        info, pixels = self.dataset.info, conditions_of(self.dataset, self.split)
        chosen = self.chosen(count)
        for start in range(0, count, batch_size):
            part = torch.from_numpy(pixels[chosen[start : start + batch_size]])
            yield prepare(identity_translation(part, info.channels, info.derived))


class PictureFolder:
    """All pictures in a folder and the folders in it, or in a zip, of any sizes.

    A picture that cannot be read is left out of the batches and named in ``unreadable``.
    """

    split = ""

    def __init__(self, path: Path, encoding: str | None = None) -> None:
        """Raises DataError when there is nothing of the kind at ``path``, or no picture in it.

        ``encoding`` is that of the names in a zip that do not say theirs.
        """
        self.path = path
        self.name = path.name
        self.files = files.PictureFiles(path, encoding)
        if self.files.is_single:
            raise DataError(f"{path} is neither a folder nor a zip file of pictures.")
        self.unreadable: dict[str, str] = {}
        self._digests: dict[str, bytes] = {}

    def available(self) -> int:
        """Pictures found."""
        return len(self.files.names)

    def digest(self, count: int) -> str:
        """SHA-256 over the content of the chosen files in the order of their names, less those found to be unreadable."""
        whole = hashlib.sha256()
        for name in self._chosen(count):
            if name not in self._digests and name not in self.unreadable:
                self._read(name)
            if name not in self.unreadable:
                whole.update(self._digests[name])
        self._check_share(count)
        return whole.hexdigest()

    def batches(self, count: int, batch_size: int, prepare: Prepare) -> Iterator[Tensor]:
        """See :class:`Source`; raises DataError when more than :data:`MAX_UNREADABLE_SHARE` of the files cannot be read."""

        def one(name: str) -> Tensor | None:
            content = self._read(name)
            if content is None:
                return None
            try:
                return prepare(torch.tensor(bounded.decode(files.drawn(name, content), 3))[None])
            except PictureError as error:
                self.unreadable[name] = str(error)
                return None

        self.unreadable.clear()
        # Decoding beside the network: it is what a GPU would wait for.
        with ThreadPoolExecutor(os.cpu_count()) as pool, ExitStack() as stack:
            waiting: deque[Future[Tensor | None]] = deque()
            stack.callback(lambda: [future.cancel() for future in waiting])
            batch: list[Tensor] = []

            def take() -> None:
                made = waiting.popleft().result()
                if made is None:
                    self._check_share(count)
                else:
                    batch.append(made)

            for name in self._chosen(count):
                waiting.append(pool.submit(one, name))
                if len(waiting) > 2 * batch_size:
                    take()
                if len(batch) == batch_size:
                    yield torch.cat(batch)
                    batch.clear()
            while waiting:
                take()
            for start in range(0, len(batch), batch_size):
                yield torch.cat(batch[start : start + batch_size])
        # Threads come to them in any order.
        self.unreadable = dict(sorted(self.unreadable.items()))

    def _chosen(self, count: int) -> list[str]:
        return [self.files.names[index] for index in subset(len(self.files.names), count)]

    def _read(self, name: str) -> bytes | None:
        """The content of a file; None where it cannot be read, which is noted."""
        try:
            content = self.files.read(name)
        except PictureError as error:
            self.unreadable[name] = str(error)
            return None
        self._digests[name] = hashlib.sha256(content).digest()
        return content

    def _check_share(self, count: int) -> None:
        if len(self.unreadable) > MAX_UNREADABLE_SHARE * count:
            told = "; ".join(f"{name} ({why.rstrip('.')})" for name, why in sorted(self.unreadable.items())[:5])
            raise DataError(
                f"{self.path}: {len(self.unreadable)} of {count} pictures cannot be read, more than "
                f"{MAX_UNREADABLE_SHARE:.0%}: {told}. Mend or remove them, and run again."
            )


class Samples:
    """What a generator draws from a seed."""

    unreadable: Mapping[str, str] = MappingProxyType({})

    split = ""

    def __init__(self, sample: Sample, *, seed: int, digest: str, name: str = "generator") -> None:
        """``digest`` names the generator."""
        self.name = name
        self.seed = seed
        self._sample = sample
        self._digest = digest

    def available(self) -> None:
        """As many as asked for."""
        return

    def digest(self, count: int) -> str:
        """The generator's digest."""
        return self._digest

    def batches(self, count: int, batch_size: int, prepare: Prepare) -> Iterator[Tensor]:
        """See :class:`Source`. The first chunk is what ``sample`` gives for the seed itself."""
        for chunk, start in enumerate(range(0, count, SAMPLE_CHUNK)):
            # 31 bits: what every random generator takes.
            seed = derive_seed(self.seed, "chunk", chunk) % 2**31 if chunk else self.seed
            pictures = self._sample(min(SAMPLE_CHUNK, count - start), seed)
            for part in pictures.split(batch_size):
                yield prepare(part)


class Translated:
    """What a generator makes of the pictures of a split: of their conditions where the data is paired."""

    unreadable: Mapping[str, str] = MappingProxyType({})

    def __init__(
        self,
        translate: Translate,
        of: DatasetSplit,
        target: int | None = None,
        *,
        seed: int,
        digest: str,
        watch: Callable[[Tensor, Tensor, int], None] | None = None,
    ) -> None:
        """
        Args:
            translate: the generator's.
            of: the pictures to translate.
            target: domain to translate to; None where there is only one way.
            seed: of what the generator draws beside the picture.
            digest: names the generator.
            watch: is shown each batch as it passes: pictures given, pictures made (both uint8, on the CPU), number of
                the first.
        """
        self.of = of
        self.seed = seed
        self.split = of.split
        self.name = f"translations of {of.name}"
        self._translate, self._target, self._digest, self._watch = translate, target, digest, watch

    def available(self) -> int:
        """As many as there are to translate."""
        return self.of.available()

    def digest(self, count: int) -> str:
        """The generator's digest."""
        return self._digest

    def batches(self, count: int, batch_size: int, prepare: Prepare) -> Iterator[Tensor]:
        """See :class:`Source`."""
        dataset = self.of.dataset
        paired = dataset.info.condition_channels > 0
        pixels = conditions_of(dataset, self.split) if paired else dataset.pixels(self.split)
        chosen = self.of.chosen(count)
        step = min(batch_size, TRANSLATE_CHUNK)
        for start in range(0, count, step):
            given = torch.from_numpy(pixels[chosen[start : start + step]])
            made = self._translate(given, self._target, self.seed, first=start)
            if self._watch is not None:
                self._watch(given, made.cpu(), start)
            yield prepare(made)


def conditions_of(dataset: PreparedDataset, split: str) -> np.ndarray:
    """What the pictures of paired data are made from, uint8 (N, C', H, W); raises DataError for other data."""
    conditions = dataset.conditions(split)
    if conditions is None:
        raise DataError(
            f"{dataset.directory} is not paired: nothing to translate from. Ingest it with ingest.kind: paired."
        )
    return conditions


def identity_translation(conditions: Tensor, channels: int, derived: str = "") -> Tensor:
    """Pictures to translate from, as if they were the translation.

    Args:
        conditions: uint8 (N, C', H, W).
        channels: those of the answer, 1, 3 or 4.
        derived: how they were derived. A ``greyscale`` one is CIE L* and is shown as the grey of that lightness.

    Returns:
        uint8 (N, channels, H, W). Transparency is composed on white, or set to opaque; colours become grey by their luma.

    Raises:
        SettingsError: other numbers of channels.
    """
    found = conditions.shape[1]
    if found not in (1, 3, 4) or channels not in (1, 3, 4):
        raise SettingsError(f"Pictures have 1, 3 or 4 channels, not {found} or {channels}.")
    if derived == "greyscale" and found == 1:
        conditions = _GREY_OF_LIGHTNESS[conditions.long()]
    if channels == found:
        return conditions
    if found == 4:
        conditions = composite_on_white(conditions)
    if channels == 1:
        # ITU-R 601's weights in 16 bits, as Pillow has them when it reads a coloured file in grey.
        red, green, blue = conditions.int().unbind(1)
        return ((19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16).to(torch.uint8)[:, None]
    colour = conditions.expand(-1, 3, -1, -1)
    return torch.cat([colour, torch.full_like(colour[:, :1], 255)], dim=1) if channels == 4 else colour


def _greys() -> Tensor:
    """The sRGB grey of each lightness, uint8 (256,)."""
    lab = torch.zeros(256, 3, 1, 1, dtype=torch.float64)
    lab[:, 0, 0, 0] = torch.arange(256) / 2.55
    return lab_to_rgb(lab)[:, 0, 0, 0].mul(255).round().to(torch.uint8)


_GREY_OF_LIGHTNESS = _greys()


def subset(total: int, count: int) -> np.ndarray:
    """``count`` of the indices below ``total``, in order: always the same, and a fair draw (files come sorted by class)."""
    if count == total:
        return np.arange(total)
    # RandomState's stream is frozen for all versions of numpy; default_rng's is not.
    return np.sort(np.random.RandomState(0).permutation(total)[:count])
