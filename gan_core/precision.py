"""Choose the device and the precision, and ask for the memory of a device and of the machine."""

import contextlib
import logging

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


def device_memory(device: torch.device) -> int | None:
    """Return the total memory of a GPU in bytes; None if unknown, for example if this machine does not have it."""
    if device.type == "cuda" and torch.cuda.is_available():
        return torch.cuda.get_device_properties(device).total_memory
    return torch.mps.recommended_max_memory() if device.type == "mps" else None


def available_memory() -> int:
    """Return the main memory in bytes that a program can still use. Linux states it; elsewhere psutil is needed."""
    with contextlib.suppress(OSError), open("/proc/meminfo", encoding="ascii") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    import psutil  # not at the top, so that training on Linux needs nothing besides PyTorch and the readers of the data

    return psutil.virtual_memory().available


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` means that the memory of a GPU or of the machine is exhausted."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(error)
