"""Small models of every translation family, and small data for them."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from gan_core.data import PreparedDataset
from gan_core.families import Batch, ImageShape, build_family, family_config, require
from gan_core.families.translation import TranslationFamily
from gan_core.randomness import WorkerSlice
from gan_core.training.config import TrainConfig
from gan_core.training.start import Start
from gan_core.training.trainer import Trainer
from tests.datasets import blobs, write_prepared

SMALL: dict[str, dict[str, Any]] = {
    "pix2pix": {"width": 8, "patch_width": 8, "patch_halvings": 1},
    "cyclegan": {"width": 4, "blocks": 1, "patch_width": 8, "patch_halvings": 1, "pool": 6},
    "stargan": {"width": 4, "blocks": 1, "critic_width": 8},
    "stargan2": {"width": 4, "width_max": 8, "latent": 4, "hidden": 16, "style": 8},
}
"""Settings of each family for 16 pixels."""

VARIANTS = {
    "pix2pix": ("pix2pix", {"condition_channels": 1}),
    "colourisation": ("pix2pix", {"condition_channels": 1, "derived": "greyscale"}),
    "cyclegan": ("cyclegan", {"classes": 2}),
    "contrastive": ("cyclegan", {"classes": 2}),
    "stargan": ("stargan", {"classes": 3}),
    "attributes": ("stargan", {"attributes": 3}),
    "stargan2": ("stargan2", {"classes": 3}),
}
"""Each family with each form of data that it treats differently: its name, and fields of the shape."""

SETTINGS = {"contrastive": {"objective": "contrastive", "patches": 16}}
"""Settings of a variant in addition to the small networks."""

RECIPES: dict[str, dict[str, Any]] = {"stargan": {"discriminator_steps": 2}}


def small(variant: str, size: int = 16, /, **settings: Any) -> TranslationFamily:
    """The variant with few maps and the same weights each time."""
    name, data = VARIANTS[variant]
    torch.manual_seed(0)
    shape = ImageShape(channels=3, height=size, width=size, **data)
    config = family_config(name, {**SMALL[name], **SETTINGS.get(variant, {}), **settings})
    return require(build_family(name, config, shape), TranslationFamily)


def some_pictures(n: int, channels: int, height: int = 16, width: int = 16, seed: int = 1) -> torch.Tensor:
    return torch.rand(n, channels, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def some_batch(family: TranslationFamily, n: int = 8, keep: bool = True) -> Batch:
    """Random pictures of the family's kind of data."""
    shape = family.shape
    labels = condition = None
    if "unpaired" in family.kinds:
        condition = some_pictures(n, shape.channels, shape.height, shape.width, seed=2)
    elif "paired" in family.kinds:
        condition = some_pictures(n, shape.condition_channels, shape.height, shape.width, seed=2)
    elif shape.attributes:
        labels = torch.stack([torch.arange(n) >> bit & 1 for bit in range(shape.attributes)], dim=1).float()
    else:
        labels = torch.arange(n) % shape.classes
    real = some_pictures(n, shape.channels, shape.height, shape.width)
    return Batch(real=real, labels=labels, condition=condition, key=(0, 0, 0), part=WorkerSlice(), keep=keep)


def write_data(variant: str, directory: Path, n: int = 32, size: int = 16) -> Path:
    """Blobs: as pairs of outline and filled colour, or in domains that differ in colour."""
    name, data = VARIANTS[variant]
    shapes = blobs(n, size).astype(np.float32) / 255
    colours = np.array([[1.0, 0.2, 0.1], [0.1, 0.3, 1.0], [0.2, 0.9, 0.2]], np.float32)
    labels = np.arange(n) % (2 if name == "cyclegan" else 3)
    pixels = np.rint(shapes * colours[labels][:, :, None, None] * 255).astype(np.uint8)
    if name == "pix2pix":
        conditions = 255 - np.rint(shapes * 255).astype(np.uint8)
        return write_prepared(directory, pixels, conditions=conditions, derived=data.get("derived", ""))
    if variant == "attributes":
        return write_prepared(directory, pixels, np.eye(3, dtype=np.int64)[labels])
    return write_prepared(directory, pixels, labels, kind="unpaired" if name == "cyclegan" else "domains")


def two_colours(n: int = 16) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Patterns of 16x16 pixels in red and others in blue, uint8 (2 n, 3, 16, 16), and what each is in the other colour.

    The labels are those of the first: n zeros and n ones.
    """
    patterns = np.random.default_rng(0).uniform(0.2, 1, (2 * n, 1, 4, 4)).repeat(4, 2).repeat(4, 3)
    labels = np.arange(2 * n) // n
    colours = np.array([[1.0, 0.3, 0.1], [0.2, 0.4, 1.0]])[:, :, None, None]
    painted = [np.rint(patterns * colours[of] * 255).astype(np.uint8) for of in (labels, 1 - labels)]
    return painted[0], painted[1], labels


def error(made: torch.Tensor, wanted: np.ndarray) -> float:
    """Mean distance in grey levels."""
    return (made.float() - torch.from_numpy(wanted).float()).abs().mean().item()


def nearest(made: torch.Tensor, real: np.ndarray) -> float:
    """Mean distance of each picture to the nearest of ``real``, in grey levels."""
    distances = (made.float()[:, None] - torch.from_numpy(real).float()[None]).abs().flatten(2).mean(dim=2)
    return distances.min(dim=1).values.mean().item()


def blind_error(real: np.ndarray) -> float:
    """The least mean distance to ``real``, in grey levels, of an answer that does not depend on the question."""
    return error(torch.from_numpy(np.median(real, axis=0, keepdims=True)), real)


def trainer_of(
    variant: str,
    data: Path,
    place: Path,
    /,
    model: dict[str, Any] | None = None,
    device: str = "cpu",
    start: Start | None = None,
    **settings: Any,
) -> Trainer:
    """A trainer on ``data`` that runs 6 steps."""
    name = VARIANTS[variant][0]
    values = {"steps": 6, "batch": 4, "log_every": 3, "sample_every": 100, "checkpoint_every": 3, "precision": "fp32"}
    rates = {"generator_lr": 1e-3, "discriminator_lr": 1e-3, "ema_half_life_kimg": 0.05}
    config = TrainConfig(**{**values, **rates, **RECIPES.get(name, {}), **settings})
    prepared = PreparedDataset(data, place / "decoded")
    return Trainer(
        name,
        family_config(name, {**SMALL[name], **SETTINGS.get(variant, {}), **(model or {})}),
        prepared,
        config,
        place,
        device=device,
        start=start,
    )
