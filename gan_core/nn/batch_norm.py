"""Batch norm over all workers' images, and the statistics that an averaged generator is sampled with."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gan_core.nn import collectives


class BatchNorm2d(nn.BatchNorm2d):
    """Batch norm whose statistics in training are those of all workers' images together.

    So training does not depend on how many workers share a batch. torch's own synchronised form is for GPUs alone. With
    one worker it is torch's batch norm.
    """

    alone = False
    """Set while one worker measures statistics by itself."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalised ``input``, (N, C, H, W); every worker has the same N."""
        if self.alone or not self.training or collectives.world_size() == 1:
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
    """Recompute the batch-norm statistics of generators for the weights they have now.

    Averaged weights do not fit the running statistics that training left behind; a plain mean over ``batches`` batches
    does ("standing statistics", Brock et al. 2019, section 4). Networks without batch norm are left alone; all end in
    evaluation mode.

    Args:
        networks: generators by name.
        sample: makes images ``first`` to ``first + n`` with them.
        batches: how many.
        size: images in one.
    """
    # torch's batch norm as well: a family may bring networks of others.
    norms: list[Any] = [
        module for net in networks.values() for module in net.modules() if isinstance(module, nn.BatchNorm2d)
    ]
    if norms:
        momenta = [module.momentum for module in norms]
        for module in norms:
            module.reset_running_stats()
            module.momentum = None  # a plain mean over all batches
            module.alone = True
        for network in networks.values():
            network.train()
        for index in range(batches):
            sample(index * size, size)
        for module, momentum in zip(norms, momenta, strict=True):
            module.momentum, module.alone = momentum, False
    for network in networks.values():
        network.eval()
