"""The bilinear resize of TensorFlow 1, which the 2015 Inception was always fed with."""

import torch
from torch import Tensor


def resize_tf1(images: Tensor, height: int, width: int) -> Tensor:
    """Resize as TF1's ``resize_bilinear(align_corners=False)`` does: source = target * in / out, rounded nowhere.

    No half-pixel shift and no antialiasing, unlike every resize of torch and Pillow; FIDs differ by whole points between
    them (Parmar et al. 2022, section 3). Positions, weights and the order of the operations are TF's, in float32.

    Args:
        images: (N, C, H, W) of any type.
        height: wanted height.
        width: wanted width.

    Returns:
        float32 (N, C, height, width), in the range of the input.
    """
    left, right, share = _taps(images.shape[3], width, images.device)
    rows = images.float()
    first = rows.index_select(3, left)
    rows = first + (rows.index_select(3, right) - first) * share
    upper, lower, share = _taps(images.shape[2], height, images.device)
    first = rows.index_select(2, upper)
    return first + (rows.index_select(2, lower) - first) * share[:, None]


def _taps(source: int, target: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """For each target position the two source positions it lies between, and how far it is towards the second."""
    scale = torch.tensor(source, dtype=torch.float32) / target
    position = torch.arange(target, dtype=torch.float32) * scale
    before = position.floor()
    after = (before + 1).clamp_(max=source - 1)
    return before.long().to(device), after.long().to(device), (position - before).to(device)
