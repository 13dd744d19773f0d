"""Pairs of pictures a small step apart on a path between two latents, for the perceptual path length."""

from typing import Literal

import torch
from torch import Tensor

from gan_core import randomness
from gan_core.families import require
from gan_core.families.base import Family
from gan_core.families.noise import NoiseFamily, StyleBasedFamily

Space = Literal["z", "w"]


def path_step(
    family: Family, n: int, seed: int, *, space: Space, epsilon: float, first: int = 0
) -> tuple[Tensor, Tensor]:
    """Pictures at t and at t + ``epsilon`` on the paths between two latents each, with t uniform in [0, 1).

    In z, the path is spherical for a normal prior (Shoemake 1985) and straight for a uniform one. In w, it is straight, between
    the styles of the two latents. Both ends have the same class. Large pictures are generated few at a time.

    Args:
        family: generates from noise; for ``w``, from styles.
        n: number of paths.
        seed: seed of the paths; path i of a seed is the same in any batch.
        space: z or w.
        epsilon: length of the step, as a share of the path.
        first: index of the first path.

    Returns:
        Two batches of images, float (n, C, H, W) in about [-1, 1], on the family's device.

    Raises:
        SettingsError: the family does not generate from noise, or for ``w`` has no styles.
    """
    noise = require(family, NoiseFamily)
    size = noise.pictures_at_once(next(noise.networks["generator"].parameters()).device)
    parts = [
        _path_step(noise, min(size, n - done), seed, space=space, epsilon=epsilon, first=first + done)
        for done in range(0, n, size)
    ]
    near, far = (torch.cat(pictures) for pictures in zip(*parts, strict=True))
    return near, far


def _path_step(
    noise: NoiseFamily, n: int, seed: int, *, space: Space, epsilon: float, first: int
) -> tuple[Tensor, Tensor]:
    """:func:`path_step` for as many pictures as fit into memory."""
    generator = noise.networks["generator"]
    device = next(generator.parameters()).device
    start, labels = noise.draw(n, seed, first=first, device=device)
    end, _ = noise.draw(n, randomness.derive_seed(seed, "path end") % 2**31, first=first, device=device)
    where = randomness.sampling_uniform(first, n, 1, randomness.derive_seed(seed, "path position") % 2**31)
    steps = (where, where + epsilon)
    if space == "w":
        styles = require(noise, StyleBasedFamily)
        ends = styles.to_styles(start, labels), styles.to_styles(end, labels)
        near, far = (styles.from_styles(_straight(*ends, step[:, :, None])) for step in steps)
        return near, far
    between = _spherical if noise.prior == "normal" else _straight
    near, far = (noise.generate_sample(generator, between(start, end, step), labels, None) for step in steps)
    return near, far


# Paths are computed in float64, because a step is a ten-thousandth of one, and on the CPU, because mps has no float64.


def _straight(start: Tensor, end: Tensor, share: Tensor) -> Tensor:
    """Along the straight line."""
    return torch.lerp(start.cpu().double(), end.cpu().double(), share.expand_as(start)).float().to(start.device)


def _spherical(start: Tensor, end: Tensor, share: Tensor) -> Tensor:
    """Along the great circle of the directions, with the lengths interpolated linearly."""
    a, b = start.cpu().double(), end.cpu().double()
    lengths = a.norm(dim=1, keepdim=True), b.norm(dim=1, keepdim=True)
    a, b = a / lengths[0].clamp_min(1e-12), b / lengths[1].clamp_min(1e-12)
    angle = torch.acos((a * b).sum(1, keepdim=True).clamp(-1 + 1e-9, 1 - 1e-9))
    direction = (torch.sin((1 - share) * angle) * a + torch.sin(share * angle) * b) / torch.sin(angle)
    return (direction * torch.lerp(*lengths, share)).float().to(start.device)
