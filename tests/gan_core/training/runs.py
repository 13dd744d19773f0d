"""Short training runs of DCGAN and of the toy family, and helpers to inspect their files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from gan_core.checkpoint import list_checkpoints, load_checkpoint
from gan_core.data import PreparedDataset
from gan_core.families.dcgan import DcganConfig
from gan_core.training.config import TrainConfig
from gan_core.training.observer import Observer
from gan_core.training.trainer import Trainer

DCGAN = DcganConfig(width=8, latent=16)

Make = Callable[..., Trainer]


def short_run(
    data: PreparedDataset, place: Path, model: Any = DCGAN, name: str = "run", observer: Any = None, **settings: Any
) -> Trainer:
    """Make a trainer in ``place/name``; further arguments are those of Trainer, or settings of the run."""
    others = {key: settings.pop(key) for key in ("resume_from", "world") if key in settings}
    seldom = {"log_every": 5, "sample_every": 10, "checkpoint_every": 10}
    config = TrainConfig(**{"steps": 20, "batch": 16, "precision": "fp32", **seldom, **settings})
    family = "dcgan" if isinstance(model, DcganConfig) else "toy"
    return Trainer(family, model, data, config, place / name, device="cpu", observer=observer, **others)


class Notes(Observer):
    """An observer that records all calls."""

    def __init__(self) -> None:
        self.rows: dict[int, dict[str, float]] = {}
        self.grids: dict[int, Tensor] = {}
        self.checkpoints: list[int] = []

    def metrics(self, values: dict[str, float], step: int) -> None:
        self.rows[step] = values

    def pictures(self, pictures: Tensor, step: int, columns: int) -> None:
        self.grids[step] = pictures

    def checkpoint(self, path: Path | None, step: int) -> None:
        assert path is not None
        assert load_checkpoint(path).step == step
        self.checkpoints.append(step)


def final(directory: Path) -> tuple[bytes, bytes]:
    """The content of the newest checkpoint."""
    path = list_checkpoints(directory)[0]
    return (path / "tensors.safetensors").read_bytes(), (path / "state.json").read_bytes()


def steps(directory: Path) -> list[int]:
    """The steps of the checkpoints in a folder."""
    return sorted(int(path.name[5:]) for path in list_checkpoints(directory))
