"""No step reads memory that CUDA graphs have reused, tested without a GPU by a compiler that treats memory the same way.

Each call of a compiled network writes its outputs to memory that belongs to its position since the last mark. At a mark all
of this memory is filled with NaN, so that a late read would show in the weights.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from functorch.compile import make_boxed_func
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd

from gan_core.data import PreparedDataset
from gan_core.families import family_config
from gan_core.training import trainer as training
from gan_core.training.config import TrainConfig
from gan_core.training.trainer import Trainer
from tests.datasets import blobs, write_prepared
from tests.gan_core.families import conftest, translations

LAZY = {
    "biggan with all penalties": (
        "biggan",
        {
            "consistency": 10.0,
            "consistency_every": 2,
            "orthogonal": 0.1,
            "orthogonal_every": 3,
            "gradient_penalty": 1.0,
        },
    ),
    "r3gan with lazy penalties": ("r3gan", {"penalty_every": 2}),
}
"""Families with lazy penalties, some of which differentiate compiled networks."""

GAMES = [*conftest.SMALL, *LAZY, *translations.VARIANTS]


class Graphs:
    """The memory of all compiled calls, by graph and by position since the last mark."""

    def __init__(self) -> None:
        self._memory: dict[tuple[int, int], list[Tensor | None]] = {}
        self._place = self._graphs = 0

    def mark(self) -> None:
        self._place = 0
        for outputs in self._memory.values():
            for output in outputs:
                if output is not None and output.is_floating_point():
                    output.fill_(torch.nan)

    def compile(self, module: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        self._graphs += 1
        graph, compute = self._graphs, make_boxed_func(module.forward)

        def call(arguments: list[Any]) -> list[Any]:
            given = {a.untyped_storage().data_ptr() for a in arguments if isinstance(a, Tensor)}
            made = compute(arguments)
            place, self._place = (self._place, graph), self._place + 1
            with torch.no_grad():
                # An input, or a view of one, is not memory of the graph.
                own = [isinstance(m, Tensor) and m.untyped_storage().data_ptr() not in given for m in made]
                if place not in self._memory:
                    self._memory[place] = [
                        torch.empty_like(m) if mine else None for m, mine in zip(made, own, strict=True)
                    ]
                kept = self._memory[place]
                return [m if k is None else _alias(k.copy_(m)) for m, k in zip(made, kept, strict=True)]

        call._boxed_call = True  # type: ignore[attr-defined]  # tells torch that it may free the arguments
        return call


def _alias(tensor: Tensor) -> Tensor:
    """Return another tensor on the same memory, which autograd treats as new."""
    storage, offset = tensor.untyped_storage(), tensor.storage_offset()
    return torch.empty(0, dtype=tensor.dtype).set_(storage, offset, tensor.shape, tensor.stride())


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Graphs]:
    """Stands in for CUDA graphs."""
    found = Graphs()
    backend = aot_autograd(fw_compiler=found.compile, bw_compiler=found.compile)
    monkeypatch.setattr(training, "compile_options", lambda device, **_: {"backend": backend, "dynamic": False})
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", found.mark)
    torch._dynamo.reset()
    yield found
    torch._dynamo.reset()


def trainer_of(game: str, place: Path, **settings: Any) -> Trainer:
    if game in conftest.SMALL or game in LAZY:
        name, more = LAZY.get(game, (game, {}))
        model = {**conftest.SMALL[name], **more}
        data = write_prepared(place / "data", blobs(32, 16), np.arange(32) % 2)
    else:
        name = translations.VARIANTS[game][0]
        model = {**translations.SMALL[name], **translations.SETTINGS.get(game, {})}
        data = translations.write_data(game, place / "data")
    rounds = 2 if name in ("biggan", "stargan") else 1
    often = {"log_every": 4, "sample_every": 5, "checkpoint_every": 3, "discriminator_steps": rounds}
    config = TrainConfig(**{"steps": 50, "batch": 8, "precision": "fp32", "compile": True, **often, **settings})
    dataset = PreparedDataset(data, place / "decoded")
    trainer = Trainer(name, family_config(name, model), dataset, config, place / "run", device="cpu")
    trainer._uses_cuda_graphs = True
    return trainer


def weights(trainer: Trainer) -> Tensor:
    networks = [*trainer.family.networks.values(), *trainer.averaged.networks.values()]
    return torch.cat([p.detach().flatten() for network in networks for p in network.parameters()])


@pytest.mark.parametrize("game", GAMES)
def test_no_tensor_is_read_after_its_memory_was_reused(game: str, tmp_path: Path, graphs: Graphs) -> None:
    """Over steps with and without lazy penalties, reports, grids and checkpoints; two steps more than the last."""
    trainer = trainer_of(game, tmp_path)
    start = weights(trainer).clone()
    trainer.run(7)
    assert graphs._memory
    assert trainer.rollbacks == 0
    assert torch.isfinite(weights(trainer)).all()
    assert not torch.equal(weights(trainer), start)


@pytest.mark.parametrize("game", ["r3gan", "biggan with all penalties", "stargan2"])
def test_no_tensor_is_read_after_reuse_with_micro_batches(game: str, tmp_path: Path, graphs: Graphs) -> None:
    trainer = trainer_of(game, tmp_path, accumulate=2)
    trainer.run(4)
    assert trainer.rollbacks == 0
    assert torch.isfinite(weights(trainer)).all()


def test_a_late_read_is_detected(tmp_path: Path, graphs: Graphs, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mark between the two updates takes away the images that the generator's needs."""
    trainer = trainer_of("dcgan", tmp_path)
    update = trainer._update

    def marked(side: Any, *rest: Any) -> None:
        if side == "generator":
            graphs.mark()
        update(side, *rest)

    monkeypatch.setattr(trainer, "_update", marked)
    trainer.run(2)
    assert not torch.isfinite(weights(trainer)).all()
