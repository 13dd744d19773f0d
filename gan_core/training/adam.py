"""Adam (Kingma & Ba 2015) in one pass over the memory of parameters, gradients and moments."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

_EPSILON = 1e-8


class Adam:
    """torch's fused kernel for Adam, for contiguous parameters and for those in channels_last.

    The kernel for processors walks its four tensors by address whatever their strides say: it updates the wrong numbers
    where a gradient lies otherwise than its parameter. Here a gradient that lies otherwise is laid out anew, and the kernel
    is shown the memory in its order. torch's own class has the kernel copy each gradient in channels_last, and loads torch's
    compiler, which takes as long as torch itself, to be constructed.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, betas: tuple[float, float] = (0.9, 0.999)
    ) -> None:
        """Remember nothing yet. ``lr`` and ``betas`` may be set anew before any step."""
        self.lr, self.betas = lr, betas
        self._parameters = list(parameters)
        self._remembered: dict[int, _Moments] = {}

    def zero_grad(self) -> None:
        """Drop the gradients of all parameters."""
        for parameter in self._parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Update each parameter that has a gradient."""
        moments, gradients = [], []
        for index, parameter in enumerate(self._parameters):
            if parameter.grad is None:
                continue
            if index not in self._remembered:
                self._remembered[index] = _Moments(parameter.detach())
            moments.append(self._remembered[index])
            gradients.append(moments[-1].show(parameter.grad))
        if not moments:
            return
        steps = [of.step for of in moments]
        torch._foreach_add_(steps, 1.0)
        torch._fused_adam_(
            [of.shown[0] for of in moments],
            gradients,
            [of.shown[1] for of in moments],
            [of.shown[2] for of in moments],
            [],
            steps,
            lr=self.lr,
            beta1=self.betas[0],
            beta2=self.betas[1],
            weight_decay=0.0,
            eps=_EPSILON,
            amsgrad=False,
            maximize=False,
        )

    def moments(self) -> dict[str, Tensor]:
        """All that it remembers, by ``INDEX.NAME``; the index counts the parameters. What never had a gradient has none."""
        remembered = sorted(self._remembered.items())
        return {f"{index}.{name}": tensor for index, of in remembered for name, tensor in of.by_name().items()}

    def moments_like(self, keys: Iterable[str]) -> dict[str, Tensor]:
        """Tensors of the shapes that the moments have which ``keys`` of :meth:`moments` are among: all of each parameter."""
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
        """Remember copies of what :meth:`moments` gave, laid out in memory as the parameters are, and nothing else."""
        indices = sorted({int(key.partition(".")[0]) for key in tensors})
        self._remembered = {index: _Moments(self._parameters[index].detach()) for index in indices}
        for name, own in self.moments().items():
            own.copy_(tensors[name])


class _Moments:
    """What is remembered of one parameter, and how the kernel is shown its memory."""

    def __init__(self, parameter: Tensor) -> None:
        self.step = torch.zeros((), device=parameter.device)
        """Steps taken; the kernel for GPUs reads the count there."""
        self.exp_avg, self.exp_avg_sq = torch.zeros_like(parameter), torch.zeros_like(parameter)
        self._like, self._places = parameter, _places(parameter)
        # The kernel for GPUs knows strides, and autograd's gradients lie as parameters do.
        last = parameter.dim() == 4 and parameter.is_contiguous(memory_format=torch.channels_last)
        self._turned = last and not parameter.is_cuda
        self.shown = [self._turn(tensor) for tensor in (parameter, self.exp_avg, self.exp_avg_sq)]

    def show(self, gradient: Tensor) -> Tensor:
        """The gradient in the order of the parameter's memory."""
        if not gradient.is_cuda and _places(gradient) != self._places:
            gradient = torch.empty_like(self._like).copy_(gradient)
        return self._turn(gradient)

    def by_name(self) -> dict[str, Tensor]:
        return {"step": self.step, "exp_avg": self.exp_avg, "exp_avg_sq": self.exp_avg_sq}

    def _turn(self, tensor: Tensor) -> Tensor:
        """A contiguous view of a tensor in channels_last, (N, H, W, C)."""
        return tensor.permute(0, 2, 3, 1) if self._turned else tensor


def _places(tensor: Tensor) -> list[int]:
    """Strides of the sides that have more than one place."""
    return [stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if size > 1]
