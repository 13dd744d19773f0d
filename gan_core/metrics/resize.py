"""The bilinear resize of TensorFlow 1, which the 2015 Inception expects, and the bicubic one of clean-fid."""

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_tf1(images: Tensor, height: int, width: int) -> Tensor:
    """Resize like TF1's ``resize_bilinear(align_corners=False)``: source = target * in / out, without rounding.

    Unlike every resize of torch and Pillow, it has no half-pixel shift and no antialiasing; FIDs differ by whole points
    between them (Parmar et al. 2022, section 3). Positions and weights are computed in float32 as in TF, and results agree
    with TF's up to rounding in the last digit.

    Args:
        images: (N, C, H, W) of any type.
        height: output height in pixels.
        width: output width in pixels.

    Returns:
        float32 (N, C, height, width), in the range of the input.
    """
    images = images.float()
    # The result does not depend on the order of the axes; first resize the one that leaves less work for the other. Small
    # matrix products are much faster than gathering along rows, but for a tall picture selecting rows is cheaper.
    if images.shape[2] > height:
        upper, lower, share = _taps(images.shape[2], height, images.device)
        above = images.index_select(2, upper)
        images = above + (images.index_select(2, lower) - above) * share[:, None]
        return images @ _matrix(images.shape[3], width, images.device).T
    images = images @ _matrix(images.shape[3], width, images.device).T
    return _matrix(images.shape[2], height, images.device) @ images


def resize_clean(images: Tensor, height: int, width: int) -> Tensor:
    """Resize like clean-fid (Parmar et al. 2022): Pillow's bicubic filter with antialiasing, on float values, clipped.

    Args:
        images: (N, C, H, W), 8-bit values mapped to (value - 128) / 128.
        height: output height in pixels.
        width: output width in pixels.

    Returns:
        float32 (N, C, height, width), within the range of 8-bit values: the filter overshoots at edges.
    """
    size = (height, width)
    if images.shape[2:] != size:
        images = F.interpolate(images.float(), size, mode="bicubic", antialias=True)
    return images.float().clamp(-1, 127 / 128)


def _taps(source: int, target: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """For each target position: the two source positions around it, and the weight of the second."""
    scale = torch.tensor(source, dtype=torch.float32) / target
    position = torch.arange(target, dtype=torch.float32) * scale
    before = position.floor().clamp_(max=source - 1)
    after = (before + 1).clamp_(max=source - 1)
    return before.long().to(device), after.long().to(device), (position - before).to(device)


def _matrix(source: int, target: int, device: torch.device) -> Tensor:
    """:func:`_taps` as a matrix, (target, source), with two values per row."""
    before, after, share = _taps(source, target, torch.device("cpu"))
    matrix = torch.zeros(target, source)
    rows = torch.arange(target)
    matrix[rows, before] += 1 - share
    matrix[rows, after] += share
    return matrix.to(device)
