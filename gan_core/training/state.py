"""What a run is made of, as named tensors: all that the next step depends on beside its number."""

from collections.abc import Mapping

from torch import Tensor, nn

from gan_core.augment.augmenter import Augmenter
from gan_core.families import Family
from gan_core.training.adam import Adam
from gan_core.training.ema import Averaged


class State:
    """Networks, their averages, the strength of the augmentation, the optimisers' moments, and the family's memory.

    Random numbers keep no state: they are functions of the seed and the step.
    """

    def __init__(
        self, family: Family, averaged: Averaged, augmenter: Augmenter, optimisers: Mapping[str, Adam]
    ) -> None:
        self._family, self._optimisers = family, optimisers
        self._modules: dict[str, nn.Module] = {
            **{f"network.{name}": network for name, network in family.networks.items()},
            **{f"averaged.{name}": network for name, network in averaged.networks.items()},
            "augment": augmenter,
        }

    def tensors(self) -> dict[str, Tensor]:
        """All of it by name, as it is now and as it goes on to change: not copies."""
        found: dict[str, Tensor] = {}
        for name, module in self._modules.items():
            found |= {f"{name}.{key}": tensor for key, tensor in module.state_dict().items()}
        for side, optimiser in self._optimisers.items():
            found |= {f"optimiser.{side}.{name}": tensor for name, tensor in optimiser.moments().items()}
        return found | {f"memory.{name}": tensor for name, tensor in self._family.memory.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Become what :meth:`tensors` gave; they may lie on another device."""
        for name, module in self._modules.items():
            module.load_state_dict(_below(f"{name}.", tensors))
        for side, optimiser in self._optimisers.items():
            optimiser.load_moments(_below(f"optimiser.{side}.", tensors))
        memory = self._family.memory
        memory.update({name: tensors[f"memory.{name}"].to(tensor, copy=True) for name, tensor in memory.items()})


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with ``prefix``, under the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
