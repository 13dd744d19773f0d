"""How much memory a device, the machine or its container has, and whether an error says that it is exhausted."""

import contextlib
from pathlib import Path

import torch

_CGROUPS, _OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


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
