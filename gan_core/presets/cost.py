"""Estimate the cost of training without training: floating-point operations per image, and peak memory of a step.

A step is simulated with tensors that have shapes but no values. This takes seconds, whatever the batch size.
"""

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from gan_core import randomness
from gan_core.families import Batch, Family, ImageShape, Phase, build_family, family_config

_FLOAT = 4
"""Bytes of a float32."""
_IMAGES = 64
"""Images of a step whose operations are counted: those on the weights alone, as of orthogonal regularisation, are shared by a
batch."""


def training_flops(name: str, shape: ImageShape, model: Mapping[str, Any], discriminator_steps: int = 1) -> float:
    """Estimate the floating-point operations of training per real image: of the updates of both sides, with their penalties.

    Matrix products and convolutions are counted.

    Args:
        name: name of the family.
        shape: shape of the pictures.
        model: the family's settings.
        discriminator_steps: updates of the discriminator per step.
    """
    passes = _operations_per_step(name, shape, model)
    return passes["discriminator"] + passes["generator"] / discriminator_steps


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
    """Estimate the peak memory of training in bytes: networks, optimisers and the tensors of a step.

    Counts the tensors that are alive at the same time in an eager step; the memory of the device's libraries comes on top. In a
    compiled run, CUDA graphs keep the memory of the adversarial losses for themselves, and penalties, which have graphs of
    their own, add theirs. Compared with eager steps on an H100: DCGAN at 64 pixels is estimated at 1.0 GiB and took 1.1;
    R3GAN was estimated at 45 GiB and took 50, before its penalties were differentiated one after the other, which halved the
    estimate.

    Args:
        name: name of the family.
        shape: shape of the pictures.
        model: the family's settings.
        images: images per micro-batch on one device.
        keep: whether a step is a single micro-batch (``Batch.keep``).
        bf16: whether the networks compute in bf16.
        compiled: whether the networks are compiled (``train.compile``).
    """
    from torch._subclasses.fake_tensor import FakeTensorMode  # takes a second to load

    adversarial = penalties = level = 0
    with FakeTensorMode(), _Memory() as alive:

        def count(phase: Phase) -> None:
            nonlocal adversarial, penalties, level
            most, now = alive.peak_since()
            if compiled and phase.name != phase.side:
                penalties = max(penalties, most - level)
            else:
                adversarial = max(adversarial, most)
            level = now

        family = _simulate_step(name, shape, model, images, keep=keep, bf16=bf16, after=count)
        of_generators, of_discriminators = (
            sum(parameter.numel() for name in names for parameter in family.networks[name].parameters())
            for names in (family.generators, family.discriminators)
        )
    # Adam's two moments for all networks, and the averaged generators.
    return adversarial + penalties + _FLOAT * (3 * of_generators + 2 * of_discriminators)


def _operations_per_step(name: str, shape: ImageShape, model: Mapping[str, Any]) -> dict[str, float]:
    """Floating-point operations of the updates of each side per real image, counted without computing.

    The images are generated in the discriminator's update, which the generator's continues.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode  # takes a second to load

    n, passes, before = _IMAGES, {"discriminator": 0.0, "generator": 0.0}, 0.0
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
    """Run the forward and backward pass of every phase of a step, without updates, and call ``after`` on each phase.

    Call this within a FakeTensorMode, so that nothing is computed.
    """
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
        for network in family.discriminators:  # as in training, they have no gradient while the generators learn
            family.networks[network].requires_grad_(phase.side == "discriminator")
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16 and not phase.full_precision):
            total = phase.loss(batch, 0).total
        total.backward()
        after(phase)
    return family


class _Operations(TorchDispatchMode):
    """Counts floating-point operations. Unlike torch's FlopCounterMode, it supports double backward passes."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        count = flop_registry.get(func._overloadpacket)
        if func._overloadpacket is torch.ops.aten.convolution_backward:
            self.total += _convolution_backward(*args, **kwargs)
        elif count is not None:
            self.total += count(*args, **kwargs, out_val=result)
        return result


def _convolution_backward(gradient: Tensor, input: Tensor, weight: Tensor, *others: Any) -> int:
    """Floating-point operations of the gradients of a convolution: for each, those of the convolution.

    torch 2.13 counts the weight gradient of g groups g times.
    """
    transposed, wanted = others[4], others[7]
    return 2 * (input if transposed else gradient).numel() * weight[0].numel() * sum(wanted[:2])


class _Memory(TorchDispatchMode):
    """Tracks the bytes of all tensors that are alive."""

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
        if storage in self._known:  # the result is a view, or an in-place write
            return
        self._known[storage] = size = storage.nbytes()
        weakref.finalize(storage, self._forget, size)
        self._now += size
        self._most = max(self._most, self._now)

    def peak_since(self) -> tuple[int, int]:
        """Return the peak since the last call, and the current number of bytes."""
        most, self._most = self._most, self._now
        return most, self._now

    def _forget(self, size: int) -> None:
        self._now -= size
