"""Projection: find the style, or the latent z, whose generated picture is closest to a given picture.

For styles, after Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN", section 5. They use the LPIPS
distance; we use the distance of pixels at several sizes, which needs no other weights and suits small pictures. For z, the
search starts from several draws, because no z has a mean picture.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gan_core.errors import SettingsError
from gan_core.families.base import ImageShape
from gan_core.families.noise import NoiseFamily, StyleBasedFamily
from gan_core.images.tensors import finished_pictures
from gan_core.schedule import cosine

_RATE = 0.1
_WARM_UP = 0.05
"""Share of the steps in which the learning rate increases."""
_DRAWS, _STARTS = 256, 4
"""Draws of z, and how many of them, the closest ones, are optimised."""

Each = Callable[[int], None]
"""Called after each step with the number of steps done, and with 0 while draws are made. An exception that it raises ends the
search."""


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


@dataclass(frozen=True)
class LatentProjection:
    """Result of a projection into z."""

    latent: Tensor
    """float32 (latent,) on the CPU."""
    picture: Tensor
    """The generated picture: uint8 (C, H, W)."""
    distance: float
    """Root mean square distance between the generated and the given picture, in grey levels (0 to 255)."""
    distance_of_draws: float
    """The smallest such distance among the draws, where the search starts."""


def project(
    family: StyleBasedFamily, picture: Tensor, *, steps: int, label: int | None = None, each: Each | None = None
) -> Projection:
    """Project ``picture``, uint8 (C, H, W), into the style space of ``family``; deterministic.

    Adam optimises the style, starting from the mean style: one style for all layers in the first half of the steps, one per
    layer in the second half.

    Args:
        family: the family, with trained weights.
        picture: the picture to find, in the shape of the generator.
        steps: number of optimisation steps.
        label: class of the picture, for class-conditional generators.
        each: called after each step.

    Raises:
        SettingsError: the picture has a different shape from the generator's.
    """
    _check_shape(picture, family.shape)
    mean = family.mean_styles(label).detach()
    target = picture[None].to(mean.device).float() / 127.5 - 1
    shift = torch.zeros_like(mean, requires_grad=True)
    optimiser = torch.optim.Adam([shift], _RATE, betas=(0.9, 0.99))
    best, nearest = mean, float("inf")
    for step in range(steps):
        progress = step / steps
        optimiser.param_groups[0]["lr"] = _rate(progress)
        together = shift.mean(dim=0, keepdim=True).expand_as(shift)
        styles = mean + (together if progress < 0.5 else shift)
        images = family.from_styles(styles[None])
        loss = _distances(images, target)[0]
        if loss.item() < nearest:
            best, nearest = styles.detach(), loss.item()
        # Not backward(), which also computes the gradients of the weights.
        (gradient,) = torch.autograd.grad(loss, shift)
        shift.grad = gradient.mean(dim=0, keepdim=True).expand_as(gradient).contiguous() if progress < 0.5 else gradient
        optimiser.step()
        if each is not None:
            each(step + 1)
    with torch.no_grad():
        found = family.from_styles(torch.stack([best, mean])).clamp(-1, 1)
    return Projection(best.cpu(), finished_pictures(found[:1])[0], *_grey_levels(found, target))


def project_latent(
    family: NoiseFamily, picture: Tensor, *, steps: int, label: int | None = None, each: Each | None = None
) -> LatentProjection:
    """Find the z of ``family`` whose picture is closest to ``picture``, uint8 (C, H, W); deterministic.

    Adam optimises the closest few of some draws at once, by the same distance as :func:`project`. z stays where the prior has
    draws: in [-1, 1] for a uniform one, and no longer than the longest draw for a normal one.

    Args:
        family: the family, with trained weights in evaluation mode.
        picture: the picture to find, in the shape of the generator.
        steps: number of optimisation steps.
        label: class of the picture, for class-conditional generators.
        each: called after each step.

    Raises:
        SettingsError: the picture has a different shape from the generator's.
    """
    _check_shape(picture, family.shape)
    generator = family.networks["generator"]
    device = next(generator.parameters()).device
    target = picture[None].to(device).float() / 127.5 - 1
    latents, labels = family.draw(_DRAWS, 0, label, device=device)
    longest = latents.norm(dim=1).max()

    def make(z: Tensor) -> Tensor:
        return family.generate_sample(generator, z, None if labels is None else labels[: len(z)], None)

    apart_in_parts = []
    with torch.no_grad():
        for images in family.generate_in_parts(generator, latents, labels, None):
            apart_in_parts.append(_distances(images, target))
            if each is not None:
                each(0)  # all draws of a large generator take minutes on a processor
    apart = torch.cat(apart_in_parts)
    starts = apart.topk(_STARTS, largest=False).indices
    z = latents[starts].clone().requires_grad_()
    best, nearest = latents[starts].clone(), apart[starts].clone()
    optimiser = torch.optim.Adam([z], _RATE, betas=(0.9, 0.99))
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = _rate(step / steps)
        losses = _distances(make(z), target)
        (z.grad,) = torch.autograd.grad(losses.sum(), z)
        with torch.no_grad():
            closer = losses < nearest
            best[closer], nearest[closer] = z[closer], losses[closer]
        optimiser.step()
        with torch.no_grad():
            if family.prior == "uniform":
                z.clamp_(-1, 1)
            else:
                z.mul_((longest / z.norm(dim=1, keepdim=True).clamp_min(1e-8)).clamp_max(1))
        if each is not None:
            each(step + 1)
    with torch.no_grad():
        closest = best[nearest.argmin()]
        found = make(torch.stack([closest, latents[starts[0]]])).clamp(-1, 1)
    return LatentProjection(closest.cpu(), finished_pictures(found[:1])[0], *_grey_levels(found, target))


def _check_shape(picture: Tensor, shape: ImageShape) -> None:
    if tuple(picture.shape) != (shape.channels, shape.height, shape.width):
        raise SettingsError(
            f"The picture is {'x'.join(map(str, picture.shape))}, but the generator makes "
            f"{shape.channels}x{shape.height}x{shape.width} (channels, height, width). Resize it."
        )


def _rate(progress: float) -> float:
    """The learning rate after this share of the steps."""
    return _RATE * min(progress / _WARM_UP, 1.0) * cosine(1, 0, progress) + 1e-3


def _distances(images: Tensor, target: Tensor) -> Tensor:
    """For each image, the sum of the mean squared differences at full, half and quarter size, (N,)."""
    total = (images - target).square().mean(dim=(1, 2, 3))
    for _ in range(2):
        images, target = F.avg_pool2d(images, 2), F.avg_pool2d(target, 2)
        total = total + (images - target).square().mean(dim=(1, 2, 3))
    return total


def _grey_levels(images: Tensor, target: Tensor) -> list[float]:
    """Root mean square distance of each image, in grey levels."""
    return [((image - target[0]).square().mean().sqrt() * 127.5).item() for image in images]
