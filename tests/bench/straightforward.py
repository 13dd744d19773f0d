"""What a straightforward loop is made of: torch's own layers and Adam, in fp32 and in torch's default memory layout."""

import contextlib
import copy
from collections.abc import Iterator
from unittest.mock import patch

import torch
from torch import nn

from gan_core.families import Batch, Phase, require
from gan_core.families.noise import NoiseFamily
from gan_core.nn.convolution import Conv2d, ConvTranspose2d, FastDoubleBackward
from gan_core.nn.instance_norm import InstanceNorm2d
from gan_core.nn.padding import ReflectionPad2d
from gan_core.training.trainer import Trainer


class NoiseLoop:
    """The loop of tutorials and of the papers' algorithms, for any family that makes pictures from noise.

    Eager, fp32, NCHW, torch's own layers and gradients of gradients, Adam as it comes, a loss read back at each update. The
    fakes are made anew for each update, real and generated pictures are judged one after the other, and in the generator's
    update gradients go through the discriminator down to its weights, where nobody wants them. There is no average.
    """

    def __init__(self, trainer: Trainer) -> None:
        """``trainer`` is in fp32 and is used up: its networks are this loop's from now on."""
        family = require(trainer.family, NoiseFamily)
        self._trainer, self._turn, self._step = trainer, 0, 0
        family.joint = False
        for name, network in family.networks.items():
            family.networks[name] = with_torchs_layers(network)
        config = trainer.config
        self._adam = {
            side: torch.optim.Adam(
                (parameter for name in names for parameter in family.networks[name].parameters()),
                config.learning_rates[side],
                (config.beta1, config.beta2),
            )
            for side, names in trainer._sides.items()
        }

    def run(self, steps: int) -> None:
        """Train for ``steps`` steps."""
        updates = self._trainer._updates
        with torchs_own():
            for _ in range(steps):
                for _ in range(self._trainer.config.discriminator_steps):
                    # Not the last round, as it says: nothing is kept for the generator's update.
                    (batch,) = self._trainer._batches(self._turn, last=False)
                    batch.real = batch.real.contiguous()
                    self._turn += 1
                    for phases in updates:
                        if phases[0].side == "discriminator" and self._step % phases[0].every == 0:
                            self._update(phases, batch)
                for phases in updates:
                    if phases[0].side == "generator" and self._step % phases[0].every == 0:
                        self._update(phases, batch)
                self._step += 1

    def _update(self, phases: tuple[Phase, ...], batch: Batch) -> None:
        for adam in self._adam.values():
            adam.zero_grad()
        loss = torch.stack([phase.loss(batch, self._step).total for phase in phases]).sum()
        loss.backward()
        self._adam[phases[0].side].step()
        loss.item()


@contextlib.contextmanager
def torchs_own() -> Iterator[None]:
    """Networks that ask for channels_last get torch's default layout; gradients of gradients are torch's own.

    (That cuDNN sums in an order is the Trainer's own wish, while it runs: here it need not.)
    """
    with patch.object(torch, "channels_last", torch.contiguous_format), torchs_second_gradients():
        yield


@contextlib.contextmanager
def torchs_second_gradients() -> Iterator[None]:
    """Gradients of gradients are torch's own, in penalties and in families' own losses."""
    with (
        patch.object(FastDoubleBackward, "__enter__", lambda mode: mode),
        patch.object(FastDoubleBackward, "__exit__", lambda mode, *error: None),
    ):
        yield


def with_torchs_layers(network: nn.Module) -> nn.Module:
    """A copy of ``network`` in torch's default memory layout, with torch's own convolutions, instance norm and reflected
    borders."""
    network = copy.deepcopy(network).to(memory_format=torch.contiguous_format)
    for name, module in list(network.named_modules()):
        own: nn.Module
        if isinstance(module, InstanceNorm2d):
            own = nn.InstanceNorm2d(module.num_features, affine=True).to(module.weight.device)
            own.load_state_dict(module.state_dict())
        elif isinstance(module, ReflectionPad2d):
            own = nn.ReflectionPad2d(module.width)
        elif type(module) is Conv2d:
            module.__class__ = nn.Conv2d
            continue
        elif type(module) is ConvTranspose2d:
            module.__class__ = nn.ConvTranspose2d
            continue
        else:
            continue
        parent, _, place = name.rpartition(".")
        setattr(network.get_submodule(parent), place, own)
    return network
