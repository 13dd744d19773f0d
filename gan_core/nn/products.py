"""Convolutions with many weights and small maps as matrix products, which are faster there on a CPU in bf16.

oneDNN's convolutions copy the weights into an order of their own at each call, and their gradient with respect to the weights
is far from the processor's rate where maps are small. A product reads the weights as they lie, (O, kh, kw, I) for
channels_last, and copies the maps instead: each kernel position's patch becomes a row.

Shapes are those of a convolution without groups: ``large`` (N, I, H, W), ``weight`` (O, I, kh, kw), ``small`` (N, O, h, w).
"""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

Pair = tuple[int, int]
"""A number of rows and one of columns."""

_FEW, _FEW_WITH_AMX = 128, 72
"""Smallest number of weights per kernel position for which :func:`by_weight` is faster than oneDNN, without and with AMX."""
_VERY_FEW = 1024
"""The same for :func:`gather` and :func:`scatter`, which are faster with AMX only."""
_MANY = 2**20
"""Smallest number of weights for them: fewer stay in a core's cache, where oneDNN's copy costs nothing."""


@functools.cache
def _has_amx() -> bool:
    return torch.cpu._is_amx_tile_supported()


def is_faster_by_weight(places: int, weight: Tensor) -> bool:
    """Whether :func:`by_weight` is faster for this number of kernel positions over all images."""
    return places * (_FEW_WITH_AMX if _has_amx() else _FEW) <= weight.numel()


def is_faster(places: int, weight: Tensor, stride: Pair, output_padding: Pair = (0, 0)) -> bool:
    """Whether :func:`gather` and :func:`scatter` are faster; never for kernels that are no multiple of their stride."""
    if not (_has_amx() and weight.numel() >= _MANY and places * _VERY_FEW < weight.numel()):
        return False
    strided = stride != (1, 1) and output_padding == (0, 0)
    whole = all(side % step == 0 for side, step in zip(weight.shape[2:], stride, strict=True))
    return strided and whole and weight.is_contiguous(memory_format=torch.channels_last)


def gather(large: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair) -> Tensor:
    """Convolve and add ``bias`` (O,) if there is one: ``small``, channels_last."""
    (down, right), (outer, inner, high, wide) = stride, weight.shape
    maps = _padded(large, padding)
    n, rows, columns, _ = maps.shape
    height, width = (rows - high) // down + 1, (columns - wide) // right + 1
    image, row, column, _ = maps.stride()
    views = maps.as_strided((n, height, width, high, wide * inner), (image, row * down, column * right, row, 1))
    patches = views.reshape(n * height * width, high * wide * inner)
    matrix = weight.permute(0, 2, 3, 1).reshape(outer, -1).t()
    small, rows_of_small = _empty(large, n, outer, height, width)
    if bias is None:
        torch.mm(patches, matrix, out=rows_of_small)
    else:
        torch.addmm(bias, patches, matrix, out=rows_of_small)
    return small


def scatter(small: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair) -> Tensor:
    """Convolve transposed, the adjoint of :func:`gather`, and add ``bias`` (I,) if there is one.

    Returns ``large``, channels_last, of sides (h - 1) stride + kernel - 2 padding. The kernel must be a multiple of the stride.
    Patches that overlap are added in the type of ``small``: in bf16, the error of rounding is up to twice that of one rounding.
    """
    (down, right), (outer, inner, high, wide) = stride, weight.shape
    n, _, height, width = small.shape
    product = small.permute(0, 2, 3, 1).reshape(-1, outer) @ weight.permute(0, 2, 3, 1).reshape(outer, -1)
    # A patch consists of blocks of one stride's size, which lie side by side in the maps.
    blocks = high // down, wide // right
    patches = product.view(n, height, width, blocks[0], down, blocks[1], right * inner).permute(3, 5, 0, 1, 4, 2, 6)
    rows, columns = height + blocks[0] - 1, width + blocks[1] - 1
    maps = small.new_zeros(n, rows, down, columns, right * inner)
    for below in range(blocks[0]):
        for beside in range(blocks[1]):
            maps[:, below : below + height, :, beside : beside + width] += patches[below, beside]
    (top, left), whole = padding, maps.view(n, rows * down, columns * right, inner).permute(0, 3, 1, 2)
    inside = whole[:, :, top : rows * down - top, left : columns * right - left]
    large = _empty(small, *inside.shape)[0]
    return large.copy_(inside) if bias is None else torch.add(inside, bias[:, None, None], out=large)


def by_weight(small: Tensor, large: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
    """Correlate ``small`` with ``large`` over the kernel's positions: the gradient with respect to ``weight``, (O, I, kh, kw).

    One kernel row at a time, so that the copied patches stay in the CPU's cache.
    """
    (down, right), (outer, inner, high, wide) = stride, weight.shape
    n, _, height, width = small.shape
    maps = _padded(large, padding)
    image, row, column, _ = maps.stride()
    views = maps.as_strided((high, n, height, width, wide * inner), (row, image, row * down, column * right, 1))
    rows = small.permute(0, 2, 3, 1).reshape(-1, outer).t()
    product = small.new_empty(outer, high, wide * inner)
    for place, view in enumerate(views):
        torch.mm(rows, view.reshape(-1, wide * inner), out=product[:, place])
    return product.view(outer, high, wide, inner).permute(0, 3, 1, 2)


def _empty(like: Tensor, n: int, channels: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """An empty tensor in channels_last, and its pixels as rows.

    Results are not views: torch refuses to change a view in place that a custom function returns.
    """
    maps = torch.empty(
        (n, channels, height, width), dtype=like.dtype, device=like.device, memory_format=torch.channels_last
    )
    return maps, maps.permute(0, 2, 3, 1).view(-1, channels)


def _padded(maps: Tensor, padding: Pair) -> Tensor:
    """Pad with zeros: (N, H', W', C)."""
    top, left = padding
    return F.pad(maps, (left, left, top, top)).permute(0, 2, 3, 1).contiguous()
