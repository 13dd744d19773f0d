"""Draw the contact sheet of a generator, and its pictures that are closest to real ones."""

from pathlib import Path

from gan_core.data import PreparedDataset
from gan_core.images.grid import save_sheet
from gan_core.inference.generator import Generator
from gan_core.metrics.copying import ClosestPairs, pairs_sheet
from gan_core.precision import choose_device
from gan_core.training.feed import preview_batch

SHEET_PICTURES = 100
"""Number of samples on a sheet."""
PAIRS_IN_ROW = 4


def draw_neighbours(path: Path, pairs: ClosestPairs) -> None:
    """Write a grid of the closest pairs to ``path``: each generated picture, and to its right the nearest real one."""
    save_sheet(path, pairs_sheet(pairs), columns=min(2 * PAIRS_IN_ROW, 2 * len(pairs.fakes)))


def draw_sheet(path: Path, generator: Generator, dataset: PreparedDataset, seed: int) -> None:
    """Write a grid of pictures to ``path``.

    It shows samples of ``seed``, or, for a generator that translates, fixed pictures of the dataset with their translations.
    """
    if not generator.translates:
        save_sheet(path, generator.sample(SHEET_PICTURES, seed))
        return
    split = "test" if dataset.info.splits.get("test") else "train"
    pictures, columns = generator.preview(preview_batch(dataset, split, choose_device()))
    save_sheet(path, pictures, columns=columns)
