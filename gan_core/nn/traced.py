"""Compile losses with a double backward pass, such as gradient penalties: loss and gradients become one traced graph.

What torch.compile makes can be differentiated only once. But the first derivative, the loss and its gradients by the parameters
are plain operations when they run. They are recorded once for each shape of the inputs, with torch's make_fx, and compiled as
a function without derivatives.
"""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from gan_core.memory import is_out_of_memory
from gan_core.nn import collectives

log = logging.getLogger(__name__)

Loss = Callable[..., tuple[Tensor, ...]]
"""Takes a network and further tensors (or None); returns a scalar, and further tensors that are not differentiated.

It must be a pure function of these and of the network's parameters and buffers: its operations are recorded once.
"""


class TracedLoss:
    """A loss of one network that is called like the loss itself, without the network, and whose first output is
    differentiable by the network's parameters once.

    If torch cannot trace or compile the loss, that is logged once, and it runs as it is.
    """

    def __init__(self, name: str, network: nn.Module, loss: Loss, **options: Any) -> None:
        """Trace at the first call of each kind.

        Args:
            name: for the log.
            network: whose parameters the loss is differentiated by.
            loss: the loss.
            options: of torch.compile.
        """
        self._name, self._network, self._loss, self._options = name, network, loss, options
        self._graphs: dict[Any, _Graph] = {}
        self._refused = False

    def __call__(self, *inputs: Tensor | None) -> tuple[Tensor, ...]:
        """Return the outputs of the loss."""
        if self._refused:
            return self._loss(self._network, *inputs)
        parameters = dict(self._network.named_parameters())
        graph = self._graph(inputs, parameters)
        if graph is None:
            return self._loss(self._network, *inputs)
        return _Replay.apply(graph, inputs, *parameters.values())

    def _graph(self, inputs: tuple[Tensor | None, ...], parameters: dict[str, nn.Parameter]) -> "_Graph | None":
        shapes = tuple(None if given is None else (given.shape, given.dtype, given.device) for given in inputs)
        trained = tuple(parameter.requires_grad for parameter in parameters.values())
        kind = next(iter(parameters.values())).device.type
        autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        key = (shapes, trained, autocast, self._network.training)
        if key not in self._graphs:
            try:
                graph = _Graph(self._network, self._loss, inputs, self._options)
                graph.run(inputs)  # compiles it
            except Exception as error:  # torch raises all kinds
                if isinstance(error, RuntimeError | MemoryError) and is_out_of_memory(error):
                    raise
                self._refused = True
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
                log.warning("%s is not compiled, because torch cannot trace it: %s", self._name, reason)
                return None
            self._graphs[key] = graph
        return self._graphs[key]


class _Graph:
    """The compiled operations of a loss and of its gradients, for inputs of one kind."""

    def __init__(self, network: nn.Module, loss: Loss, inputs: tuple[Tensor | None, ...], options: Any) -> None:
        from torch.fx.experimental.proxy_tensor import make_fx  # takes as long to import as torch itself

        self._parameters = dict(network.named_parameters())
        self._buffers = dict(network.named_buffers())
        self._device = next(iter(self._parameters.values())).device.type
        self.trained: list[int] = []
        """Positions of the parameters that the loss depends on."""
        self._changed: list[str] = []

        def everything(
            inputs: list[Tensor | None], parameters: list[Tensor], buffers: list[Tensor]
        ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
            own = dict(zip(self._buffers, (buffer.clone() for buffer in buffers), strict=True))
            before = {name: buffer._version for name, buffer in own.items()}
            values = {**dict(zip(self._parameters, parameters, strict=True)), **own}
            outputs = functional_call(
                _Called(network, loss), {f"network.{n}": v for n, v in values.items()}, tuple(inputs)
            )
            needed = [place for place, parameter in enumerate(parameters) if parameter.requires_grad]
            gradients = torch.autograd.grad(outputs[0], [parameters[at] for at in needed], allow_unused=True)
            found = {at: gradient for at, gradient in zip(needed, gradients, strict=True) if gradient is not None}
            self.trained = list(found)
            self._changed = [name for name, buffer in own.items() if buffer._version != before[name]]
            return [o.detach() for o in outputs], list(found.values()), [own[name].detach() for name in self._changed]

        if any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in network.modules()):
            raise NotImplementedError("batch norm changes its statistics without torch's knowledge")
        parameters = [p.detach().requires_grad_(p.requires_grad) for p in self._parameters.values()]
        with collectives.refused():
            traced = make_fx(everything, tracing_mode="fake")(list(inputs), parameters, list(self._buffers.values()))
        self._compiled = torch.compile(traced, **options)

    @torch.no_grad()
    def run(self, inputs: tuple[Tensor | None, ...]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Return outputs, gradients and changed buffers; changes nothing."""
        with torch.autocast(self._device, enabled=False):  # casts are in the graph
            return self._compiled(list(inputs), list(self._parameters.values()), list(self._buffers.values()))

    def step(self, inputs: tuple[Tensor | None, ...]) -> tuple[list[Tensor], list[Tensor]]:
        """Return outputs and gradients, and change the buffers as a call of the network does."""
        outputs, gradients, changed = self.run(inputs)
        with torch.no_grad():
            for name, value in zip(self._changed, changed, strict=True):
                self._buffers[name].copy_(value)
        return outputs, gradients


class _Called(nn.Module):
    """A loss as the forward pass of a module, because functional_call replaces the tensors of modules."""

    def __init__(self, network: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.network, self._loss = network, loss

    def forward(self, *inputs: Tensor | None) -> tuple[Tensor, ...]:
        """Call the loss."""
        return self._loss(self.network, *inputs)


class _Replay(torch.autograd.Function):
    """Runs a graph, and gives its gradients to the parameters in the backward pass."""

    @staticmethod
    def forward(ctx, graph: _Graph, inputs: tuple[Tensor | None, ...], *parameters: Tensor) -> Any:
        outputs, gradients = graph.step(inputs)
        ctx.save_for_backward(*gradients)
        ctx.trained, ctx.count = graph.trained, len(parameters)
        outputs = [output.clone() for output in outputs]  # CUDA graphs reuse the memory of their outputs
        ctx.mark_non_differentiable(*outputs[1:])
        return tuple(outputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, upstream: Tensor, *rest: Any) -> Any:
        found: list[Tensor | None] = [None] * ctx.count
        scaled = torch._foreach_mul(list(ctx.saved_tensors), upstream) if ctx.saved_tensors else []
        for place, gradient in zip(ctx.trained, scaled, strict=True):
            found[place] = gradient
        return None, None, *found
