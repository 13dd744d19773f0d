"""Collective operations of the workers that train together. Only this module calls torch.distributed.

Without a process group there is a single worker, and every function returns its own value at once.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

_refusing = False


@contextmanager
def refused() -> Iterator[None]:
    """Within the block, operations of several workers on tensors raise NotImplementedError.

    Tracing would record them without the other workers.
    """
    global _refusing
    before, _refusing = _refusing, True
    try:
        yield
    finally:
        _refusing = before


def _is_initialized() -> bool:
    return dist.is_available() and dist.is_initialized()


def world_size() -> int:
    """Number of workers that train together; 1 without a process group."""
    return dist.get_world_size() if _is_initialized() else 1


def rank() -> int:
    """Rank of this worker, from 0."""
    return dist.get_rank() if _is_initialized() else 0


@torch.no_grad()
def average(tensors: list[Tensor]) -> None:
    """Replace each tensor in place with its mean over all workers, with a single all-reduce."""
    if world_size() == 1 or not tensors:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    flat /= world_size()
    pieces = flat.split([tensor.numel() for tensor in tensors])
    torch._foreach_copy_(tensors, [piece.view_as(t) for piece, t in zip(pieces, tensors, strict=True)])


def broadcast_from_first(value: Any) -> Any:
    """Return the ``value`` of rank 0 on every worker. It must be picklable."""
    if world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def broadcast_tensors(tensors: Mapping[str, Tensor] | None, device: torch.device | str) -> dict[str, Tensor]:
    """Return the ``tensors`` of rank 0 on every worker; the others pass None.

    Args:
        tensors: of any shapes and types.
        device: one that the process group can send from, such as this worker's GPU; the result is there.
    """
    shapes = broadcast_from_first(
        {name: (t.shape, t.dtype) for name, t in tensors.items()} if tensors is not None else None
    )
    if world_size() == 1:
        assert tensors is not None
        return {name: tensor.to(device) for name, tensor in tensors.items()}
    received = {}
    for name, (shape, dtype) in shapes.items():
        given = torch.empty(shape, dtype=dtype, device=device) if tensors is None else tensors[name].to(device)
        given = given.contiguous()
        # As bytes: not every backend sends every type.
        dist.broadcast(given.reshape(-1).view(torch.uint8), src=0)
        received[name] = given
    return received


def barrier() -> None:
    """Wait for all workers."""
    if world_size() > 1:
        dist.barrier()


def mean_over_workers(tensor: Tensor) -> Tensor:
    """Return the mean of ``tensor`` over all workers, differentiable any number of times.

    Its gradient is the mean over all workers as well: each worker's loss is a mean over its own images, and together they
    minimise the mean of these losses.
    """
    if world_size() == 1:
        return tensor
    if _refusing:
        raise NotImplementedError("it averages over all workers")
    return _Mean.apply(tensor)


def all_gather_rows(tensor: Tensor) -> Tensor:
    """Concatenate ``tensor`` (n, ...) of all workers in order of rank to (workers * n, ...); detached."""
    if world_size() == 1:
        return tensor.detach()
    if _refusing:
        raise NotImplementedError("it gathers tensors of all workers")
    # Contiguous: gloo gathers raw memory and ignores the memory format.
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
