"""Choose the device and the precision, and ask for the memory of a device and of the machine."""

import contextlib
import logging
import threading
from pathlib import Path
from typing import Any, cast

import torch

from gan_core.errors import SettingsError

log = logging.getLogger(__name__)

_CGROUPS, _OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def choose_device(name: str = "auto") -> torch.device:
    """Choose the device to compute on.

    Args:
        name: ``cpu``, ``cuda``, ``cuda:1``, ``mps``, or ``auto`` for the first NVIDIA or AMD GPU if there is one, else the CPU.

    Raises:
        SettingsError: the name is unknown, or this machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device: torch.device | None
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    # torch has other types, some of which have no values (meta) or cannot train.
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        raise SettingsError(f"device: unknown device '{name}'. Use auto, cpu, cuda, cuda:1 or mps.")
    if device.type == "cuda" and not (device.index or 0) < torch.cuda.device_count():
        raise SettingsError(
            f"device: this machine has no '{name}': torch {torch.__version__} finds {torch.cuda.device_count()} GPUs. "
            "Use auto or cpu."
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise SettingsError(f"device: '{name}' needs a Mac with Apple silicon. Use auto or cpu.")
    return device


def has_bf16(device: torch.device) -> bool:
    """Whether ``device`` has instructions for bf16. Emulation does not count, because it is slower than fp32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    # Not torch.ops.mkldnn._is_mkldnn_bf16_supported(), which is also true if oneDNN only emulates bf16.
    return device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def choose_precision(wanted: str, device: torch.device) -> torch.dtype:
    """Return the type of autocast, torch.bfloat16 or torch.float32, for the setting ``wanted``: bf16, fp32 or auto.

    ``auto`` takes bf16 if the device has instructions for it, and logs the choice with the reason.
    """
    if wanted == "auto":
        chosen = torch.bfloat16 if has_bf16(device) else torch.float32
        reason = "has" if chosen is torch.bfloat16 else "has no"
        log.info("Precision %s: the %s %s bf16 instructions.", str(chosen)[6:], device.type, reason)
        return chosen
    return torch.bfloat16 if wanted == "bf16" else torch.float32


def full_precision(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """A context manager that disables autocast on ``device``, for results that need more than the three digits of bf16."""
    # The meta device has shapes but no values; torch has no autocast for it.
    return contextlib.nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


class _TrueFp32:
    """Context manager that turns off reduced-precision float32 in torch (by default, convolutions on a GPU use TF32).

    The settings are global to the process, and several threads may be inside: the first thread to enter changes the settings,
    the last one to leave restores them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before: list[str] = []

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._before = [backend.fp32_precision for backend in self._backends()]
                for backend in self._backends():
                    backend.fp32_precision = "ieee"

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                for backend, precision in zip(self._backends(), self._before, strict=True):
                    backend.fp32_precision = precision

    @staticmethod
    def _backends() -> tuple[Any, ...]:
        gpu, cpu = cast(Any, torch.backends.cudnn), cast(Any, torch.backends.mkldnn)
        return gpu.conv, torch.backends.cuda.matmul, cpu.conv, cpu.matmul


true_fp32 = _TrueFp32()
"""Turns off TF32 within a block, for results that need all digits of float32."""


def device_memory(device: torch.device) -> int | None:
    """Return the total memory of a GPU in bytes; None if unknown, for example if this machine does not have it."""
    if device.type == "cuda" and torch.cuda.is_available():
        return torch.cuda.get_device_properties(device).total_memory
    return torch.mps.recommended_max_memory() if device.type == "mps" else None


def available_memory() -> int:
    """Return the main memory in bytes that this process can still use: of the machine, or of its container if that is less.

    Linux states both; elsewhere psutil is needed.
    """
    return min([_machine_memory(), *_cgroup_memory()])


def _machine_memory() -> int:
    with contextlib.suppress(OSError), open("/proc/meminfo", encoding="ascii") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    import psutil  # not at the top, so that training on Linux needs nothing besides PyTorch and the readers of the data

    return psutil.virtual_memory().available


def _cgroup_memory() -> list[int]:
    """Bytes left of each limit on the memory of this process: those of its cgroup, and of the groups that contain it."""
    found = []
    with contextlib.suppress(OSError):
        for line in _OWN_CGROUPS.read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers not in ("", "memory"):
                continue
            # Version 2 has one tree for all controllers, version 1 one for each.
            root, limit, used, cache = (
                (_CGROUPS, "memory.max", "memory.current", "inactive_file")
                if not controllers
                else (_CGROUPS / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            )
            own = root / path.strip("/")  # not there in a container that does not see the groups above its own
            for group in (own, *own.parents[: len(own.relative_to(root).parts)]):
                with contextlib.suppress(OSError, ValueError, KeyError):  # the limit may be "max"
                    most = int((group / limit).read_text())
                    stated = dict(entry.split() for entry in (group / "memory.stat").read_text().splitlines())
                    # The cache of files counts as used, but gives way.
                    found.append(max(most - int((group / used).read_text()) + int(stated[cache]), 0))
    return found


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` means that the memory of a GPU or of the machine is exhausted."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(error)
