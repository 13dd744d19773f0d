"""Rebuild a family's generators from a description and weights, either of which may be damaged or made to do harm."""

import itertools
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from gan_core.config import build
from gan_core.errors import CheckpointError, SettingsError
from gan_core.families import FAMILIES, Family, ImageShape, build_family, family_config, sketch_family
from gan_core.inference.description import AGAIN, invalid_value

_MOST_TENSORS = 10_000
"""Maximum number of parameter tensors in a family; the largest has hundreds."""


def rebuild(info: dict[str, Any], tensors: dict[str, Tensor], where: Path) -> Family:
    """Rebuild the generators of the family that ``info`` describes, with weights from ``tensors``, in evaluation mode.

    Args:
        info: the description.
        tensors: the weights.
        where: the file of the description, for messages.

    Raises:
        CheckpointError: the description is damaged, does not match the weights, or the weights are not finite.
        SettingsError: the description names a family or a setting that this version does not know.
    """
    wrong = invalid_value(info)
    if wrong:
        raise CheckpointError(f"{where} is damaged ({wrong}); {AGAIN}.")
    try:
        try:
            shape = build(ImageShape, info["shape"], where="shape")
        except SettingsError as error:
            raise ValueError(str(error)) from error
        kind = FAMILIES.get(info["family"])
        written = {**(kind.older_settings(info["config"]) if kind else {}), **info["config"]}
        config = family_config(info["family"], written, where="config")
        # Build it without memory first and compare shapes, because a small file can describe terabytes.
        with _limited_parameters():
            sketch = sketch_family(info["family"], config, shape)
            if "generators" in info:
                sketch.keep_generators(tuple(info["generators"]))
            _check_tensors(sketch, tensors)
        shares = [float(share) for share in info.get("class_shares", ())]
        if shares and len(shares) != shape.classes:
            raise ValueError(f"{len(shares)} class_shares for {shape.classes} classes")
        family = build_family(info["family"], config, shape, class_shares=shares)
        if "generators" in info:
            family.keep_generators(tuple(info["generators"]))
        family.networks = {name: family.networks[name] for name in family.generators}
        for name, network in family.networks.items():
            prefix = f"{name}."
            network.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
            network.eval()
    except SettingsError as error:
        raise SettingsError(f"{where}: {error}") from error
    except Exception as error:  # invalid values can make a family's networks raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise CheckpointError(f"{where} does not match its weights ({reason}); {AGAIN}.") from error
    broken = next((name for name, tensor in tensors.items() if not tensor.isfinite().all()), None)
    if broken:
        raise CheckpointError(
            f"The weights that {where} describes contain NaN or infinity ({broken}). Training diverged, or the file was "
            f"changed; {AGAIN}."
        )
    return family


def _check_tensors(family: Family, tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError if ``tensors`` do not match the generators of ``family``; names the first that differs."""
    for network in family.generators:
        own = {f"{network}.{key}": tensor for key, tensor in family.networks[network].state_dict().items()}
        for name, tensor in own.items():
            if name not in tensors:
                raise ValueError(f"{name} is missing from the weights")
            if tensors[name].shape != tensor.shape:
                raise ValueError(
                    f"{name} has shape {[*tensors[name].shape]} in the weights, but is described as {[*tensor.shape]}"
                )
            if tensors[name].is_floating_point() != tensor.is_floating_point():
                raise ValueError(
                    f"{name} has type {tensors[name].dtype} in the weights, but is described as {tensor.dtype}"
                )


@contextmanager
def _limited_parameters() -> Iterator[None]:
    """Raise ValueError if the block creates too many parameters: a depth of a billion exhausts memory by names alone."""
    count, here = itertools.count(1), threading.get_ident()

    def counted(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        if threading.get_ident() == here and next(count) > _MOST_TENSORS:
            raise ValueError(f"it describes more than {_MOST_TENSORS} tensors")

    hook = register_module_parameter_registration_hook(counted)
    try:
        yield
    finally:
        hook.remove()
