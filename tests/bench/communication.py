"""Averaging gradients over workers: one flat all-reduce after the backward pass, beside buckets reduced during it.

``python -m tests.bench.communication`` prints, for each family and number of processes (gloo, one thread each, on this
machine), the seconds of a forward and backward pass of discriminator and generator: alone and with gradients averaged.
"""

import functools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from gan_core.families import ImageShape, build_family, family_config
from gan_core.nn import collectives

MODELS: dict[str, tuple[dict[str, Any], int]] = {
    "dcgan": ({"width": 64}, 64),
    "stylegan2": ({"channel_base": 4096, "channel_max": 256}, 32),
    "biggan": ({"width": 32}, 32),
}
WORLDS = (2, 4)
BUCKET_BYTES = 4 << 20
"""Between DDP's first bucket, 1 MiB, and its others, 25 MiB, which would hold all gradients of these networks."""
ROUNDS = 3


class Overlapped:
    """Gradients averaged in buckets, each reduced as soon as its last gradient is there, in reverse order of the parameters."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self._buckets: list[list[nn.Parameter]] = [[]]
        size = 0
        for parameter in reversed(parameters):
            if size >= BUCKET_BYTES:
                self._buckets.append([])
                size = 0
            self._buckets[-1].append(parameter)
            size += parameter.numel() * parameter.element_size()
        self._bucket_of = {p: number for number, bucket in enumerate(self._buckets) for p in bucket}
        self._hooks = [p.register_post_accumulate_grad_hook(self._arrived) for p in parameters]
        self._missing = [len(bucket) for bucket in self._buckets]
        self._works: list[tuple[Any, Tensor, list[nn.Parameter]]] = []
        self._next = 0

    def _arrived(self, parameter: nn.Parameter) -> None:
        self._missing[self._bucket_of[parameter]] -= 1
        # In the order of the buckets, because all workers must reduce in the same order.
        while self._next < len(self._buckets) and not self._missing[self._next]:
            self._reduce(self._next)

    def _reduce(self, number: int) -> None:
        bucket = self._buckets[number]
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in bucket])
        self._works.append((dist.all_reduce(flat, async_op=True), flat, bucket))
        self._next = number + 1

    def finish(self) -> None:
        """After the backward pass: reduce what has no gradient, wait, write the means, and end the hooks."""
        while self._next < len(self._buckets):
            self._reduce(self._next)
        for work, flat, bucket in self._works:
            work.wait()
            flat /= dist.get_world_size()
            for p, piece in zip(bucket, flat.split([p.numel() for p in bucket]), strict=True):
                p.grad = piece.view_as(p)
        for hook in self._hooks:
            hook.remove()


def _alone(loss: Callable[[], Tensor]) -> None:
    loss().backward()


def _flat(parameters: list[nn.Parameter], loss: Callable[[], Tensor]) -> None:
    loss().backward()
    collectives.average([torch.zeros_like(p) if p.grad is None else p.grad for p in parameters])


def _overlapped(parameters: list[nn.Parameter], loss: Callable[[], Tensor]) -> None:
    buckets = Overlapped(parameters)
    loss().backward()
    buckets.finish()


def _losses(name: str, batch: int) -> dict[str, tuple[list[nn.Parameter], Callable[[], Tensor]]]:
    settings, size = MODELS[name]
    shape = ImageShape(channels=3, height=size, width=size, classes=10 if name == "biggan" else 0)
    family: Any = build_family(name, family_config(name, settings), shape)
    generator, discriminator = family.networks["generator"], family.networks["discriminator"]
    latents = torch.randn(batch, family.config.latent)
    real = torch.rand(batch, 3, size, size).to(memory_format=torch.channels_last)
    labels = [torch.arange(batch) % 10] if name == "biggan" else []
    frozen = list(discriminator.parameters())

    def judged(images: Tensor) -> Tensor:
        return nn.functional.softplus(discriminator(images, *labels)).mean()

    def generated() -> Tensor:
        for parameter in frozen:
            parameter.requires_grad_(False)
        made = generator(latents, *labels)
        return judged(made[0] if isinstance(made, tuple) else made)

    # In this order: the generator's pass freezes the discriminator.
    return {
        "discriminator": (frozen, lambda: judged(real)),
        "generator": (list(generator.parameters()), generated),
    }


def _worker(rank: int, world: int, name: str, folder: str) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    found = {}
    for side, (parameters, loss) in _losses(name, batch=4).items():
        ways: dict[str, Callable[[], None]] = {
            "alone": functools.partial(_alone, loss),
            "flat": functools.partial(_flat, parameters, loss),
            "overlapped": functools.partial(_overlapped, parameters, loss),
        }
        taken: dict[str, list[float]] = {way: [] for way in ways}
        means = {}
        for turn in range(ROUNDS + 1):
            for way, run in ways.items():
                for parameter in parameters:
                    parameter.grad = None
                dist.barrier()
                started = time.perf_counter()
                run()
                dist.barrier()
                if turn:
                    taken[way].append(time.perf_counter() - started)
                means[way] = [p.grad for p in parameters if p.grad is not None]
        for one, other in zip(means["flat"], means["overlapped"], strict=True):
            # Not closer, because spectral norms move a little in each forward pass.
            assert (one - other).norm() <= 0.05 * one.norm() + 1e-6, (name, side)
        found[side] = {
            **{kind: statistics.median(seconds) for kind, seconds in taken.items()},
            "mb": sum(p.numel() * p.element_size() for p in parameters) / 1e6,
        }
    if rank == 0:
        (Path(folder) / "found.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def measure(name: str, world: int) -> dict[str, dict[str, float]]:
    """Seconds of a forward and backward pass by side: ``alone``, ``flat`` and ``overlapped``; and the gradients in MB."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_worker, (world, name, folder), nprocs=world)
        return json.loads((Path(folder) / "found.json").read_text())


def main() -> None:
    """Print one line for each family, number of processes and side."""
    print(f"{os.cpu_count()} cores, torch {torch.__version__}; seconds of a forward and backward pass")
    for name in sys.argv[1:] or MODELS:
        for world in WORLDS:
            for side, row in measure(name, world).items():
                print(
                    f"{name:10} {world} processes {side:14} {row['mb']:6.1f} MB  alone {row['alone']:.3f}  "
                    f"flat {row['flat']:.3f}  overlapped {row['overlapped']:.3f}  "
                    f"overlapped/flat {row['overlapped'] / row['flat']:.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
