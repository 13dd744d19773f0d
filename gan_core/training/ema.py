"""The averaged generator: an exponential moving average (EMA) of the weights."""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn


def ema_decay(batch: int, half_life_images: float, images_seen: int) -> float:
    """Weight of the old average in one step: 0.5^(batch / min(half_life, 5% of the images seen)).

    The limit of 5 % lets the average forget the random initial weights (Karras et al. 2020, ADA's training configuration).
    """
    half_life = min(half_life_images, 0.05 * images_seen)
    return 0.5 ** (batch / max(half_life, 1e-8))


class AveragedNetworks:
    """Averaged copies of generators. Buffers (batch-norm statistics) are not averaged; they are measured when needed."""

    def __init__(self, networks: Mapping[str, nn.Module]) -> None:
        self.networks = {name: copy.deepcopy(net).requires_grad_(False).eval() for name, net in networks.items()}
        self._live, self._average = _parameters(networks), _parameters(self.networks)

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """Move the average towards the live weights by 1 - ``decay``."""
        torch._foreach_lerp_(self._average, self._live, 1 - decay)


def _parameters(networks: Mapping[str, nn.Module]) -> list[Tensor]:
    return [parameter for network in networks.values() for parameter in network.parameters()]
