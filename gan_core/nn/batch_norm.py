"""Synchronised batch norm, and standing statistics for an averaged generator."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gan_core.nn import collectives


class BatchNorm2d(nn.BatchNorm2d):
    """Batch norm whose training statistics are those of all workers' images together.

    Training then does not depend on how many workers share a batch. torch's SyncBatchNorm runs on GPUs only. With one
    worker, this is torch's batch norm.
    """

    local = False
    """Whether to use the statistics of this worker only."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise ``input`` (N, C, H, W); every worker has the same N."""
        if self.local or not self.training or collectives.world_size() == 1:
            return super().forward(input)
        images = input.float()
        moments = torch.stack([images.mean(dim=(0, 2, 3)), images.square().mean(dim=(0, 2, 3))])
        mean, square = collectives.mean_over_workers(moments)
        variance = (square - mean.square()).clamp_min(0)
        if self.track_running_stats:
            self._track(mean.detach(), variance.detach(), input.numel() // input.shape[1] * collectives.world_size())
        scale = torch.rsqrt(variance + self.eps) * (1 if self.weight is None else self.weight)
        shift = (0 if self.bias is None else self.bias) - mean * scale
        return torch.addcmul(shift[:, None, None], images, scale[:, None, None]).to(input.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, count: int) -> None:
        assert self.num_batches_tracked is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance * (count / (count - 1)), share)


@torch.no_grad()
def standing_statistics(
    networks: Mapping[str, nn.Module], sample: Callable[[int, int], object], batches: int = 16, size: int = 64
) -> None:
    """Recompute the batch-norm statistics of generators for their current weights.

    The running statistics of training do not fit averaged weights; the plain mean over ``batches`` batches does ("standing
    statistics", Brock et al. 2019, section 4). Networks without batch norm do not change. All networks end in evaluation
    mode.

    Args:
        networks: generators by name.
        sample: called with ``(first, n)``, generates images ``first`` to ``first + n`` with them.
        batches: number of batches.
        size: images per batch.
    """
    # Includes torch's own batch norm, which the networks of a family may use.
    norms: list[Any] = [
        module for net in networks.values() for module in net.modules() if isinstance(module, nn.BatchNorm2d)
    ]
    if norms:
        momenta = [module.momentum for module in norms]
        for module in norms:
            module.reset_running_stats()
            module.momentum = None  # a plain mean over all batches
            module.local = True
        for network in networks.values():
            network.train()
        for index in range(batches):
            sample(index * size, size)
        for module, momentum in zip(norms, momenta, strict=True):
            module.momentum, module.local = momentum, False
    for network in networks.values():
        network.eval()
