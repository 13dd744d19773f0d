"""Choose a picture of a prepared dataset as the input example of a registered generator."""

from pathlib import Path

from gan_core.data import PreparedDataset
from gan_core.shards import open_shard


def example_picture(prepared: Path) -> bytes | None:
    """The first picture of a prepared dataset that a generator can translate, as PNG bytes; None if there is none.

    It comes from the test split if there is one, otherwise from the train split. For paired data, it is a condition.
    """
    info = PreparedDataset(prepared).info
    split = "test" if info.splits.get("test") else "train"
    column = "condition" if info.condition_channels else "image"
    batches = open_shard(PreparedDataset(prepared).shards(split)[0]).iter_batches(columns=[column], batch_size=1)
    first = next(batches, None)
    return None if first is None else first.column(column)[0].as_py()["bytes"]
