"""Options of torch.compile and of cuDNN, which trade determinism for speed."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch


@contextlib.contextmanager
def cudnn_kernels(*, deterministic: bool) -> Iterator[None]:
    """Set how cuDNN chooses its kernels within the block.

    If ``deterministic``, kernels sum in a fixed order and are chosen without a benchmark. Otherwise results can differ in
    the last digits between calls, as those of compiled networks do in any case.
    """
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = deterministic, not deterministic
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before


def compile_options(device: torch.device, *, captured: bool = False) -> dict[str, Any]:
    """Options of torch.compile for ``device``: static shapes, and CUDA graphs on a GPU, unless whole steps are ``captured``."""
    return {"dynamic": False, **({"mode": "reduce-overhead"} if device.type == "cuda" and not captured else {})}
