"""Which device to use, in which precision it computes, how much memory it has, and how it says that this is full."""

import contextlib
import logging

import torch

from gan_core.errors import SettingsError

log = logging.getLogger(__name__)


def choose_device(name: str = "auto") -> torch.device:
    """``auto``: the first NVIDIA or AMD GPU when there is one, else the CPU. Or ``cpu``, ``cuda``, ``cuda:1``, ``mps``.

    Raises:
        SettingsError: no such kind of device, or none of it in this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device: torch.device | None
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    # torch has further kinds, some of which hold no numbers (meta) or cannot train.
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        raise SettingsError(f"device: there is no device '{name}' to compute on. Use auto, cpu, cuda, cuda:1 or mps.")
    if device.type == "cuda" and not (device.index or 0) < torch.cuda.device_count():
        raise SettingsError(
            f"device: '{name}' is not in this machine; torch {torch.__version__} sees {torch.cuda.device_count()} GPUs "
            "here. Use auto or cpu."
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise SettingsError(f"device: '{name}' needs a Mac with Apple silicon. Use auto or cpu.")
    return device


def has_bf16(device: torch.device) -> bool:
    """Whether ``device`` has instructions for bf16; emulation does not count, it is slower than fp32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    # torch.ops.mkldnn._is_mkldnn_bf16_supported() also says yes where oneDNN only emulates: not asked.
    return device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def choose_precision(wanted: str, device: torch.device) -> torch.dtype:
    """The type that autocast computes in: torch.bfloat16 or torch.float32. Says what ``auto`` chose and why."""
    if wanted == "auto":
        chosen = torch.bfloat16 if has_bf16(device) else torch.float32
        reason = "has" if chosen is torch.bfloat16 else "has no"
        log.info("Precision %s: the %s %s bf16 instructions.", str(chosen)[6:], device.type, reason)
        return chosen
    return torch.bfloat16 if wanted == "bf16" else torch.float32


def full_precision(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """A context without autocast on ``device``: what bf16's three digits would spoil."""
    # Shapes alone, without numbers: torch knows no autocast there.
    return contextlib.nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def device_memory(device: torch.device) -> int | None:
    """Bytes of memory that a GPU has in all; None where it is not known, as of one that is not in this machine."""
    if device.type == "cuda" and torch.cuda.is_available():
        return torch.cuda.get_device_properties(device).total_memory
    return torch.mps.recommended_max_memory() if device.type == "mps" else None


def out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that a device's memory does not suffice, a GPU's or the machine's own."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(error)
