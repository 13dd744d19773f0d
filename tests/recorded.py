"""A stand-in for CUDA graphs on a processor: it records the operations of a step, and repeats them on the same memory.

Like a CUDA graph, a recording repeats operations on the tensors that they had, with the numbers that they had, and writes
their results to where they were. Recording changes nothing: what was there before is put back, and all that was made becomes
NaN. So a step that reads memory that has been replaced, or a number that should have changed, trains other weights. What a GPU
could not record raises an error: reading a number, or making a tensor from numbers of the host.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, ClassVar
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gan_core.augment import ada
from gan_core.training import captured

WAITS = {
    torch.ops.aten._local_scalar_dense.default: "reads a number",
    torch.ops.aten.nonzero.default: "makes a tensor whose size the processor must know",
    torch.ops.aten.masked_select.default: "makes a tensor whose size the processor must know",
    torch.ops.aten.lift_fresh.default: "makes a tensor from numbers of the host",
}
"""Operations for which a GPU would have to wait."""


class Recording(TorchDispatchMode):
    """The operations of a block, which can be repeated after it."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []
        self._before: dict[int, tuple[Tensor, Tensor]] = {}
        self._made: dict[int, Tensor] = {}
        self.replays = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = _tensors((args, kwargs))
        if func is torch.ops.aten.index.Tensor and any(index.dtype is torch.bool for index in given[1:]):
            raise RuntimeError("a captured step makes a tensor whose size the processor must know: index")
        if func in WAITS:
            raise RuntimeError(f"a captured step {WAITS[func]}: {func.name()}")
        for tensor in given:
            place = tensor.untyped_storage()._cdata
            if place not in self._before and place not in self._made:
                memory = _memory(tensor)
                self._before[place] = memory, memory.clone()
        result = func(*args, **kwargs)
        for tensor in _tensors(result):
            if tensor.untyped_storage()._cdata not in self._before:
                self._made.setdefault(tensor.untyped_storage()._cdata, tensor)
        self._calls.append((func, args, kwargs, result))
        return result

    def undo(self) -> None:
        """Put back what was there before the block, and let what was made in it be NaN."""
        for memory, before in self._before.values():
            memory.copy_(before)
        for tensor in self._made.values():
            if tensor.is_floating_point():
                torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage()).fill_(torch.nan)

    @torch.no_grad()
    def replay(self) -> None:
        """Repeat the operations on the same memory."""
        self.replays += 1
        for func, args, kwargs, result in self._calls:
            again = func(*args, **kwargs)
            for old, new in zip(_tensors(result), _tensors(again), strict=True):
                if old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class RecordedGraphs:
    """In place of :class:`~gan_core.training.captured.CudaGraphs`."""

    made: ClassVar[list[Recording]] = []
    """All recordings of a block with :func:`recorded_graphs`, in their order."""

    def __init__(self, device: torch.device) -> None:
        pass

    def start_over(self) -> None:
        pass

    def warm_up(self, work: Callable[[], Any]) -> Any:
        return work()

    def capture(self, work: Callable[[], Any]) -> tuple[Recording, Any]:
        recording = Recording()
        try:
            with recording:
                result = work()
        finally:
            recording.undo()
        self.made.append(recording)
        return recording, result


@contextlib.contextmanager
def recorded_graphs() -> Iterator[list[Recording]]:
    """Within the block, trainers with ``compile: step`` record their steps on a processor, and compile nothing.

    Yields the list of the recordings that are made.
    """
    RecordedGraphs.made.clear()
    with (
        patch.object(captured, "DEVICES", ("cpu",)),
        patch.object(ada, "COUNTING_DEVICES", ()),  # as on a GPU
        patch.object(captured, "CudaGraphs", RecordedGraphs),
        patch.object(torch, "compile", lambda function, **options: function),
        # Traced penalties would be compiled.
        patch("gan_core.families.base.Family.compile", lambda family, **options: None),
    ):
        yield RecordedGraphs.made


def _tensors(nested: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(nested) if isinstance(leaf, Tensor)]


def _memory(tensor: Tensor) -> Tensor:
    """All bytes of the memory that ``tensor`` lies in."""
    return torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
