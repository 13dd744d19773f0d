"""No step reads memory that CUDA graphs have reused, tested without a GPU by compilers that treat memory the same way.

What a call of a compiled network leaves behind, outputs, tensors for the backward pass and gradients, lies in memory that is
filled with NaN at the next mark, so that a late read would show in the weights.

torch's compiler takes up to half a minute for a game's networks. It is used where each kind of graph occurs once; all games
are played with a stand-in that calls the networks as they are.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from functorch.compile import make_boxed_func
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

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

TRACED = ["dcgan", "r3gan with lazy penalties", "pix2pix"]
"""A game without penalties, one whose penalties are compiled with their gradients, and a translation."""


class Graphs:
    """The memory of all compiled calls since the last mark."""

    def __init__(self) -> None:
        self._memory: list[Tensor] = []
        self.marks: list[int] = []
        """Number of tensors that each mark has taken away."""

    def mark(self) -> None:
        self.marks.append(len(self._memory))
        for tensor in self._memory:
            if tensor.is_floating_point():
                tensor.fill_(torch.nan)
        self._memory.clear()

    @torch.no_grad()
    def keep(self, tensor: Tensor, inputs: Sequence[Tensor] = ()) -> Tensor:
        """Return ``tensor`` in memory that the next mark takes away. An input, or a view of one, is not memory of a graph."""
        if any(tensor.untyped_storage().data_ptr() == given.untyped_storage().data_ptr() for given in inputs):
            return tensor
        self._memory.append(torch.empty_like(tensor).copy_(tensor))
        return _alias(self._memory[-1])

    def compile_traced(self, module: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        """A compiler of traced forward and backward passes, for torch's own."""
        compute = make_boxed_func(module.forward)

        def call(arguments: list[Any]) -> list[Any]:
            given = [a for a in arguments if isinstance(a, Tensor)]
            return [self.keep(made, given) if isinstance(made, Tensor) else made for made in compute(list(arguments))]

        call._boxed_call = True  # type: ignore[attr-defined]  # tells torch that it may free the arguments
        return call

    def compile_untraced(self, network: nn.Module, **options: Any) -> Callable[..., Any]:
        """Stands in for torch.compile."""

        def call(*arguments: Any) -> Any:
            own = [*network.parameters(), *network.buffers(), *(a for a in tree_leaves(arguments) if _is_tensor(a))]
            weights = {name: self._watched(parameter) for name, parameter in network.named_parameters()}
            arguments = tree_map(lambda given: self._watched(given) if _is_tensor(given) else given, arguments)
            with torch.autograd.graph.saved_tensors_hooks(lambda saved: self.keep(saved, own), lambda saved: saved):
                made, structure = tree_flatten(torch.func.functional_call(network, weights, arguments))
            return tree_unflatten([_Kept.apply(out, self, own) for out in made], structure)

        return call

    def _watched(self, tensor: Tensor) -> Tensor:
        """Return ``tensor`` such that the gradient that it gets lies in the memory."""
        return _Watched.apply(tensor, self) if tensor.requires_grad and torch.is_grad_enabled() else tensor


class _Kept(torch.autograd.Function):
    """Keeps an output."""

    @staticmethod
    def forward(ctx: Any, made: Tensor, graphs: Graphs, inputs: Sequence[Tensor]) -> Tensor:
        return graphs.keep(made, inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient, None, None


class _Watched(torch.autograd.Function):
    """Keeps a gradient."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, graphs: Graphs) -> Tensor:
        ctx.graphs = graphs
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.graphs.keep(gradient), None


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


def _alias(tensor: Tensor) -> Tensor:
    """Return another tensor on the same memory, which autograd treats as new."""
    storage, offset = tensor.untyped_storage(), tensor.storage_offset()
    return torch.empty(0, dtype=tensor.dtype).set_(storage, offset, tensor.shape, tensor.stride())


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Graphs:
    """Stands in for CUDA graphs, without a compiler."""
    found = Graphs()
    monkeypatch.setattr(torch, "compile", found.compile_untraced)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", found.mark)
    return found


@pytest.fixture
def traced_graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Graphs]:
    """Stands in for CUDA graphs, below torch's compiler."""
    found = Graphs()
    backend = aot_autograd(fw_compiler=found.compile_traced, bw_compiler=found.compile_traced)
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


def check(trainer: Trainer, graphs: Graphs, steps: int) -> None:
    start = weights(trainer).clone()
    trainer.run(steps)
    assert len(graphs.marks) > 1
    assert all(graphs.marks[1:])  # nothing lies there before the first
    assert trainer.rollbacks == 0
    assert torch.isfinite(weights(trainer)).all()
    assert not torch.equal(weights(trainer), start)


@pytest.mark.parametrize("game", GAMES)
def test_no_tensor_is_read_after_its_memory_was_reused(game: str, tmp_path: Path, graphs: Graphs) -> None:
    """Over steps with and without lazy penalties, reports, grids and checkpoints; two steps more than the last."""
    check(trainer_of(game, tmp_path), graphs, 7)


@pytest.mark.parametrize("game", ["r3gan", "biggan with all penalties", "stargan2"])
def test_no_tensor_is_read_after_reuse_with_micro_batches(game: str, tmp_path: Path, graphs: Graphs) -> None:
    check(trainer_of(game, tmp_path, accumulate=2), graphs, 4)


@pytest.mark.parametrize("game", TRACED)
def test_no_tensor_of_a_traced_graph_is_read_after_its_memory_was_reused(
    game: str, tmp_path: Path, traced_graphs: Graphs
) -> None:
    check(trainer_of(game, tmp_path), traced_graphs, 7)


@pytest.mark.parametrize("kind", ["graphs", "traced_graphs"])
def test_a_late_read_is_detected(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """A mark between the two updates takes away the images that the generator's needs."""
    graphs = request.getfixturevalue(kind)
    trainer = trainer_of("dcgan", tmp_path)
    update = trainer._update

    def marked(side: Any, *rest: Any) -> None:
        if side == "generator":
            graphs.mark()
        update(side, *rest)

    monkeypatch.setattr(trainer, "_update", marked)
    trainer.run(2)
    assert not torch.isfinite(weights(trainer)).all()
