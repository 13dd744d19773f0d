"""A step of training on streamed shards beside a step on pictures that are in memory."""

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from gan_core.data import PreparedDataset
from gan_core.families.dcgan import DcganConfig
from gan_core.precision import choose_device
from gan_core.training.config import TrainConfig
from gan_core.training.trainer import Trainer
from tests.bench import Row
from tests.bench.trainers import wait
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

        def seconds(feed: str, count: int) -> float:
            wait(device)
            started = time.perf_counter()
            trainers[feed].run(until=trainers[feed].step + count)
            wait(device)
            return time.perf_counter() - started

        for feed in trainers:
            seconds(feed, steps)
        # In turn, each first as often as second, because what else the machine does must meet both sides of a pair.
        pairs = [
            {feed: seconds(feed, steps) / steps for feed in (sorted(trainers, reverse=bool(turn % 2)))}
            for turn in range(PAIRS)
        ]
    ratio = statistics.median(pair["stream"] / pair["decoded"] for pair in pairs)
    shown = {feed: statistics.median(pair[feed] for pair in pairs) * 1e3 for feed in trainers}
    note = (
        f"{shown['stream']:.0f} against {shown['decoded']:.0f} ms a step; dcgan at {SIZE}x{SIZE}, batch {BATCH}, on "
        f"{device.type}; PNGs of {groups.size.sum() / PICTURES / 1e3:.1f} kB, windows of {WINDOW_GROUPS} row groups of "
        f"{ROW_GROUP}"
    )
    return [
        Row(
            name="streamed shards beside pictures in memory, a step",
            ratio=(ratio - 1) * 100,
            target=5,
            unit="%",
            note=note,
        )
    ]


if __name__ == "__main__":
    print(rows())
