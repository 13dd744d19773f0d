"""Small models of every family that generates images from noise, and small pictures for them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gan_core.data import PreparedDataset
from gan_core.families import Batch, ImageShape, build_family, family_config, require
from gan_core.families.noise import NoiseFamily
from gan_core.randomness import WorkerSlice
from tests.datasets import blobs, write_prepared

SMALL: dict[str, dict[str, Any]] = {
    "dcgan": {"width": 16, "latent": 16},
    "cgan": {"width": 16, "latent": 16, "embedding": 8},
    "biggan": {"width": 4, "latent": 12, "shared_embedding": 8, "hierarchical": True, "attention": 8},
    "stylegan2": {
        **{"latent": 32, "style": 32, "mapping_layers": 2, "channel_base": 512, "channel_max": 32},
        **{"r1": 0.05, "r1_every": 2, "path_every": 3, "conditional": True},
    },
    "r3gan": {**{"width": 16, "width_max": 32, "blocks": 1, "latent": 16}, **{"gamma": 0.5, "final_gamma": 0.05}},
}
"""Settings of each family for 16 pixels."""

RECIPES: dict[str, dict[str, Any]] = {
    "biggan": {"beta1": 0.0, "discriminator_steps": 2},
    "stylegan2": {"beta1": 0.0, "beta2": 0.99, "generator_lr": 2.5e-3, "discriminator_lr": 2.5e-3},
    "r3gan": {"beta1": 0.0, "beta2": 0.9, "final_beta2": 0.99, "burn_in_kimg": 2.0, "final_lr_share": 0.25},
}
"""Settings of the run that a family needs."""


def small(name: str, size: int = 16, channels: int = 1, classes: int = 2, /, **settings: Any) -> NoiseFamily:
    """The family ``name`` with few maps and the same weights each time."""
    torch.manual_seed(0)
    shape = ImageShape(channels=channels, height=size, width=size, classes=classes)
    return require(build_family(name, family_config(name, {**SMALL[name], **settings}), shape), NoiseFamily)


def some_batch(family: NoiseFamily, n: int = 8, keep: bool = True) -> Batch:
    """Random pictures of the family's shape, and classes."""
    shape, generator = family.shape, torch.Generator().manual_seed(1)
    real = torch.rand(n, shape.channels, shape.height, shape.width, generator=generator) * 2 - 1
    labels = torch.arange(n) % shape.classes if shape.classes else None
    return Batch(real=real, labels=labels, key=(0, 0, 0), part=WorkerSlice(), keep=keep)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Sums do not depend on the machine's core count."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def labelled_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 blobs of 16x16 grey pixels: bright ones of class 0, dark ones on white of class 1."""
    pixels, labels = blobs(64), np.arange(64) % 2
    pixels[labels == 1] = 255 - pixels[labels == 1]
    return write_prepared(tmp_path_factory.mktemp("labelled") / "prepared", pixels, labels)


@pytest.fixture
def labelled(labelled_folder: Path, tmp_path: Path) -> PreparedDataset:
    """The opened dataset of blobs."""
    return PreparedDataset(labelled_folder, tmp_path / "decoded")
