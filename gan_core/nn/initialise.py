"""Weight initialisation."""

import math

from torch import nn

CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def leaky_gain(slope: float) -> float:
    """Gain that preserves the variance through a leaky ReLU of ``slope``: sqrt(2 / (1 + slope^2)) (He et al. 2015)."""
    return math.sqrt(2 / (1 + slope**2))


def init_normal(network: nn.Module, std: float = 0.02) -> None:
    """Initialise weights with N(0, std), batch-norm scales with N(1, std), biases with 0 (Radford et al. 2015, section 4)."""
    for module in network.modules():
        if isinstance(module, CONVOLUTIONS):
            nn.init.normal_(module.weight, 0.0, std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, std)
            nn.init.zeros_(module.bias)


def init_he(network: nn.Module, slope: float) -> None:
    """Initialise weights with N(0, leaky_gain(slope)^2 / fan_in), biases with 0 (He et al. 2015).

    A transposed convolution of stride s sums about inputs * kernel area / s^2 products per output, which is its fan-in here.
    """
    for module in network.modules():
        if isinstance(module, nn.ConvTranspose2d):
            inputs = module.in_channels * math.prod(module.kernel_size) / math.prod(module.stride)
        elif isinstance(module, nn.Conv2d):
            inputs = module.in_channels * math.prod(module.kernel_size)
        elif isinstance(module, nn.Linear):
            inputs = module.in_features
        else:
            continue
        nn.init.normal_(module.weight, 0.0, leaky_gain(slope) / math.sqrt(inputs))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
