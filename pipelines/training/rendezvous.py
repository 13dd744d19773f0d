"""Rendezvous of the train workers on one machine through a file instead of a network port.

By default, torch starts a server that listens on all interfaces without a password.
"""

import os
import socket
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import ray
from ray.train.torch import TorchConfig
from ray.train.torch.config import _set_torch_distributed_env_vars, _setup_torch_process_group, _TorchBackend


@dataclass
class LocalTorchConfig(TorchConfig):
    """Torch configuration of Ray Train for workers on one machine.

    A single worker gets no process group, because it has no peers.
    """

    folder: str = ""
    """Absolute path of a folder for the rendezvous file, visible to all workers."""

    @property
    def backend_cls(self) -> type:
        """The backend that sets up the process group."""
        return _LocalBackend


class _LocalBackend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        worker_group.execute(_set_torch_distributed_env_vars)
        if len(worker_group) == 1:
            return
        remove_rendezvous_files(backend_config.folder)
        place = f"file://{Path(backend_config.folder) / f'rendezvous-{uuid.uuid4().hex}'}"
        gpus = worker_group.get_resources_per_worker().get("GPU", 0)
        joining = [
            worker_group.execute_single_async(
                rank,
                _join,
                backend=backend_config.backend or ("nccl" if gpus else "gloo"),
                world_rank=rank,
                world_size=len(worker_group),
                init_method=place,
                timeout_s=backend_config.timeout_s,
            )
            for rank in range(len(worker_group))
        ]
        ray.get(joining)


def remove_rendezvous_files(folder: Path | str) -> None:
    """Remove leftover rendezvous files. The last worker to leave a group removes its file, unless it is killed."""
    for left in Path(folder).glob("rendezvous-*"):
        left.unlink(missing_ok=True)


def _join(**group: Any) -> None:
    # Both libraries take the interface from the environment only. This process is a new Ray worker: nothing else reads it.
    for library in ("GLOO", "NCCL"):
        os.environ[f"{library}_SOCKET_IFNAME"] = loopback_interface()
    _setup_torch_process_group(**group)


def loopback_interface() -> str:
    """Name of the loopback network interface."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(address.family == socket.AF_INET and address.address == "127.0.0.1" for address in addresses):
            return name
    return "lo"
