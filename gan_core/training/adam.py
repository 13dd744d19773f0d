"""Adam (Kingma & Ba 2015), computed in one pass over the memory of parameters, gradients and moments."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

_EPSILON = 1e-8


class Adam:
    """Adam by torch's fused kernel, for parameters that are contiguous or channels_last.

    torch's CPU kernel reads its four tensors in memory order and ignores strides, so it updates the wrong numbers if a
    gradient has a different memory layout from its parameter. This class copies such a gradient into the parameter's
    layout, and passes channels_last tensors to the kernel as contiguous views.

    ``torch.optim.Adam`` is slower: its kernel copies every channels_last gradient, and its constructor imports torch's
    compiler, which takes as long as importing torch.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, betas: tuple[float, float] = (0.9, 0.999)
    ) -> None:
        """Start without moments. ``lr`` and ``betas`` can be changed before any step."""
        self._lr, self.betas = lr, betas
        self._rate: float | Tensor = lr
        self._parameters = list(parameters)
        self._states: dict[int, _ParameterState] = {}

    @property
    def lr(self) -> float:
        """The learning rate."""
        return self._lr

    @lr.setter
    def lr(self, value: float) -> None:
        if not isinstance(self._rate, Tensor):
            self._rate = value
        elif value != self._lr:
            self._rate.fill_(value)
        self._lr = value

    def keep_rate_on_device(self) -> None:
        """Let the kernel read the learning rate from memory, for steps that are captured: they repeat any other number."""
        device = self._parameters[0].device
        # The kernel of a GPU reads float32 only.
        kind = torch.float32 if device.type == "cuda" else torch.float64
        self._rate = torch.full((), self._lr, dtype=kind, device=device)

    def zero_grad(self) -> None:
        """Set the gradients of all parameters to None."""
        for parameter in self._parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter that has a gradient."""
        moments, gradients = [], []
        for index, parameter in enumerate(self._parameters):
            if parameter.grad is None:
                continue
            if index not in self._states:
                self._states[index] = _ParameterState(parameter.detach())
            moments.append(self._states[index])
            gradients.append(moments[-1].align(parameter.grad))
        if not moments:
            return
        steps = [of.step for of in moments]
        torch._foreach_add_(steps, 1.0)
        torch._fused_adam_(
            [of.kernel_views[0] for of in moments],
            gradients,
            [of.kernel_views[1] for of in moments],
            [of.kernel_views[2] for of in moments],
            [],
            steps,
            lr=self._rate,
            beta1=self.betas[0],
            beta2=self.betas[1],
            weight_decay=0.0,
            eps=_EPSILON,
            amsgrad=False,
            maximize=False,
        )

    def moments(self) -> dict[str, Tensor]:
        """Moments and step counts by ``INDEX.NAME``, where INDEX counts parameters; none for those without a gradient yet."""
        states = sorted(self._states.items())
        return {f"{index}.{name}": tensor for index, of in states for name, tensor in of.by_name().items()}

    def moments_like(self, keys: Iterable[str]) -> dict[str, Tensor]:
        """Tensors with the shapes of all moments of the parameters that ``keys`` (of :meth:`moments`) refer to."""
        found: dict[str, Tensor] = {}
        for index in {key.partition(".")[0] for key in keys}:
            if index.isascii() and index.isdecimal() and int(index) < len(self._parameters):
                parameter = self._parameters[int(index)].detach()
                found |= {
                    f"{index}.step": torch.zeros(()),
                    f"{index}.exp_avg": parameter,
                    f"{index}.exp_avg_sq": parameter,
                }
        return found

    def load_moments(self, tensors: Mapping[str, Tensor]) -> None:
        """Replace all moments with copies of those from :meth:`moments`, in the memory layout of the parameters."""
        indices = sorted({int(key.partition(".")[0]) for key in tensors})
        self._states = {index: _ParameterState(self._parameters[index].detach()) for index in indices}
        for name, own in self.moments().items():
            own.copy_(tensors[name])


class _ParameterState:
    """The optimiser's state of one parameter, and the views that are passed to the kernel."""

    def __init__(self, parameter: Tensor) -> None:
        self.step = torch.zeros((), device=parameter.device)
        """Number of steps; a tensor on the device, because the GPU kernel reads it there."""
        self.exp_avg, self.exp_avg_sq = torch.zeros_like(parameter), torch.zeros_like(parameter)
        self._parameter, self._strides = parameter, _strides(parameter)
        # The GPU kernel respects strides, and autograd gives gradients the layout of their parameters.
        last = parameter.dim() == 4 and parameter.is_contiguous(memory_format=torch.channels_last)
        self._permutes = last and not parameter.is_cuda
        self.kernel_views = [self._as_contiguous(tensor) for tensor in (parameter, self.exp_avg, self.exp_avg_sq)]

    def align(self, gradient: Tensor) -> Tensor:
        """The gradient in the memory order of the parameter."""
        if not gradient.is_cuda and _strides(gradient) != self._strides:
            gradient = torch.empty_like(self._parameter).copy_(gradient)
        return self._as_contiguous(gradient)

    def by_name(self) -> dict[str, Tensor]:
        return {"step": self.step, "exp_avg": self.exp_avg, "exp_avg_sq": self.exp_avg_sq}

    def _as_contiguous(self, tensor: Tensor) -> Tensor:
        """A contiguous view, (N, H, W, C), of a channels_last tensor."""
        return tensor.permute(0, 2, 3, 1) if self._permutes else tensor


def _strides(tensor: Tensor) -> list[int]:
    """Strides of the dimensions larger than 1."""
    return [stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if size > 1]
