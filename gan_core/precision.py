"""Choose the device to compute on and the precision."""

import contextlib
import logging
import threading
from typing import Any, cast

import torch

from gan_core.errors import SettingsError

log = logging.getLogger(__name__)


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
