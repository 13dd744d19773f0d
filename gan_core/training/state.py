"""The state of a run as named tensors: everything, besides the step number, that the next step depends on."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from gan_core.augment.augmenter import Augmenter
from gan_core.families import Family
from gan_core.training.adam import Adam
from gan_core.training.ema import AveragedNetworks


class State:
    """Networks, averaged networks, strength of the augmentation, moments of the optimisers, and buffers of the family.

    Random numbers have no state: they are functions of seed and step.
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

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        network = next(iter(self._family.networks.values()))
        return next(network.parameters()).device

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name; references, not copies."""
        found: dict[str, Tensor] = {}
        for name, module in self._modules.items():
            found |= {f"{name}.{key}": tensor for key, tensor in module.state_dict().items()}
        for side, optimiser in self._optimisers.items():
            found |= {f"optimiser.{side}.{name}": tensor for name, tensor in optimiser.moments().items()}
        return found | {f"memory.{name}": tensor for name, tensor in self._family.buffers.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Load ``tensors`` from :meth:`tensors`; they may be on a different device."""
        for name, module in self._modules.items():
            module.load_state_dict(_below(f"{name}.", tensors))
        for side, optimiser in self._optimisers.items():
            optimiser.load_moments(_below(f"optimiser.{side}.", tensors))
        memory = self._family.buffers
        memory.update({name: tensors[f"memory.{name}"].to(tensor, copy=True) for name, tensor in memory.items()})

    def mismatch(self, tensors: Mapping[str, Tensor]) -> str | None:
        """Describe the first tensor that :meth:`load` cannot load; None if all fit.

        Call it first: a partial load would leave a mixture of two runs.
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
                return f"optimiser.{side}.{strange} does not belong to this run"
            own |= {f"optimiser.{side}.{key}": tensor for key, tensor in like.items()}
        for name in own:
            if name not in tensors:
                return f"{name} is missing"
            if tensors[name].shape != own[name].shape:
                return f"{name} has shape {[*tensors[name].shape]}, expected {[*own[name].shape]}"
            if tensors[name].is_floating_point() != own[name].is_floating_point():
                return f"{name} has type {tensors[name].dtype}, expected {own[name].dtype}"
        # Moments of optimisers have been checked above.
        prefixes = tuple(f"{name}." for name in self._modules)
        strange = next((name for name in tensors if name.startswith(prefixes) and name not in own), None)
        if strange:
            return f"{strange} does not belong to this run"
        broken = next((name for name in own if not tensors[name].isfinite().all()), None)
        return f"{broken} contains NaN or infinity" if broken else None


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names start with ``prefix``, with the prefix removed from their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
