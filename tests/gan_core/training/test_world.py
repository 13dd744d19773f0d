"""Several workers compute the same result as one worker with the whole batch."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from gan_core.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint
from gan_core.data import PreparedDataset
from gan_core.errors import DataError
from gan_core.families import FAMILIES, DiversityPair
from gan_core.training import length as lengths
from gan_core.training import quality
from gan_core.training.config import TrainConfig
from gan_core.training.health import diversity, spread
from gan_core.training.length import LENGTH, decide_length
from gan_core.training.trainer import Trainer
from gan_core.training.world import World
from tests.gan_core.metrics.conftest import Averages
from tests.gan_core.training.toy import Toy, ToyConfig, weights

MODEL = ToyConfig(nan_at=13, cured_after=1)
SELDOM = {"log_every": 5, "sample_every": 10, "checkpoint_every": 10}
SETTINGS = {"steps": 20, "batch": 16, "mirror": True, "precision": "fp32", **SELDOM}


def train(data: Path, cache: Path, directory: Path, **settings: int) -> Trainer:
    config = TrainConfig(**{**SETTINGS, **settings})
    trainer = Trainer("toy", MODEL, PreparedDataset(data, cache), config, directory, device="cpu")
    trainer.run()
    return trainer


def test_a_world_of_size_1_needs_no_process_group() -> None:
    world = World.current()
    assert world == World(0, 1)
    assert (world.part.rank, world.part.world) == (0, 1)
    tensors = [torch.ones(3)]
    world.average(tensors)
    world.barrier()
    assert tensors[0].tolist() == [1, 1, 1]
    assert world.on_rank_zero(lambda: "done") == "done"


def _refuse() -> None:
    raise DataError("there is nothing to measure")


def assert_equal_on_both(tensor: torch.Tensor) -> None:
    both = [torch.empty_like(tensor) for _ in range(2)]
    dist.all_gather(both, tensor)
    assert torch.equal(both[0], both[1])


def _worker(rank: int, folder: str, data: str) -> None:
    """Runs in each of two processes; a failed check fails the process, and with it the test."""
    home = Path(folder)
    torch.set_num_threads(1)
    FAMILIES["toy"] = Toy
    dist.init_process_group("gloo", init_method=f"file://{home / 'meet'}", rank=rank, world_size=2)
    world = World.current()
    assert world == World(rank, 2)
    tensors = [torch.full((2, 3), float(rank)), torch.tensor([[rank * 2.0]]), torch.tensor(float(rank))]
    world.average(tensors)
    assert [tensor.flatten().tolist() for tensor in tensors] == [[0.5] * 6, [1.0], [0.5]]

    layer = nn.Linear(2, 1).to(memory_format=torch.contiguous_format)
    layer.weight.grad = torch.full((1, 2), 4.0) if rank else None
    world.average_gradients(layer.parameters())
    assert layer.weight.grad.tolist() == [[2.0, 2.0]]  # missing on one worker: counts as zero there
    assert layer.bias.grad.tolist() == [0.0]

    # One image each, as with as many workers as images in a batch: that is no mode collapse.
    mine = torch.full((1, 1, 2, 2), 2.0 * rank)
    assert spread(mine).item() == pytest.approx(1)
    assert diversity([DiversityPair(fakes=mine, reals=mine)]).item() == pytest.approx(1)
    single = torch.zeros(1, dtype=torch.int64)
    assert diversity([DiversityPair(fakes=mine, reals=mine, fake_labels=single, real_labels=single)]) == 1

    assert world.on_rank_zero(lambda: "done") == ("done" if rank == 0 else None)
    kinds = {
        "a": torch.tensor([[1, 2], [3, 4]]),
        "b": torch.tensor(True),
        "c": torch.empty(0),
        "d": torch.arange(6.0).view(2, 3).T,
    }
    received = world.broadcast_tensors(kinds if rank == 0 else None, torch.device("cpu"))
    assert received.keys() == kinds.keys()
    for name, tensor in kinds.items():
        assert received[name].dtype == tensor.dtype
        assert torch.equal(received[name], tensor)
    with pytest.raises(DataError, match="nothing to measure"):
        world.on_rank_zero(_refuse)

    # Only rank 0 measures, while the other waits.
    quality.load_inception = lambda device: Averages()
    # Each worker has its own folder, as on two hosts. Checkpoints are in the folder of rank 0.
    trainer = train(Path(data), home / f"cache{rank}", home / f"pair{rank}", fid_every=10, fid_samples=8)
    assert (trainer._quality is not None) == (rank == 0)
    assert (trainer.step, trainer.rollbacks) == (20, 1)
    assert_equal_on_both(weights(trainer.family.networks))
    assert (rank == 0) == bool(list_checkpoints(home / f"pair{rank}"))

    # Both resume from the checkpoint of rank 0. The other host does not have it, and its own checkpoint is not used.
    if rank == 1:
        save_checkpoint(home / "pair1", 25, {}, {})
    dataset = PreparedDataset(Path(data), home / f"cache{rank}")
    resumed = Trainer("toy", MODEL, dataset, trainer.config, home / f"pair{rank}", device="cpu")
    assert (resumed.step, resumed.rollbacks) == (20, 1)
    assert torch.equal(weights(resumed.family.networks), weights(trainer.family.networks))

    # Both measure, and rank 0 decides.
    def build_trainer(config: TrainConfig, place: Path) -> Trainer:
        return Trainer("toy", MODEL, dataset, config, place, device="cpu")

    lengths._LONGEST_S = 0.5
    config, timed = replace(trainer.config, minutes=0.5), home / f"timed{rank}"
    length = decide_length(build_trainer, config, timed, timed / "checkpoints", world=world)
    assert (length.minutes, length.workers) == (0.5, 2)
    assert length.costs.fid > 0
    assert_equal_on_both(torch.tensor(length.steps))
    assert (timed / LENGTH).is_file() == (rank == 0)
    dist.destroy_process_group()


def test_two_workers_train_to_the_same_weights_as_one_with_the_whole_batch(blob_folder: Path, tmp_path: Path) -> None:
    """With a NaN on the way: both workers must detect it and roll back together."""
    mp.spawn(_worker, (str(tmp_path), str(blob_folder)), nprocs=2)
    train(blob_folder, tmp_path / "cache", tmp_path / "alone")
    pair, alone = (load_checkpoint(list_checkpoints(tmp_path / name)[0]) for name in ("pair0", "alone"))
    assert pair.step == alone.step == 20
    assert pair.state == alone.state
    assert pair.tensors.keys() == alone.tensors.keys()
    for name, tensor in alone.tensors.items():
        torch.testing.assert_close(pair.tensors[name], tensor, rtol=0, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("rank", [0, 1])
def test_a_worker_takes_its_own_rows(rank: int) -> None:
    assert list(range(10))[World(rank, 2).part.rows(5)] == list(range(5 * rank, 5 * rank + 5))
