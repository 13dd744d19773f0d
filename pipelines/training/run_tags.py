"""Tags of a training run: what it started from, and by what the speed of a later one is predicted."""

import platform
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from gan_core.data import DatasetInfo, PreparedDataset

DEVICE, WORKERS, PICTURES = "gantry.device", "gantry.workers", "gantry.pictures"
"""Device of a worker, number of workers, and shape of the pictures."""
CORES = "core(s)"
"""Part of the name of a processor, and of no GPU's."""
PARENT, PARENT_DIGEST = "gantry.parent", "gantry.parent_digest"
"""Name of the run that it started from, such as faces/3, and the SHA-256 of what that run has kept."""


def parent_tags(parent: Mapping[str, Any] | None) -> dict[str, str]:
    """Tags that name the run ``parent`` (:attr:`gan_core.training.start.Start.record`); empty for random weights."""
    return {PARENT: parent["name"], PARENT_DIGEST: parent["digest"]} if parent else {}


def device_name(device: torch.device, threads: int) -> str:
    """Name of a device as runs are compared by it: the GPU's, or the processor's with the number of its cores in use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_processor()}, {threads} {CORES}"


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def run_tags(device: torch.device, threads: int, workers: int, dataset: PreparedDataset) -> dict[str, str]:
    """Tags by which a later :func:`pipelines.flow.forecast.forecast` finds the run."""
    return {DEVICE: device_name(device, threads), WORKERS: str(workers), PICTURES: shape_name(dataset.info)}


def shape_name(info: DatasetInfo) -> str:
    """Width, height and channels of the pictures, as in the tag."""
    return f"{info.width}x{info.height}x{info.channels}"
