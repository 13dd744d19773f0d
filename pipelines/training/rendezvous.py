"""How the train workers of one machine find each other: by a file, not by a port that anybody may talk to.

torch's usual meeting place is a server that listens on all interfaces and asks for no password.
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
    """Ray Train's settings of torch's process group, for workers on one machine.

    A single worker gets no process group: it has nobody to talk to.
    """

    folder: str = ""
    """Where the workers meet: a folder that all of them see, absolute."""

    @property
    def backend_cls(self) -> type:
        """What sets the group up."""
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
    """Remove the files at which workers have met. The last worker to leave removes its own, unless it is killed."""
    for left in Path(folder).glob("rendezvous-*"):
        left.unlink(missing_ok=True)


def _join(**group: Any) -> None:
    for library in ("GLOO", "NCCL"):
        os.environ[f"{library}_SOCKET_IFNAME"] = loopback_interface()
    _setup_torch_process_group(**group)


def loopback_interface() -> str:
    """The name of the network interface that only this machine sees."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(address.family == socket.AF_INET and address.address == "127.0.0.1" for address in addresses):
            return name
    return "lo"
