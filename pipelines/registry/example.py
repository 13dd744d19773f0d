"""A picture of a prepared data set, for the input example of a registered generator."""

from pathlib import Path

from pyarrow.parquet import ParquetFile

from gan_core.data import PreparedDataset


def example_picture(prepared: Path) -> bytes | None:
    """The first picture of a prepared dataset that a generator may be asked to translate, as a PNG.

    Of the test split where there is one; the condition where the data is paired.
    """
    info = PreparedDataset(prepared).info
    split = "test" if info.splits.get("test") else "train"
    column = "condition" if info.condition_channels else "image"
    batches = ParquetFile(PreparedDataset(prepared).shards(split)[0]).iter_batches(columns=[column], batch_size=1)
    first = next(batches, None)
    return None if first is None else first.column(column)[0].as_py()["bytes"]
