"""What a run is made of, as named tensors: all that the next step depends on beside its number."""

from collections.abc import Mapping

from torch import Tensor, nn

from gan_core.augment.augmenter import Augmenter
from gan_core.families import Family
from gan_core.training.adam import Adam
from gan_core.training.ema import AveragedNetworks


class State:
    """Networks, their averages, the strength of the augmentation, the optimisers' moments, and the family's memory.

    Random numbers keep no state: they are functions of the seed and the step.
    """

    def __init__(
        self, family: Family, averaged: AveragedNetworks, augmenter: Augmenter, optimisers: Mapping[str, Adam]
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
        return found | {f"memory.{name}": tensor for name, tensor in self._family.buffers.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Become what :meth:`tensors` gave; they may lie on another device."""
        for name, module in self._modules.items():
            module.load_state_dict(_below(f"{name}.", tensors))
        for side, optimiser in self._optimisers.items():
            optimiser.load_moments(_below(f"optimiser.{side}.", tensors))
        memory = self._family.buffers
        memory.update({name: tensors[f"memory.{name}"].to(tensor, copy=True) for name, tensor in memory.items()})

    def mismatch(self, tensors: Mapping[str, Tensor]) -> str | None:
        """Why :meth:`load` cannot take ``tensors``, naming the first that does not fit; None where it can.

        What is loaded in part would be a run that never was.
        """
        own: dict[str, Tensor] = {}
        for name, module in self._modules.items():
            own |= {f"{name}.{key}": tensor for key, tensor in module.state_dict().items()}
        own |= {f"memory.{name}": tensor for name, tensor in self._family.buffers.items()}
        for side, optimiser in self._optimisers.items():
            remembered = _below(f"optimiser.{side}.", tensors)
            like = optimiser.moments_like(remembered)
            strange = next((key for key in remembered if key not in like), None)
            if strange:
                return f"there is no optimiser.{side}.{strange} in such a run"
            own |= {f"optimiser.{side}.{key}": tensor for key, tensor in like.items()}
        for name in own:
            if name not in tensors:
                return f"{name} is missing"
            if tensors[name].shape != own[name].shape:
                return f"{name} has the shape {[*tensors[name].shape]}, not {[*own[name].shape]}"
            if tensors[name].is_floating_point() != own[name].is_floating_point():
                return f"{name} holds {tensors[name].dtype}, not {own[name].dtype}"
        # Moments were matched against their optimiser above.
        prefixes = tuple(f"{name}." for name in self._modules)
        strange = next((name for name in tensors if name.startswith(prefixes) and name not in own), None)
        if strange:
            return f"there is no {strange} in such a run"
        broken = next((name for name in own if not tensors[name].isfinite().all()), None)
        return f"{broken} holds NaN or infinity" if broken else None


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with ``prefix``, under the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
