"""The state of a run as named tensors."""

import torch

from gan_core import randomness
from gan_core.augment.augmenter import AugmentConfig, Augmenter
from gan_core.families import Batch, ImageShape
from gan_core.training.adam import Adam
from gan_core.training.ema import AveragedNetworks
from gan_core.training.state import State
from tests.gan_core.training.toy import Toy, ToyConfig


class Run:
    """The parts of a run after one step from the initial weights of ``seed``."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.family = Toy(ToyConfig(), ImageShape(channels=1, height=16, width=16))
        self.family.buffers = {"history": torch.randn(3)}
        self.averaged = AveragedNetworks({"generator": self.family.networks["generator"]})
        self.augmenter = Augmenter(AugmentConfig(kind="ada"), 64)
        self.augmenter.strength.fill_(seed / 10)
        self.optimisers = {side: Adam(self.family.networks[side].parameters(), 0.01) for side in self.family.networks}
        self.state = State(self.family, self.averaged, self.augmenter, self.optimisers)
        self.step(seed)

    def step(self, number: int) -> None:
        batch = Batch(real=torch.zeros(4, 1, 16, 16), labels=None, key=(0, 0, number), part=randomness.WorkerSlice())
        for loss in (self.family.discriminator_loss, self.family.generator_loss):
            loss(batch, number).total.backward()
        for optimiser in self.optimisers.values():
            optimiser.step()
            optimiser.zero_grad()
        self.averaged.update(0.5)


def kept(run: Run) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in run.state.tensors().items()}


def test_every_part_of_the_state_has_tensors() -> None:
    parts = {name.split(".")[0] for name in Run(1).state.tensors()}
    assert parts == {"network", "averaged", "augment", "optimiser", "memory"}


def test_a_run_that_loads_another_runs_tensors_continues_as_it_does() -> None:
    first, other = Run(1), Run(2)
    assert not torch.equal(kept(first)["memory.history"], kept(other)["memory.history"])
    other.state.load(kept(first))
    for run in (first, other):
        run.step(7)
    expected = kept(first)
    for name, tensor in kept(other).items():
        assert torch.equal(tensor, expected[name]), name


def test_loaded_tensors_are_copied() -> None:
    first, other = Run(1), Run(2)
    saved = kept(first)
    other.state.load(saved)
    before = {name: tensor.clone() for name, tensor in saved.items()}
    other.step(7)
    assert all(torch.equal(tensor, before[name]) for name, tensor in saved.items())
