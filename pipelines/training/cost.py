"""What a training run cost: device time, images, rate and memory."""

import resource
from contextlib import suppress
from pathlib import Path

import torch

from pipelines.training.curves import read_curves

DEVICE_SECONDS, KIMG, RATE, MEMORY = (
    "cost/device_seconds",
    "cost/kimg",
    "cost/images_per_second",
    "cost/peak_memory_gib",
)
"""Metrics of a run: time of the steps, added over the devices; thousands of real images seen; mean rate of all devices
together; largest memory of rank 0, of its GPU or, without one, of its process."""
_GIB = 2**30


def training_cost(curves: Path, workers: int) -> dict[str, float]:
    """The cost of the steps in the curves of a run on ``workers`` devices; empty if they have no rates.

    Steps that a resumed run repeated, start-up and pauses for FIDs and grids are left out.
    """
    frame = read_curves(curves)
    if not {"rate/images_per_second", "progress/kimg"} <= set(frame.columns):
        return {}
    frame = frame[["rate/images_per_second", "progress/kimg"]].dropna()
    images = frame["progress/kimg"].diff().fillna(frame["progress/kimg"]) * 1000
    seconds = float((images / frame["rate/images_per_second"]).sum())
    if not seconds > 0:
        return {}
    return {
        DEVICE_SECONDS: seconds * workers,
        KIMG: float(frame["progress/kimg"].iloc[-1]),
        RATE: float(images.sum()) / seconds,
    }


def peak_memory_gib(device: torch.device) -> float:
    """The largest memory until now: of torch on ``device`` if it is a GPU, else of this process. GiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / _GIB
    with suppress(OSError, StopIteration, ValueError):
        # Not ru_maxrss on Linux: that begins at the peak of the process that started this one.
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("VmHWM:"))) * 1024 / _GIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / _GIB
