"""How fast or how exactly a device computes: options of torch.compile, and cuDNN's choice of kernels."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch


@contextlib.contextmanager
def cudnn_kernels(*, exact: bool) -> Iterator[None]:
    """How cuDNN chooses its kernels: ``exact`` ones sum in an order and are chosen by what they are for, not by a race.

    Otherwise each call may give other last digits, which is what compiled networks do anyway.
    """
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = exact, not exact
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before


def compile_options(device: torch.device) -> dict[str, Any]:
    """How networks are compiled for ``device``: shapes never change, and on a GPU a call is one launch."""
    return {"dynamic": False, **({"mode": "reduce-overhead"} if device.type == "cuda" else {})}
