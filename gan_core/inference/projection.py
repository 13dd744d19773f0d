"""Projection: find the style whose generated picture is closest to a given picture.

After Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN", section 5. They use the LPIPS distance; we
use the distance of pixels at several sizes, which needs no other weights and suits small pictures.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gan_core.errors import SettingsError
from gan_core.families.noise import StyleBasedFamily
from gan_core.schedule import cosine

_RATE = 0.1
_WARM_UP = 0.05
"""Share of the steps in which the learning rate increases."""


@dataclass(frozen=True)
class Projection:
    """Result of a projection."""

    styles: Tensor
    """float32 (layers, W) on the CPU."""
    picture: Tensor
    """The generated picture: uint8 (C, H, W)."""
    distance: float
    """Root mean square distance between the generated and the given picture, in grey levels (0 to 255)."""
    distance_of_mean: float
    """The same distance for the picture of the mean style, where the search starts."""


def project(family: StyleBasedFamily, picture: Tensor, *, steps: int, label: int | None = None) -> Projection:
    """Project ``picture``, uint8 (C, H, W), into the style space of ``family``; deterministic.

    Adam optimises the style, starting from the mean style: one style for all layers in the first half of the steps, one per
    layer in the second half.

    Args:
        family: the family, with trained weights.
        picture: the picture to find, in the shape of the generator.
        steps: number of optimisation steps.
        label: class of the picture, for class-conditional generators.

    Raises:
        SettingsError: the picture has a different shape from the generator's.
    """
    shape = family.shape
    if tuple(picture.shape) != (shape.channels, shape.height, shape.width):
        raise SettingsError(
            f"The picture is {'x'.join(map(str, picture.shape))}, but the generator makes "
            f"{shape.channels}x{shape.height}x{shape.width} (channels, height, width). Resize it."
        )
    mean = family.mean_styles(label).detach()
    target = picture[None].to(mean.device).float() / 127.5 - 1
    shift = torch.zeros_like(mean, requires_grad=True)
    optimiser = torch.optim.Adam([shift], _RATE, betas=(0.9, 0.99))
    best, nearest = mean, float("inf")
    for step in range(steps):
        progress = step / steps
        optimiser.param_groups[0]["lr"] = _RATE * min(progress / _WARM_UP, 1.0) * cosine(1, 0, progress) + 1e-3
        together = shift.mean(dim=0, keepdim=True).expand_as(shift)
        styles = mean + (together if progress < 0.5 else shift)
        images = family.from_styles(styles[None])
        loss = _distance(images, target)
        if loss.item() < nearest:
            best, nearest = styles.detach(), loss.item()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if progress < 0.5 and shift.grad is not None:
            shift.grad.copy_(shift.grad.mean(dim=0, keepdim=True).expand_as(shift.grad))
        optimiser.step()
    with torch.no_grad():
        found = family.from_styles(torch.stack([best, mean])).clamp(-1, 1)
    apart = [((image - target[0]).square().mean().sqrt() * 127.5).item() for image in found]
    made = found[0].add(1).mul(127.5).round().to(torch.uint8).cpu()
    return Projection(best.cpu(), made, *apart)


def _distance(images: Tensor, target: Tensor) -> Tensor:
    """Sum of the mean squared differences at full, half and quarter size."""
    total = (images - target).square().mean()
    for _ in range(2):
        images, target = F.avg_pool2d(images, 2), F.avg_pool2d(target, 2)
        total = total + (images - target).square().mean()
    return total
