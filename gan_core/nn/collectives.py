"""What a loss needs of all workers that train together: a mean, or the rows of all."""

import torch
import torch.distributed as dist
from torch import Tensor


def count() -> int:
    """How many workers train together; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def mean_over_workers(tensor: Tensor) -> Tensor:
    """The mean of ``tensor`` over all workers, differentiable any number of times.

    Its gradient is the mean over all workers too: each worker's loss is a mean over its own images, and what all of them
    minimise is the mean of those.
    """
    return tensor if count() == 1 else _Mean.apply(tensor)


def rows_of_all(tensor: Tensor) -> Tensor:
    """The rows of ``tensor`` (n, ...) of all workers in their order, (workers * n, ...); without a gradient."""
    if count() == 1:
        return tensor.detach()
    # Laid out plainly: gloo gathers memory, whatever order of channels that has.
    parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(count())]
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
