"""Import networks of pix2pix and CycleGAN from files in the layout of the authors' PyTorch code: plain tensors only.

Differences that do not change a picture are removed exactly: a bias before a norm has no effect, a norm without scale and shift
has 1 and 0, and U-Net skips are joined in the other order. Batch norm is used as those programs do by default when they train
and test with a batch of one: with the statistics of the picture itself, not the running ones. Other differences are refused by
name.
"""

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gan_core.errors import CheckpointError
from gan_core.families import Family, ImageShape, build_family, family_config

Layout = Literal["pix2pix", "cyclegan"]
_IGNORED = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True, kw_only=True)
class Imported:
    """Imported networks."""

    family: Family
    """The family with the networks; without the second generator if only one direction is there."""
    extra: dict[str, Any]
    """Values for the description of the generator."""
    discriminators: bool
    """Whether the discriminators are imported, too."""

    def sizes(self) -> list[tuple[str, list[int]]]:
        """Name and shape of each tensor of the imported networks."""
        names = [*self.family.generators, *(self.family.discriminators if self.discriminators else ())]
        return [
            (f"{name}.{key}", list(tensor.shape))
            for name in names
            for key, tensor in self.family.networks[name].state_dict().items()
        ]


def import_networks(
    files: Sequence[Path], *, layout: Layout, size: int, discriminators: Sequence[Path] = ()
) -> Imported:
    """Convert ``files`` to networks of our families.

    Args:
        files: the state of ``netG`` for pix2pix; for CycleGAN of the generators A to B and B to A, or of one of them, which
            then is that of A to B.
        layout: the layout of the files.
        size: side of the pictures, in pixels.
        discriminators: the state of ``netD`` for pix2pix; for CycleGAN of ``netD_A``, which judges translations of A (pictures
            of B), and ``netD_B``. Empty without discriminators.

    Raises:
        CheckpointError: a file holds more than tensors, or a network that the family does not have, or the number of files is
            wrong.
        SettingsError: the network does not fit pictures of this size.
    """
    states, judges = [_read(path) for path in files], [_read(path) for path in discriminators]
    _check_count(layout, len(states), len(judges))
    convert = _unet if layout == "pix2pix" else _residual
    found = [convert(state, path) for state, path in zip(states, files, strict=True)]
    config, inputs, outputs, _ = found[0]
    if any(one[:3] != found[0][:3] for one in found) or (layout == "cyclegan" and inputs != outputs):
        raise CheckpointError(
            f"{files[0]}: the networks of both directions must be alike, with as many channels in as out."
        )
    judged = [_patch(state, path) for state, path in zip(judges, discriminators, strict=True)]
    if any(one[:2] != judged[0][:2] for one in judged):
        raise CheckpointError(f"{discriminators[0]}: both discriminators must be alike.")
    shape = ImageShape(
        channels=outputs,
        height=size,
        width=size,
        condition_channels=inputs if layout == "pix2pix" else 0,
        classes=2 if layout == "cyclegan" else 0,
    )
    if judged and (seen := judged[0][1]) != (wanted := outputs + shape.condition_channels):
        raise CheckpointError(
            f"{discriminators[0]}: it judges {seen} channels, but the generator's pictures "
            f"{'and their sources ' if layout == 'pix2pix' else ''}have {wanted}."
        )
    config |= judged[0][0] if judged else _fitting_patches(size)
    family = build_family(layout, family_config(layout, config), shape)
    if len(found) < len(family.generators):
        family.keep_generators(family.generators[: len(found)])
    for name, path, one in zip(family.generators, files, found, strict=True):
        _load(family.networks[name], one[3], path)
    # Those programs name a discriminator by the source of the translations that it judges, the family by their target.
    for name, path, (_, _, tensors) in zip(reversed(family.discriminators), discriminators, judged, strict=False):
        _load(family.networks[name], tensors, path)
    classes = {} if layout == "pix2pix" else {"classes": ["A", "B"]}
    extra = {"step": 0, "imported": layout, **classes}
    return Imported(family=family, extra=extra, discriminators=bool(judged))


def _fitting_patches(size: int) -> dict[str, Any]:
    """Settings of a discriminator that is not imported, for pictures that are too small for the default one."""
    return {} if size >= 24 else {"patch_halvings": 2}


def _check_count(layout: Layout, generators: int, discriminators: int) -> None:
    """Raise CheckpointError unless these numbers of files make a generator, or all networks that training needs."""
    most = 1 if layout == "pix2pix" else 2
    if not 1 <= generators <= most:
        both = "one or two files (A to B, then B to A)"
        raise CheckpointError(f"--layout {layout} needs {both if most == 2 else 'one file'}, got {generators}.")
    if discriminators and (generators, discriminators) != (most, most):
        what = "both generators and both discriminators (D_A, then D_B)" if most == 2 else "one discriminator"
        raise CheckpointError(
            f"--discriminator: training goes on from {what}, got {generators} and {discriminators}. Give all of them, or leave "
            "the discriminators out."
        )


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file; nothing in it is executed."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # torch's message recommends to run the code in the file
        raise CheckpointError(
            f"{path} cannot be read as plain tensors: it is damaged, or has other objects, such as a whole network. Save it "
            "with torch.save(net.state_dict())."
        ) from error
    except Exception as error:  # torch raises nearly anything for a damaged file
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{path} cannot be read as plain tensors ({reason}). Save it with torch.save(net.state_dict())."
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path} is not a dictionary of tensors. Save it with torch.save(net.state_dict()).")
    tensors = {
        str(key).removeprefix("module."): value.float()
        for key, value in state.items()
        if not str(key).endswith(_IGNORED)
    }
    broken = next((name for name, tensor in tensors.items() if not tensor.isfinite().all()), None)
    if broken:
        raise CheckpointError(f"{path}: {broken} has NaN or infinity, because training diverged. Take an earlier file.")
    return tensors


class _Taken:
    """The tensors of a file, each of which must be used once."""

    def __init__(self, state: dict[str, Tensor], path: Path) -> None:
        self.left, self.path, self.made = dict(state), path, dict[str, Tensor]()

    def take(self, name: str) -> Tensor:
        if name not in self.left:
            raise CheckpointError(
                f"{self.path} has no {name}: its padding, dropout or norm is not of this layout. Choose another --layout."
            )
        return self.left.pop(name)

    def normed(self, target: tuple[str, str], source: tuple[str, str], change: Callable[[Tensor], Tensor]) -> None:
        """A convolution and the norm after it, which cancels the convolution's bias."""
        weight = self.take(f"{source[0]}.weight")
        self.left.pop(f"{source[0]}.bias", None)
        self.made[f"{target[0]}.weight"] = change(weight)
        maps = weight.shape[1] if change is not _same else weight.shape[0]
        self.made[f"{target[1]}.weight"] = self.left.pop(f"{source[1]}.weight", torch.ones(maps))
        self.made[f"{target[1]}.bias"] = self.left.pop(f"{source[1]}.bias", torch.zeros(maps))

    def done(self) -> dict[str, Tensor]:
        if self.left:
            name = next(iter(self.left))
            raise CheckpointError(f"{self.path}: {name} has no place in this family, so the pictures would differ.")
        return self.made


def _same(weight: Tensor) -> Tensor:
    return weight


def _transposed(weight: Tensor) -> Tensor:
    return weight.clone()


def _swapped(weight: Tensor) -> Tensor:
    """Inputs of a layer after a skip: ours have the layer below first."""
    return torch.cat([weight[len(weight) // 2 :], weight[: len(weight) // 2]])


_Network = tuple[dict[str, Any], int, int, dict[str, Tensor]]


def _residual(state: dict[str, Tensor], path: Path) -> _Network:
    taken = _Taken(state, path)
    blocks = len({name.split(".")[1] for name in state if ".conv_block." in name})
    first = state.get("model.1.weight")
    if not blocks or first is None:
        raise CheckpointError(
            f"{path} is not a residual generator (resnet_6blocks, resnet_9blocks) with reflection padding."
        )
    for at in (1, 4, 7):
        taken.normed((f"encode.{at}", f"encode.{at + 1}"), (f"model.{at}", f"model.{at + 1}"), _same)
    for block in range(blocks):
        for at in (1, 5):
            ours, theirs = f"blocks.{block}.layers", f"model.{10 + block}.conv_block"
            taken.normed((f"{ours}.{at}", f"{ours}.{at + 1}"), (f"{theirs}.{at}", f"{theirs}.{at + 1}"), _same)
    end = 10 + blocks
    for at in (0, 3):
        taken.normed((f"decode.{at}", f"decode.{at + 1}"), (f"model.{end + at}", f"model.{end + at + 1}"), _transposed)
    for name in ("weight", "bias"):
        taken.made[f"decode.7.{name}"] = taken.take(f"model.{end + 7}.{name}")
    outputs = len(taken.made["decode.7.bias"])
    return {"width": first.shape[0], "blocks": blocks}, first.shape[1], outputs, taken.done()


def _unet(state: dict[str, Tensor], path: Path) -> _Network:
    taken, prefixes = _Taken(state, path), ["model.model"]
    while any(name.startswith(nested := f"{prefixes[-1]}.{1 if len(prefixes) == 1 else 3}.model.") for name in state):
        prefixes.append(nested.removesuffix("."))
    depth = len(prefixes)
    first = state.get("model.model.0.weight")
    if depth < 3 or first is None:
        raise CheckpointError(f"{path} is not a U-Net generator (unet_128, unet_256).")
    taken.made["down.0.weight"] = taken.take("model.model.0.weight")
    taken.made[f"down.{depth - 1}.weight"] = taken.take(f"{prefixes[-1]}.1.weight")
    taken.normed(("up.0.0", "up.0.1"), (f"{prefixes[-1]}.3", f"{prefixes[-1]}.4"), _transposed)
    for level in range(1, depth - 1):
        at, up = prefixes[level], depth - 1 - level
        taken.normed((f"down.{level}.0", f"down.{level}.1"), (f"{at}.1", f"{at}.2"), _same)
        taken.normed((f"up.{up}.0", f"up.{up}.1"), (f"{at}.5", f"{at}.6"), _swapped)
    taken.made["picture.weight"] = _swapped(taken.take("model.model.3.weight"))
    taken.made["picture.bias"] = taken.take("model.model.3.bias")
    config = {"width": first.shape[0], "depth": depth, "dropout": 0.0}
    return config, first.shape[1], len(taken.made["picture.bias"]), taken.done()


def _patch(state: dict[str, Tensor], path: Path) -> tuple[dict[str, Any], int, dict[str, Tensor]]:
    """Settings, input channels and tensors of a discriminator of patches."""
    taken = _Taken(state, path)
    first, halvings = state.get("model.0.weight"), 0
    if first is None or first.ndim != 4:
        raise CheckpointError(f"{path} is not a discriminator of patches (basic, n_layers).")
    while f"model.{5 + 3 * halvings}.weight" in state:  # after each layer with a norm comes another one
        halvings += 1
    for name in ("weight", "bias"):
        taken.made[f"layers.0.{name}"] = taken.take(f"model.0.{name}")
    for level in range(halvings):
        at = 2 + 3 * level
        taken.normed((f"layers.{at}", f"layers.{at + 1}"), (f"model.{at}", f"model.{at + 1}"), _same)
    for name in ("weight", "bias"):
        taken.made[f"layers.{2 + 3 * halvings}.{name}"] = taken.take(f"model.{2 + 3 * halvings}.{name}")
    return {"patch_width": first.shape[0], "patch_halvings": halvings}, first.shape[1], taken.done()


def _load(network: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Load ``tensors`` after comparing every size with the family's own network."""
    own = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    wrong = next((name for name in sorted({*own, *given}) if own.get(name) != given.get(name)), None)
    if wrong:
        raise CheckpointError(
            f"{path}: {wrong} has the shape {given.get(wrong, 'none')}, but the family's network has {own.get(wrong, 'none')}."
        )
    network.load_state_dict(tensors)
