"""Communication among the workers that train together: the only module that calls torch.distributed.

Without a process group there is one worker, and every function returns at once what that one has.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def _is_initialized() -> bool:
    return dist.is_available() and dist.is_initialized()


def world_size() -> int:
    """How many workers train together; 1 without a process group."""
    return dist.get_world_size() if _is_initialized() else 1


def rank() -> int:
    """Which of them this one is, from 0."""
    return dist.get_rank() if _is_initialized() else 0


@torch.no_grad()
def average(tensors: list[Tensor]) -> None:
    """Replace each tensor by its mean over all workers, in one all-reduce."""
    if world_size() == 1 or not tensors:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    flat /= world_size()
    pieces = flat.split([tensor.numel() for tensor in tensors])
    torch._foreach_copy_(tensors, [piece.view_as(t) for piece, t in zip(pieces, tensors, strict=True)])


def broadcast_from_first(value: Any) -> Any:
    """What rank 0 calls this with, on every worker; pickled."""
    if world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def barrier() -> None:
    """Wait for all workers."""
    if world_size() > 1:
        dist.barrier()


def mean_over_workers(tensor: Tensor) -> Tensor:
    """The mean of ``tensor`` over all workers, differentiable any number of times.

    Its gradient is the mean over all workers too: each worker's loss is a mean over its own images, and what all of them
    minimise is the mean of those.
    """
    return tensor if world_size() == 1 else _Mean.apply(tensor)


def all_gather_rows(tensor: Tensor) -> Tensor:
    """The rows of ``tensor`` (n, ...) of all workers in their order, (workers * n, ...); without a gradient."""
    if world_size() == 1:
        return tensor.detach()
    # Laid out plainly: gloo gathers memory, whatever order of channels that has.
    parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(world_size())]
    dist.all_gather(parts, tensor.detach().contiguous())
    return torch.cat(parts)


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total / dist.get_world_size()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return _Mean.apply(gradient)
