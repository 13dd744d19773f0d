"""Compare ingestion with a straightforward loop: decode, resize, convert, encode."""

import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import torch
from PIL import Image

from pipelines.data.ingest import ingest
from pipelines.data.mapping import map_with_ray
from pipelines.settings.ingest import IngestSettings
from tests.bench import Row
from tests.bench.pairs import in_pairs
from tests.bench.trainers import seconds_of

CPU = torch.device("cpu")
PHOTOS, PHOTO_SIZE = 4096, (256, 320)
TINY, TINY_SIZE = 6144, (28, 28)


def rows() -> list[Row]:
    """Speed of one worker relative to the loop, and of two Ray workers relative to one worker."""
    with tempfile.TemporaryDirectory(prefix="gantry-bench-") as scratch:
        photos, tiny = Path(scratch) / "photos", Path(scratch) / "tiny"
        _write_folder(photos, PHOTOS, PHOTO_SIZE, "jpg")
        _write_folder(tiny, TINY, TINY_SIZE, "png")
        photo_settings = IngestSettings(size=(64, 64), channels=3, fit="stretch")
        tiny_settings = IngestSettings(size=(32, 32), channels=1, fit="pad")
        return [
            _against_loop("JPEGs of 320x256 to 64x64 RGB", photos, PHOTOS, photo_settings),
            _against_loop("PNGs of 28x28 to 32x32 grey", tiny, TINY, tiny_settings),
            _two_workers(photos, PHOTOS, photo_settings),
        ]


def straightforward(folder: Path, settings: IngestSettings) -> list[bytes]:
    """The loop. It checks nothing, computes no digests, keeps duplicates and writes nothing to disk."""
    height, width = settings.size
    encoded = []
    for path in sorted(folder.rglob("*.*")):
        picture = Image.open(path).convert("L" if settings.channels == 1 else "RGB")
        pixels = np.asarray(picture.resize((width, height), Image.Resampling.LANCZOS))
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        encoded.append(buffer.getvalue())
    return encoded


def _against_loop(what: str, folder: Path, count: int, settings: IngestSettings) -> Row:
    out = folder.with_name("out")
    compared = in_pairs(
        lambda: _processor_seconds(lambda: ingest(folder, out, settings, name="bench")),
        lambda: _processor_seconds(lambda: straightforward(folder, settings)),
        pairs=6,
    )
    ours, loop = count / compared.first, count / compared.second
    note = f"{ours:.0f} pictures per CPU second against {loop:.0f} of a Pillow + numpy loop"
    name = f"ingest, {what}"
    return Row(name=name, ratio=compared.ratio, low=compared.low, high=compared.high, target=1.0, note=note)


def _two_workers(folder: Path, count: int, settings: IngestSettings) -> Row:
    import ray

    started = not ray.is_initialized()
    if started:
        ray.init(num_cpus=2, log_to_driver=False)
    try:
        out = folder.with_name("out")
        _spin_up(2)
        compared = in_pairs(
            lambda: seconds_of(lambda: ingest(folder, out, settings, name="bench", mapper=map_with_ray(2)), CPU),
            lambda: seconds_of(lambda: ingest(folder, out, settings, name="bench"), CPU),
            pairs=8,
        )
    finally:
        if started:
            ray.shutdown()
    note = f"{count / compared.first:.0f} pictures/s with 2 Ray workers against {count / compared.second:.0f} in one process"
    name = "ingest, 2 workers against 1"
    return Row(name=name, ratio=compared.ratio, low=compared.low, high=compared.high, target=1.7, note=note)


def _processor_seconds(run: Callable[[], object]) -> float:
    """CPU seconds of a call, with those of the workers, which depend less on other processes than its time."""

    def used() -> float:
        times = [process.cpu_times() for process in (psutil.Process(), *psutil.Process().children(recursive=True))]
        return sum(time.user + time.system for time in times)

    before = used()
    run()
    return used() - before


def _spin_up(workers: int) -> None:
    """Let Ray start its workers and import ingestion, so that the start is not measured."""
    list(map_with_ray(workers)(_import_and_wait, range(workers)))


def _import_and_wait(item: int) -> int:
    import pipelines.data.ingest  # noqa: F401

    time.sleep(3)
    return item


def _write_folder(folder: Path, count: int, size: tuple[int, int], suffix: str) -> None:
    """Write different smooth pictures with some grain, which take about as long to decode as photographs."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for index in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize(size[::-1], Image.Resampling.BICUBIC), dtype=np.int16)
        grain = rng.integers(-6, 7, (*size, 1))
        picture = Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8))
        if suffix == "jpg":
            picture.save(folder / f"{index:05d}.jpg", quality=88)
        else:
            picture.convert("L").save(folder / f"{index:05d}.png")
