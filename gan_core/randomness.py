"""Random numbers as functions of seed and step, so that a resumed run, or one with other workers, draws the same numbers.

No state is kept between steps, so checkpoints need no random state.
"""

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_SAMPLE_ROWS = 256
Key = tuple[int | str, ...]
"""Names a draw. Its text is the seed."""


def derive_seed(*parts: int | str) -> int:
    """Derive a 63-bit seed from ``parts``. Different parts give unrelated seeds."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@dataclass(frozen=True)
class WorkerSlice:
    """One worker's rows of a batch that all workers share."""

    rank: int = 0
    """Rank of the worker, from 0."""
    world: int = 1
    """Number of workers."""

    def rows(self, count: int) -> slice:
        """Return this worker's rows of the batch if each worker has ``count`` rows."""
        return slice(self.rank * count, (self.rank + 1) * count)


def normal(shape: tuple[int, ...], part: WorkerSlice, device: torch.device, *key: int | str) -> Tensor:
    """Draw standard normal numbers of ``shape`` for this worker: its rows of a draw for all workers. ``key`` is the seed."""
    return _source(Draw(torch.randn, shape, part, device, key))


def uniform(shape: tuple[int, ...], part: WorkerSlice, device: torch.device, *key: int | str) -> Tensor:
    """Draw uniform numbers in [0, 1) of ``shape`` for this worker: its rows of a draw for all workers. ``key`` is the seed."""
    return _source(Draw(torch.rand, shape, part, device, key))


@dataclass(frozen=True)
class Draw:
    """A request for random numbers."""

    kind: Callable[..., Tensor]
    """torch.randn or torch.rand."""
    shape: tuple[int, ...]
    part: WorkerSlice
    device: torch.device
    key: Key

    def make(self) -> Tensor:
        """Draw the numbers."""
        whole = self.kind(
            (self.shape[0] * self.part.world, *self.shape[1:]), generator=self._generator(), device=self.device
        )
        return whole[self.part.rows(self.shape[0])]

    def fill(self, memory: Tensor) -> None:
        """Draw the numbers of a single worker into ``memory``, which :meth:`make` returned for another key."""
        self.kind(self.shape, generator=self._generator(), out=memory)

    def _generator(self) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(derive_seed(*self.key))


_source: Callable[[Draw], Tensor] = Draw.make


@contextlib.contextmanager
def drawn_by(source: Callable[[Draw], Tensor]) -> Iterator[None]:
    """Within the block, :func:`normal` and :func:`uniform` return what ``source`` makes of their request."""
    global _source
    before, _source = _source, source
    try:
        yield
    finally:
        _source = before


def sampling_uniform(first: int, count: int, width: int, seed: int) -> Tensor:
    """Return rows ``first`` to ``first + count`` of an endless table of uniform numbers in (0, 1).

    Row i depends only on ``seed`` and ``width``, not on the batch size, the device or the count, so that picture i of a seed is
    always the same.

    Returns:
        float64 (count, width), on the CPU.
    """
    blocks = range(first // _SAMPLE_ROWS, (first + count - 1) // _SAMPLE_ROWS + 1)
    rows = np.concatenate([np.random.default_rng([seed, block]).random((_SAMPLE_ROWS, width)) for block in blocks])
    start = first - blocks.start * _SAMPLE_ROWS
    return torch.from_numpy(rows[start : start + count].clip(1e-12, 1 - 1e-12))


def seed_global(seed: int, step: int, rank: int) -> None:
    """Seed torch's default generators for a step, so that noise and dropout in networks are functions of the step too."""
    value = derive_seed(seed, "step", step, rank)
    # Not torch.manual_seed: for each type of device that is not initialised it formats a stack trace, which takes longer than
    # the rest (2 % of a DCGAN step on a CPU).
    torch.default_generator.manual_seed(value)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(value)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(value)
