"""Sources of pictures to compare: a split of a prepared dataset, a folder or zip of files, or a generator."""

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

from gan_core.data import Pictures, PreparedDataset
from gan_core.errors import DataError, SettingsError
from gan_core.images import files, sandbox
from gan_core.images.colour import lab_to_rgb
from gan_core.images.pictures import PictureError
from gan_core.metrics.inception import composite_on_white
from gan_core.randomness import derive_seed

log = logging.getLogger(__name__)

SAMPLE_CHUNK = 1024
"""Number of pictures to request from a generator at once. Fixed, so that pictures do not depend on the batch size."""

MAX_UNREADABLE_SHARE = 0.01
"""Maximum share of unreadable pictures; above it, measuring fails. Equal to the default of ``ingest.max_reject_share``. One
unreadable picture is always allowed, if two others can be read."""

Prepare = Callable[[Tensor], Tensor]
"""uint8 (N, C, H, W) to the extractor's input."""
TRANSLATE_CHUNK = 64
"""Maximum number of pictures to translate at once."""
Sample = Callable[[int, int], Tensor]
"""Deterministic function from (n, seed) to uint8 (n, C, H, W)."""


class Translate(Protocol):
    """Translates pictures: a generator, or the averaged networks of a trainer."""

    def __call__(self, images: Tensor, target: int | None = None, seed: int = 0, *, first: int = 0) -> Tensor:
        """uint8 (N, C', H, W) to uint8 (N, C, H, W). Result i depends on picture i, the seed and ``first + i`` only."""


class Source(Protocol):
    """Pictures to extract features from."""

    name: str
    """Name for messages and progress."""
    split: str
    """Name of the split; empty if there is none."""

    @property
    def unreadable(self) -> Mapping[str, str]:
        """Pictures left out of the last pass: file name to reason. Always empty for prepared and generated pictures."""

    def available(self) -> int | None:
        """Number of pictures; None if there is no limit."""

    def digest(self, count: int) -> str:
        """Digest of the content of ``count`` pictures."""

    def batches(self, count: int, batch_size: int, prepare: Prepare) -> Iterator[Tensor]:
        """Batches of the extractor's input for ``count`` pictures, without the unreadable ones."""


class RealSource(Source, Protocol):
    """Pictures that are the same in every comparison, so that their features are cached."""

    @property
    def key(self) -> dict[str, Any]:
        """Identifies the pictures in the cache, without their number."""


class DatasetSplit:
    """A split of a prepared dataset, or the pictures of one domain in it."""

    unreadable: Mapping[str, str] = MappingProxyType({})

    def __init__(
        self, dataset: PreparedDataset, split: str, domain: int | None = None, *, lacking: bool = False
    ) -> None:
        """Select pictures of ``split``.

        Args:
            dataset: the prepared dataset.
            split: name of the split.
            domain: label of a domain, or index of an attribute; None selects all pictures.
            lacking: select the pictures without the attribute, instead of those with it.

        Raises:
            DataError: the split does not exist, or the dataset has no domains.
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
        """Indices of the selected pictures in the split, ascending."""
        if self.domain is None:
            return np.arange(self.dataset.info.splits[self.split])
        labels = self.dataset.labels(self.split)
        assert labels is not None  # checked by the constructor
        has = labels[:, self.domain] == 1 if labels.ndim == 2 else labels == self.domain
        return np.flatnonzero(has != self.lacking)

    def available(self) -> int:
        """Number of pictures."""
        return len(self.rows)

    def digest(self, count: int) -> str:
        """Digest of the dataset, whatever the ``count``."""
        return self.dataset.info.digest

    def chosen_rows(self, count: int) -> np.ndarray:
        """Indices in the split of a fixed random subset of ``count`` pictures, ascending."""
        return self.rows[random_subset(len(self.rows), count)]

    def batches(self, count: int, batch_size: int, prepare: Prepare) -> Iterator[Tensor]:
        """See :class:`Source`."""
        pixels = self.dataset.pixels(self.split)
        chosen = self.chosen_rows(count)
        for start in range(0, count, batch_size):
            yield prepare(torch.from_numpy(pixels[chosen[start : start + batch_size]]))


class IdentityTranslations(DatasetSplit):
    """The inputs of a split of paired data, taken as their own translations: the baseline of a translation."""

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
        chosen = self.chosen_rows(count)
        for start in range(0, count, batch_size):
            part = torch.from_numpy(pixels[chosen[start : start + batch_size]])
            yield prepare(identity_translation(part, info.channels, info.derived))


class PictureFolder:
    """All pictures in a folder and its subfolders, or in a zip file, of any sizes.

    Pictures that cannot be read are left out of the batches and listed in ``unreadable``.
    """

    split = ""

    def __init__(self, path: Path, encoding: str | None = None) -> None:
        """List the pictures at ``path``.

        Args:
            path: a folder or a zip file.
            encoding: encoding of file names in a zip file that does not state it.

        Raises:
            DataError: ``path`` is neither a folder nor a zip file, or has no pictures.
        """
        self.path = path
        self.name = path.name
        self.files = files.PictureFiles(path, encoding)
        if self.files.is_single:
            raise DataError(f"{path} is neither a folder nor a zip file. Give a folder or a zip file of pictures.")
        self.unreadable: dict[str, str] = {}
        self._digests: dict[str, bytes] = {}

    def available(self) -> int:
        """Number of picture files."""
        return len(self.files.names)

    def digest(self, count: int) -> str:
        """SHA-256 of the content of the chosen files in the order of their names, without the unreadable ones."""
        whole = hashlib.sha256()
        for name in self._chosen(count):
            if name not in self._digests and name not in self.unreadable:
                self._read(name)
            if name not in self.unreadable:
                whole.update(self._digests[name])
        self._check_share(count)
        return whole.hexdigest()

    def batches(self, count: int, batch_size: int, prepare: Prepare) -> Iterator[Tensor]:
        """See :class:`Source`.

        Raises:
            DataError: more than one of the files, and more than :data:`MAX_UNREADABLE_SHARE` of them, cannot be read, or
                fewer than two are left.
        """

        def one(name: str) -> Tensor | None:
            content = self._read(name)
            if content is None:
                return None
            try:
                return prepare(torch.tensor(sandbox.decode(files.render_if_svg(name, content), 3))[None])
            except PictureError as error:
                self.unreadable[name] = str(error)
                return None

        self.unreadable.clear()
        # Decode in threads while the network runs: a GPU would wait for it.
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
        # Threads add entries in any order.
        self.unreadable = dict(sorted(self.unreadable.items()))

    def _chosen(self, count: int) -> list[str]:
        return [self.files.names[index] for index in random_subset(len(self.files.names), count)]

    def _read(self, name: str) -> bytes | None:
        """The content of a file; None if it cannot be read, after adding it to ``unreadable``."""
        try:
            content = self.files.read(name)
        except PictureError as error:
            self.unreadable[name] = str(error)
            return None
        self._digests[name] = hashlib.sha256(content).digest()
        return content

    def _check_share(self, count: int) -> None:
        unreadable = len(self.unreadable)
        why = ""
        if unreadable > max(1, MAX_UNREADABLE_SHARE * count):
            why = f"more than {MAX_UNREADABLE_SHARE:.0%} and more than one"
        elif unreadable and count - unreadable < 2:
            why = "which leaves fewer than two"
        if why:
            examples = "; ".join(f"{name} ({why.rstrip('.')})" for name, why in sorted(self.unreadable.items())[:5])
            raise DataError(
                f"{self.path}: {unreadable} of {count} pictures cannot be read, {why}: {examples}. Repair or remove these "
                "files, and run again."
            )


class Samples:
    """Pictures that a generator makes from noise."""

    unreadable: Mapping[str, str] = MappingProxyType({})

    split = ""

    def __init__(self, sample: Sample, *, seed: int, digest: str, name: str = "generator") -> None:
        """``digest``: digest of the generator."""
        self.name = name
        self.seed = seed
        self._sample = sample
        self._digest = digest

    def available(self) -> None:
        """There is no limit."""
        return

    def digest(self, count: int) -> str:
        """The generator's digest."""
        return self._digest

    def batches(self, count: int, batch_size: int, prepare: Prepare) -> Iterator[Tensor]:
        """See :class:`Source`. The first chunk uses the seed itself, later chunks use seeds derived from it."""
        for size, seed in self.chunks(count):
            for part in self._sample(size, seed).split(batch_size):
                yield prepare(part)

    def chunks(self, count: int) -> Iterator[tuple[int, int]]:
        """Arguments (n, seed) of the calls that generate ``count`` pictures, in order."""
        for chunk, start in enumerate(range(0, count, SAMPLE_CHUNK)):
            # 31 bits, which every random generator accepts.
            seed = derive_seed(self.seed, "chunk", chunk) % 2**31 if chunk else self.seed
            yield min(SAMPLE_CHUNK, count - start), seed

    def pictures(self, chosen: np.ndarray, count: int) -> Tensor:
        """Pictures ``chosen`` (indices) out of ``count``, generated again: uint8 (n, C, H, W), in the order of ``chosen``."""
        made: dict[int, Tensor] = {}
        first = 0
        for size, seed in self.chunks(count):
            wanted = [int(index) for index in chosen if first <= index < first + size]
            if wanted:
                pictures = self._sample(size, seed)
                made |= {index: pictures[index - first] for index in wanted}
            first += size
        return torch.stack([made[int(index)] for index in chosen])


class Translations:
    """Translations of the pictures of a split; for paired data, of their conditions."""

    unreadable: Mapping[str, str] = MappingProxyType({})

    def __init__(
        self,
        translate: Translate,
        of: DatasetSplit,
        target: int | None = None,
        *,
        seed: int,
        digest: str,
        on_batch: Callable[[Tensor, Tensor, int], None] | None = None,
    ) -> None:
        """
        Args:
            translate: the generator's method.
            of: the pictures to translate.
            target: domain to translate to; None if there is only one direction.
            seed: seed of the generator's random numbers.
            digest: digest of the generator.
            on_batch: called for each batch with the pictures to translate, their translations (both uint8, on the CPU) and
                the index of the first one.
        """
        self.of = of
        self.seed = seed
        self.split = of.split
        self.name = f"translations of {of.name}"
        self._translate, self._target, self._digest, self._on_batch = translate, target, digest, on_batch

    def available(self) -> int:
        """Number of pictures to translate."""
        return self.of.available()

    def digest(self, count: int) -> str:
        """The generator's digest."""
        return self._digest

    def pictures(self, chosen: np.ndarray, count: int) -> Tensor:
        """Translations ``chosen`` (indices) out of ``count``, made again: uint8 (n, C, H, W), in the order of ``chosen``."""
        pixels, rows = self._pixels(), self.of.chosen_rows(count)
        made = [
            self._translate(
                torch.from_numpy(pixels[rows[index : index + 1]]), self._target, self.seed, first=int(index)
            )
            for index in chosen
        ]
        return torch.cat(made).cpu()

    def _pixels(self) -> Pictures:
        dataset = self.of.dataset
        return conditions_of(dataset, self.split) if dataset.info.condition_channels > 0 else dataset.pixels(self.split)

    def batches(self, count: int, batch_size: int, prepare: Prepare) -> Iterator[Tensor]:
        """See :class:`Source`."""
        pixels = self._pixels()
        chosen = self.of.chosen_rows(count)
        step = min(batch_size, TRANSLATE_CHUNK)
        for start in range(0, count, step):
            given = torch.from_numpy(pixels[chosen[start : start + step]])
            made = self._translate(given, self._target, self.seed, first=start)
            if self._on_batch is not None:
                self._on_batch(given, made.cpu(), start)
            yield prepare(made)


def conditions_of(dataset: PreparedDataset, split: str) -> Pictures:
    """Conditions (pictures to translate) of paired data, uint8 (N, C', H, W); raises DataError for other kinds of data."""
    conditions = dataset.conditions(split)
    if conditions is None:
        raise DataError(
            f"{dataset.directory} is not paired data, so it has no pictures to translate from. Ingest it with ingest.kind: "
            "paired."
        )
    return conditions


def identity_translation(conditions: Tensor, channels: int, derived: str = "") -> Tensor:
    """Convert pictures to translate into the channels of their translations, otherwise unchanged.

    Args:
        conditions: uint8 (N, C', H, W).
        channels: number of output channels: 1, 3 or 4.
        derived: how the conditions were derived. ``greyscale`` means CIE L*, which becomes the grey of that lightness.

    Returns:
        uint8 (N, channels, H, W). Transparent pictures are composited on white; an added alpha channel is opaque; colour
        becomes grey by its luma.

    Raises:
        SettingsError: a number of channels is not 1, 3 or 4.
    """
    found = conditions.shape[1]
    if found not in (1, 3, 4) or channels not in (1, 3, 4):
        raise SettingsError(f"Pictures must have 1, 3 or 4 channels, got {found} channels to convert into {channels}.")
    if derived == "greyscale" and found == 1:
        conditions = _GREY_OF_LIGHTNESS[conditions.long()]
    if channels == found:
        return conditions
    if found == 4:
        conditions = composite_on_white(conditions)
    if channels == 1:
        # Weights of ITU-R 601 in 16 bits, as Pillow uses them to convert colour to grey.
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


def random_subset(total: int, count: int) -> np.ndarray:
    """A fixed random subset of ``count`` indices below ``total``, ascending (files are often sorted by class)."""
    if count == total:
        return np.arange(total)
    # The stream of RandomState never changes between versions of numpy; that of default_rng may.
    return np.sort(np.random.RandomState(0).permutation(total)[:count])
