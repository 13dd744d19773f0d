"""Half and twice the size inside networks, built of means of neighbours.

Unlike torch's own bilinear resampling, they give the same bytes at every call on a GPU, and can be differentiated twice.
"""

import torch.nn.functional as F
from torch import Tensor


def upsample(images: Tensor) -> Tensor:
    """Bilinear to twice the size, (N, C, H, W) to (N, C, 2H, 2W): doubled pixels and two means of neighbours."""
    images = F.interpolate(images, scale_factor=2, mode="nearest")
    images = F.avg_pool2d(images, 2, stride=1, padding=1, count_include_pad=False)
    return F.avg_pool2d(images, 2, stride=1)


def blur(maps: Tensor, padding: tuple[int, int, int], stride: int = 1) -> Tensor:
    """The filter [1, 3, 3, 1] / 8 along both sides, as three means of neighbours: (1 + z)^3 = 1 + 3z + 3z^2 + z^3.

    ``padding`` is what each of the three pads with zeros: in all, a side H becomes (H + 2 sum(padding) - 3) / stride,
    rounded up.
    """
    maps = F.avg_pool2d(maps, 2, stride=1, padding=padding[0])
    maps = F.avg_pool2d(maps, 2, stride=1, padding=padding[1])
    return F.avg_pool2d(maps, 2, stride=stride, padding=padding[2])


def downsample(maps: Tensor) -> Tensor:
    """Filtered to half the size, (N, C, H, W) to (N, C, H/2, W/2)."""
    return blur(maps, (1, 0, 0), stride=2)
