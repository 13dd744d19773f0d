"""Print how long the driver of a search takes to bring the events of many trials from S3.

``python -m tests.scale.control [TRIALS]``.
"""

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from pipelines.storage.inputs import Inputs
from pipelines.storage.mirror import MirrorWriter
from pipelines.storage.objects import Storage
from pipelines.tracking import RunLog
from pipelines.tuning.places import EVENTS, TrialFollower, TrialsInStorage, trial_run_key
from tests.s3_server import s3_server


def follow_seconds(count: int) -> dict[str, float]:
    """Seconds in which a driver brings the events of ``count`` trials from S3, and finds that nothing is new."""
    with tempfile.TemporaryDirectory() as name, s3_server(Path(name)) as server:
        folder = Path(name)
        os.environ.update(server.environment)
        uri = f"s3://{server.bucket}/follow"
        inputs = Inputs(uri=uri, digest="", size=0, cache_bytes=0, weights=False)
        place = TrialsInStorage(name="work/tune/key", epoch=1, inputs=inputs)
        for number in range(count):
            trial, mirrored = f"t{number:05d}", folder / "trial"
            mirror = MirrorWriter(
                Storage(uri), place.mirror_name(trial), mirrored, epoch=1, logs=(f"{EVENTS}/*/events.jsonl",)
            )
            with RunLog(mirrored / EVENTS, key=trial_run_key("key", trial), name=trial) as log:
                log.log_metrics({"fid": 1.0}, 10)
            mirror.sync()
            shutil.rmtree(mirrored)
        follower = TrialFollower(place, folder / "mirrors", folder / "events", "key")
        taken = []
        for everything in (True, True, False):
            began = time.perf_counter()
            follower.pull(everything=everything)
            taken.append(time.perf_counter() - began)
        assert len(list((folder / "events").glob("*/events.jsonl"))) == count
    return {
        f"events of {count:,} trials brought": taken[0],
        "... found that none is new": taken[1],
        "... a usual look meanwhile": taken[2],
    }


if __name__ == "__main__":
    for name, seconds in follow_seconds(int(sys.argv[1]) if len(sys.argv) > 1 else 1000).items():
        print(f"{name}: {seconds:.3f} s", flush=True)
