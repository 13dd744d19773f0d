"""A step of training on streamed shards beside a step on pictures that are in memory."""

import tempfile
from pathlib import Path

import numpy as np

from gan_core.data import PreparedDataset
from gan_core.families.dcgan import DcganConfig
from gan_core.precision import choose_device
from gan_core.training.config import TrainConfig
from gan_core.training.trainer import Trainer
from tests.bench import Row
from tests.bench.pairs import in_pairs
from tests.bench.trainers import run_steps, seconds_of
from tests.datasets import blobs, write_prepared

SIZE, BATCH, PICTURES, ROW_GROUP, PAIRS = 64, 64, 2048, 128, 10
WINDOW_GROUPS = 4


def rows() -> list[Row]:
    """One row: seconds a step that streaming adds, as a share of a step on resident pictures."""
    device = choose_device()
    steps = 3 if device.type == "cpu" else 50
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        # Noise, so that a PNG is as large as that of a photograph.
        noise = np.random.default_rng(0).integers(0, 16, (PICTURES, 3, SIZE, SIZE), dtype=np.uint8)
        pixels = blobs(PICTURES, SIZE, channels=3) // 2 + noise
        data = PreparedDataset(write_prepared(place / "data", pixels, shards=4, row_group=ROW_GROUP), place / "decoded")
        groups, never = data.row_groups(), 10**9
        memory = 3 * WINDOW_GROUPS * int(groups.size.max()) / 2**30
        seldom = {"log_every": never, "sample_every": never, "checkpoint_every": never}
        trainers = {}
        for feed in ("decoded", "stream"):
            config = TrainConfig(steps=never, batch=BATCH, feed=feed, stream_gib=memory, **seldom)
            trainers[feed] = Trainer("dcgan", DcganConfig(width=64), data, config, place / feed, device=device)

        def some_steps(feed: str) -> float:
            return seconds_of(lambda: run_steps(trainers[feed], steps), device) / steps

        for feed in trainers:
            some_steps(feed)
        compared = in_pairs(lambda: some_steps("decoded"), lambda: some_steps("stream"), pairs=PAIRS)
    note = (
        f"{compared.second * 1e3:.0f} against {compared.first * 1e3:.0f} ms a step; dcgan at {SIZE}x{SIZE}, batch {BATCH}, on "
        f"{device.type}; PNGs of {groups.size.sum() / PICTURES / 1e3:.1f} kB, windows of {WINDOW_GROUPS} row groups of "
        f"{ROW_GROUP}"
    )
    return [
        Row(
            name="streamed shards beside pictures in memory, a step",
            ratio=(compared.ratio - 1) * 100,
            low=(compared.low - 1) * 100,
            high=(compared.high - 1) * 100,
            target=5,
            unit="%",
            note=note,
        )
    ]


if __name__ == "__main__":
    print(rows())
