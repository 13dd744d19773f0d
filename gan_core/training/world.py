"""Data-parallel training: gradients are averaged over all workers in one flat all-reduce after each backward pass.

DDP does not fit, because generator and discriminator are updated separately: a DDP module around both would have unused
parameters. StyleGAN's training loop also averages gradients explicitly. The price is that communication does not overlap
with the backward pass.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gan_core.errors import GantryError
from gan_core.nn import collectives
from gan_core.randomness import WorkerSlice


@dataclass(frozen=True)
class World:
    """Rank of this worker and number of all workers; a world of size 1 needs no process group."""

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> "World":
        """The world of torch's default process group; a world of size 1 if there is none."""
        return cls(collectives.rank(), collectives.world_size())

    @property
    def part(self) -> WorkerSlice:
        """This worker's rows of a batch, and of random numbers that are drawn for all workers together."""
        return WorkerSlice(self.rank, self.size)

    def average(self, tensors: list[Tensor]) -> None:
        """Replace each tensor with its mean over all workers, with a single all-reduce."""
        collectives.average(tensors)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Average the gradients of ``parameters`` over all workers. A missing one counts as zero, even in a world of size 1.

        Adam skips a parameter without a gradient, but updates one whose gradient is zero. Setting it to zero in every case
        makes the result independent of the number of workers.
        """
        gradients = []
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        self.average(gradients)

    def on_rank_zero(self, work: Callable[[], Any]) -> Any:
        """Run ``work`` on rank 0 while the other workers wait; returns its result on rank 0 and None on the others.

        Raises:
            GantryError: raised by ``work``; on every worker, so that none waits forever.
        """
        result, error = None, None
        if self.rank == 0:
            try:
                result = work()
            except GantryError as raised:
                error = raised
        error = collectives.broadcast_from_first(error)
        if error is not None:
            raise error
        return result

    def broadcast(self, value: Any) -> Any:
        """Return the ``value`` of rank 0 on every worker. It must be picklable."""
        return collectives.broadcast_from_first(value)

    def broadcast_tensors(self, tensors: Mapping[str, Tensor] | None, device: torch.device) -> dict[str, Tensor]:
        """Return the ``tensors`` of rank 0 on every worker, on ``device``; the others pass None."""
        return collectives.broadcast_tensors(tensors, device)

    def barrier(self) -> None:
        """Wait for all workers."""
        collectives.barrier()
