"""Random numbers as functions of (seed, step), so that a resumed run, or one on other workers, draws the same ones.

Nothing here keeps a state between steps, so no checkpoint has to hold one.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_SAMPLE_ROWS = 256


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed from ``parts``; different parts give unrelated seeds."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@dataclass(frozen=True)
class WorkerSlice:
    """One worker's rows of a batch that all workers draw together."""

    rank: int = 0
    world: int = 1

    def rows(self, count: int) -> slice:
        """This worker's rows when each worker has ``count`` of them."""
        return slice(self.rank * count, (self.rank + 1) * count)


def normal(shape: tuple[int, ...], part: WorkerSlice, device: torch.device, *key: int | str) -> Tensor:
    """Standard normal numbers of ``shape`` for this worker: its rows of one draw of ``world`` times as many."""
    return _draw(torch.randn, shape, part, device, key)


def uniform(shape: tuple[int, ...], part: WorkerSlice, device: torch.device, *key: int | str) -> Tensor:
    """Uniform numbers in [0, 1) of ``shape`` for this worker: its rows of one draw of ``world`` times as many."""
    return _draw(torch.rand, shape, part, device, key)


def _draw(draw, shape: tuple[int, ...], part: WorkerSlice, device: torch.device, key: tuple[int | str, ...]) -> Tensor:
    generator = torch.Generator(device).manual_seed(derive_seed(*key))
    whole = draw((shape[0] * part.world, *shape[1:]), generator=generator, device=device)
    return whole[part.rows(shape[0])]


def sampling_uniform(first: int, count: int, width: int, seed: int) -> Tensor:
    """Rows ``first`` to ``first + count`` of an endless table of uniform numbers in (0, 1) that ``seed`` names.

    Row i is the same whatever the batch size, the device or the total count: picture i of a seed is always the same.
    Shape (count, width), float64, on the CPU.
    """
    blocks = range(first // _SAMPLE_ROWS, (first + count - 1) // _SAMPLE_ROWS + 1)
    rows = np.concatenate([np.random.default_rng([seed, block]).random((_SAMPLE_ROWS, width)) for block in blocks])
    start = first - blocks.start * _SAMPLE_ROWS
    return torch.from_numpy(rows[start : start + count].clip(1e-12, 1 - 1e-12))


def seed_global(seed: int, step: int, rank: int) -> None:
    """Seed torch's own generators for one step: noise and dropout in networks are then functions of the step too."""
    value = derive_seed(seed, "step", step, rank)
    # Not torch.manual_seed: for each kind of device that was never started it keeps a printed stack, which takes longer than
    # the rest (2 % of a DCGAN step on a processor).
    torch.default_generator.manual_seed(value)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(value)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(value)
