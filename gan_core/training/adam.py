"""Adam in one pass over the memory of parameters, gradients and moments."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class Adam(torch.optim.Adam):
    """torch's fused Adam for contiguous parameters and for those in channels_last.

    torch's kernel for processors walks its four tensors by address whatever their strides say: it updates the wrong numbers
    where a gradient lies otherwise than its parameter, and copies each gradient in channels_last for nothing. Here, on a
    processor, a gradient that lies otherwise is laid out anew, and the kernel is shown the memory in its order.
    """

    def __init__(self, parameters: Any, lr: float) -> None:
        super().__init__(parameters, lr, fused=True)

    def moments(self) -> dict[str, Tensor]:
        """All that it remembers, by ``INDEX.NAME``; the index counts the parameters."""
        state = self.state_dict()["state"]
        return {f"{index}.{name}": tensor for index, values in state.items() for name, tensor in values.items()}

    def load_moments(self, tensors: Mapping[str, Tensor]) -> None:
        """Remember what :meth:`moments` gave, laid out in memory as the parameters are."""
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        state: dict[int, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            index, name = key.split(".")
            like = parameters[int(index)] if tensor.dim() else tensor  # the count of steps has no sides
            state.setdefault(int(index), {})[name] = torch.empty_like(like).copy_(tensor)
        self.load_state_dict({**self.state_dict(), "state": state})

    def _init_group(self, group: Any, params_with_grad: list[Tensor], grads: list[Tensor], *rest: Any) -> bool:
        has_complex = super()._init_group(group, params_with_grad, grads, *rest)
        if params_with_grad and params_with_grad[0].is_cuda:
            return has_complex  # autograd's gradients lie as parameters do, and the kernel for GPUs refuses others
        for index, (parameter, gradient) in enumerate(zip(params_with_grad, grads, strict=True)):
            if _places(gradient) != _places(parameter):
                grads[index] = torch.empty_like(parameter).copy_(gradient)
        exp_avgs, exp_avg_sqs, *_ = rest
        for tensors in (params_with_grad, grads, exp_avgs, exp_avg_sqs):
            tensors[:] = [_in_memory_order(tensor) for tensor in tensors]
        return has_complex


def _places(tensor: Tensor) -> list[int]:
    """Strides of the sides that have more than one place."""
    return [stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if size > 1]


def _in_memory_order(tensor: Tensor) -> Tensor:
    """A contiguous view of a tensor in channels_last, (N, H, W, C); any other tensor itself."""
    last = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    return tensor.permute(0, 2, 3, 1) if last else tensor
