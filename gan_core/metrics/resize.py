"""The bilinear resize of TensorFlow 1, which the 2015 Inception expects."""

import torch
from torch import Tensor


def resize_tf1(images: Tensor, height: int, width: int) -> Tensor:
    """Resize as TF1's ``resize_bilinear(align_corners=False)`` does: source = target * in / out, rounded nowhere.

    No half-pixel shift and no antialiasing, unlike every resize of torch and Pillow; FIDs differ by whole points between
    them (Parmar et al. 2022, section 3). Positions and weights are TF's float32 ones, the result is TF's up to the
    rounding of the last digit.

    Args:
        images: (N, C, H, W) of any type.
        height: wanted height.
        width: wanted width.

    Returns:
        float32 (N, C, height, width), in the range of the input.
    """
    images = images.float()
    # Both directions are linear, so the one that leaves less for the other goes first. Small matrix products are much
    # faster here than gathering along rows; a tall picture is cheaper to thin out by picking rows.
    if images.shape[2] > height:
        upper, lower, share = _taps(images.shape[2], height, images.device)
        above = images.index_select(2, upper)
        images = above + (images.index_select(2, lower) - above) * share[:, None]
        return images @ _matrix(images.shape[3], width, images.device).T
    images = images @ _matrix(images.shape[3], width, images.device).T
    return _matrix(images.shape[2], height, images.device) @ images


def _taps(source: int, target: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """For each target position the two source positions it lies between, and how far it is towards the second."""
    scale = torch.tensor(source, dtype=torch.float32) / target
    position = torch.arange(target, dtype=torch.float32) * scale
    before = position.floor().clamp_(max=source - 1)
    after = (before + 1).clamp_(max=source - 1)
    return before.long().to(device), after.long().to(device), (position - before).to(device)


def _matrix(source: int, target: int, device: torch.device) -> Tensor:
    """The same as a matrix, (target, source), two values a row."""
    before, after, share = _taps(source, target, torch.device("cpu"))
    matrix = torch.zeros(target, source)
    rows = torch.arange(target)
    matrix[rows, before] += 1 - share
    matrix[rows, after] += share
    return matrix.to(device)
