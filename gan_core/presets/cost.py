"""What training costs, without training: floating point operations for an image, and memory for a step.

A step is played with tensors that have a shape and no numbers: it takes seconds, whatever the size of the batch.
"""

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from gan_core import randomness
from gan_core.families import FAMILIES, Batch, Family, ImageShape, Phase, build_family, family_config, require
from gan_core.families.noise import NoiseFamily

_FLOAT = 4
"""Bytes of a float32."""


def training_flops(name: str, shape: ImageShape, model: Mapping[str, Any], rounds: int = 1) -> float:
    """Floating point operations of training for one real image, with the family's settings ``model``.

    ``rounds`` are the updates of the discriminator in a step.

    From noise, the discriminator learns from a real and a generated image and the generator through it: with a backward pass
    worth two forward ones, that is three passes of the generator and eight of the discriminator for one round of each. Of a
    family that translates, both updates are counted as they are.
    """
    if not FAMILIES[name].can(NoiseFamily):
        passes = _operations_of_a_step(name, shape, model)
        return passes["discriminator"] + passes["generator"] / rounds
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        family = require(build_family(name, family_config(name, model), shape), NoiseFamily)
        passes = {side: _operations(family, side, counter) for side in ("generator", "discriminator")}
    return 3 * passes["generator"] / rounds + (6 + 2 / rounds) * passes["discriminator"]


def peak_memory(
    name: str,
    shape: ImageShape,
    model: Mapping[str, Any],
    images: int,
    *,
    keep: bool,
    bf16: bool,
    compiled: bool = False,
) -> int:
    """Bytes that training needs at most, with ``images`` in a micro-batch: networks, their optimisers, a step's tensors.

    Counted are tensors that are alive at once, as an eager step makes them; what the device's libraries take for themselves
    comes on top. Compiled with CUDA graphs, the game's memory is the graphs' own as long as they live, and penalties on
    gradients, which are not compiled, have theirs beside it; all penalties are counted so. Beside eager steps measured on an
    H100: 1.0 GiB where DCGAN at 64 pixels took 1.1; R3GAN was counted 45 where it took 50, before its penalties were
    differentiated one after the other, which halved the count.

    Args:
        name: of the family.
        shape: of the pictures.
        model: the family's settings.
        images: on one device at once.
        keep: whether a step is one micro-batch (``Batch.keep``).
        bf16: whether it computes in bf16.
        compiled: whether networks are compiled (``train.compile``).
    """
    from torch._subclasses.fake_tensor import FakeTensorMode  # takes a second to load

    game = apart = level = 0
    with FakeTensorMode(), _Memory() as alive:

        def count(phase: Phase) -> None:
            nonlocal game, apart, level
            most, now = alive.since()
            if compiled and phase.name != phase.side:
                apart = max(apart, most - level)
            else:
                game = max(game, most)
            level = now

        family = _simulate_step(name, shape, model, images, keep=keep, bf16=bf16, after=count)
        of_generators, of_discriminators = (
            sum(parameter.numel() for name in names for parameter in family.networks[name].parameters())
            for names in (family.generators, family.discriminators)
        )
    # Adam's two moments of both sides, and the averaged generators.
    return game + apart + _FLOAT * (3 * of_generators + 2 * of_discriminators)


def _operations(family: NoiseFamily, side: str, counter: FlopCounterMode) -> float:
    """Floating point operations of one forward pass for one image."""
    before, n, shape = counter.get_total_flops(), 4, family.shape
    labels = torch.zeros(n, dtype=torch.int64) if family.conditional else None
    with torch.no_grad():
        if side == "generator":
            family.generate_sample(family.networks[side], torch.zeros(n, family.config.latent), labels, None)
        else:
            family.judge(family.networks[side], torch.zeros(n, shape.channels, shape.height, shape.width), labels)
    return (counter.get_total_flops() - before) / n


def _operations_of_a_step(name: str, shape: ImageShape, model: Mapping[str, Any]) -> dict[str, float]:
    """Floating point operations of each side's updates for one real image; nothing is computed."""
    from torch._subclasses.fake_tensor import FakeTensorMode  # takes a second to load

    n, passes, before = 2, {"discriminator": 0.0, "generator": 0.0}, 0.0
    with FakeTensorMode(), _Operations() as counter:

        def count(phase: Phase) -> None:
            nonlocal before
            passes[phase.side] += (counter.total - before) / n / phase.every
            before = counter.total

        _simulate_step(name, shape, model, n, after=count)
    return passes


def _simulate_step(
    name: str,
    shape: ImageShape,
    model: Mapping[str, Any],
    images: int,
    *,
    keep: bool = True,
    bf16: bool = False,
    after: Callable[[Phase], None] = lambda phase: None,
) -> Family:
    """Every phase of a step forwards and back, but no update, under a mode in which nothing is computed."""
    family = build_family(name, family_config(name, model), shape)
    real, condition = (
        torch.zeros(images, channels, shape.height, shape.width)
        for channels in (shape.channels, shape.condition_channels or shape.channels)
    )
    classes = torch.zeros(images, dtype=torch.int64) if shape.classes else None
    batch = Batch(
        real=real,
        labels=torch.zeros(images, shape.attributes) if shape.attributes else classes,
        condition=condition,
        key=("cost",),
        part=randomness.WorkerSlice(),
        keep=keep,
    )
    for phase in family.phases():
        for network in family.discriminators:  # as in training: while the generators learn, these take no gradient
            family.networks[network].requires_grad_(phase.side == "discriminator")
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16 and not phase.full_precision):
            total = phase.loss(batch, 0).total
        total.backward()
        after(phase)
    return family


class _Operations(TorchDispatchMode):
    """Adds up floating point operations. Unlike torch's own it bears gradients that are differentiated once more."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.total += count(*args, **kwargs, out_val=result)
        return result


class _Memory(TorchDispatchMode):
    """Follows the bytes of all tensors that are alive."""

    def __init__(self) -> None:
        super().__init__()
        self._most = self._now = 0
        self._known: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._see(tensor.untyped_storage())
        return result

    def _see(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known:  # of a view, or written into
            return
        self._known[storage] = size = storage.nbytes()
        weakref.finalize(storage, self._forget, size)
        self._now += size
        self._most = max(self._most, self._now)

    def since(self) -> tuple[int, int]:
        """The most that was alive since this was last asked, and what is now."""
        most, self._most = self._most, self._now
        return most, self._now

    def _forget(self, size: int) -> None:
        self._now -= size
