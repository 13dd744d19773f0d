"""The workers that train together: gradients are averaged in one flat all-reduce after each backward pass.

Generator and discriminator are updated apart, so neither wrapping both in one DDP module (unused parameters) nor hooks
on each backward pass fit; the StyleGAN line does the same. It gives up the overlap of communication with the backward
pass.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gan_core.errors import GantryError
from gan_core.nn import collectives
from gan_core.randomness import WorkerSlice


@dataclass(frozen=True)
class World:
    """This worker's place among all workers; a world of one needs no process group."""

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> "World":
        """The world of torch's default process group, or a world of one."""
        return cls(collectives.rank(), collectives.world_size())

    @property
    def part(self) -> WorkerSlice:
        """This worker's rows of what all draw together."""
        return WorkerSlice(self.rank, self.size)

    def average(self, tensors: list[Tensor]) -> None:
        """Replace each tensor by its mean over all workers, in one all-reduce."""
        collectives.average(tensors)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Average gradients over all workers; a missing gradient counts as zero, also in a world of one.

        Adam leaves out a parameter without gradient, but not one whose gradient is zero: how many workers there are must
        not decide which.
        """
        gradients = []
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        self.average(gradients)

    def on_rank_zero(self, work: Callable[[], Any]) -> Any:
        """What ``work`` gives on rank 0, which alone does it, and None on the others; they wait.

        Raises:
            GantryError: of ``work``, on every worker: otherwise the others would wait for one that is gone.
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

    def barrier(self) -> None:
        """Wait for all workers."""
        collectives.barrier()
