"""The contact sheet of a generator."""

from pathlib import Path

from gan_core.data import PreparedDataset
from gan_core.images.grid import save_sheet
from gan_core.inference.generator import Generator
from gan_core.precision import choose_device
from gan_core.training.feed import preview_batch

SHEET_PICTURES = 100


def draw_sheet(path: Path, generator: Generator, dataset: PreparedDataset, seed: int) -> None:
    """Pictures drawn from noise; of a generator that translates, always the same pictures beside what it makes of them."""
    if not generator.translates:
        save_sheet(path, generator.sample(SHEET_PICTURES, seed))
        return
    split = "test" if dataset.info.splits.get("test") else "train"
    pictures, columns = generator.preview(preview_batch(dataset, split, choose_device()))
    save_sheet(path, pictures, columns=columns)
