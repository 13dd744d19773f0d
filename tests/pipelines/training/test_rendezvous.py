"""Workers on one machine connect through a file and communicate on loopback."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.training.rendezvous import LocalTorchConfig, loopback_interface
from tests.pipelines.toy import CHECKOUT, environment

WORKER = """
import sys, time
import psutil, torch
import torch.distributed as dist
from pathlib import Path
from pipelines.training.rendezvous import _join
rank, place = int(sys.argv[1]), Path(sys.argv[2])
_join(backend="gloo", world_rank=rank, world_size=2, init_method=f"file://{place}", timeout_s=120)
total = torch.tensor([rank + 1.0])
dist.all_reduce(total)
listening = [one.laddr.ip for one in psutil.Process().net_connections("tcp") if one.status == psutil.CONN_LISTEN]
dist.barrier()
print(int(total), *sorted(set(listening)))
dist.destroy_process_group()
"""


def test_two_workers_connect_through_a_file_and_listen_only_on_loopback(tmp_path: Path) -> None:
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(rank), str(tmp_path / "place")],
            cwd=CHECKOUT,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    told = [worker.communicate(timeout=150) for worker in workers]
    for output, errors in told:
        total, *listening = output.split()
        assert total == "3", errors
        assert listening, "gloo listens somewhere; on nothing would mean that this test sees nothing"
        assert set(listening) <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}


class _Group:
    """A worker group that records the calls instead of executing them."""

    def __init__(self, size: int) -> None:
        self.size, self.single = size, []

    def __len__(self) -> int:
        return self.size

    def execute(self, function: object) -> None:
        pass

    def get_resources_per_worker(self) -> dict[str, float]:
        return {"CPU": 1}

    def execute_single_async(self, rank: int, function: object, **group: object) -> tuple[int, dict]:
        self.single.append((rank, group))
        return rank, group


@pytest.fixture
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.training.rendezvous.ray.get", lambda futures: futures)


@pytest.mark.usefixtures("_no_waiting")
def test_all_workers_get_the_same_new_file_and_leftover_files_are_removed(tmp_path: Path) -> None:
    (tmp_path / "rendezvous-old").touch()
    group, config = _Group(3), LocalTorchConfig(timeout_s=7, folder=str(tmp_path))
    config.backend_cls().on_start(group, config)
    assert [rank for rank, _ in group.single] == [0, 1, 2]
    (place,) = {settings["init_method"] for _, settings in group.single}
    assert place.startswith(f"file://{tmp_path}/rendezvous-")
    assert {settings["world_size"] for _, settings in group.single} == {3}
    assert {settings["timeout_s"] for _, settings in group.single} == {7}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("_no_waiting")
def test_a_single_worker_gets_no_process_group(tmp_path: Path) -> None:
    group, config = _Group(1), LocalTorchConfig(folder=str(tmp_path))
    config.backend_cls().on_start(group, config)
    assert group.single == []


def test_the_loopback_interface_is_found() -> None:
    assert loopback_interface().startswith("lo")
