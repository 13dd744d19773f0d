"""An exported generator: a folder with ``generator.json`` and ``generator.safetensors``, without any pickle."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gan_core.config import as_dict
from gan_core.errors import CheckpointError, SettingsError
from gan_core.families import Family, ImageShape, build_family, family_config
from gan_core.families.noise import NoiseFamily
from gan_core.files import read_json, replacing, sha256_file, sha256_json, write_json

DESCRIPTION, WEIGHTS = "generator.json", "generator.safetensors"
_BATCH = 64


class Generator:
    """A generator ready to be used, in evaluation mode."""

    def __init__(self, family: Family, info: dict[str, Any], digest: str) -> None:
        self._family = family
        self.info = info
        """family, config, channels, height, width, classes, dataset (digest), step and what else was saved with it."""
        self.digest = digest
        """SHA-256 of the weights, the family, its settings and the shape: names this generator in protocols."""

    @property
    def conditional(self) -> bool:
        """Whether it takes a class."""
        return isinstance(self._family, NoiseFamily) and self._family.conditional

    @torch.inference_mode()
    def sample(
        self, n: int, seed: int, label: int | None = None, truncation: float | None = None, *, first: int = 0
    ) -> Tensor:
        """Pictures ``first`` to ``first + n`` of ``seed``: uint8 (n, C, H, W) on the CPU, equal for equal arguments.

        Raises:
            SettingsError: a count below 1, a negative seed, or a label or truncation that the family does not take.
        """
        if n < 1:
            raise SettingsError(f"n: asked for {n} pictures; ask for 1 or more.")
        if seed < 0:
            raise SettingsError(f"seed: must be 0 or more, got {seed}.")
        parts = []
        for start in range(0, n, _BATCH):
            count = min(_BATCH, n - start)
            parts.append(to_uint8(self._family.sample(count, seed, label, truncation, first=first + start)).cpu())
        return torch.cat(parts)

    @torch.inference_mode()
    def walk(
        self, n: int, seed: int, label: int | None = None, truncation: float | None = None, *, frames: int
    ) -> Tensor:
        """A closed walk through ``n`` pictures of ``seed``: uint8 (n * frames, C, H, W) on the CPU.

        Raises:
            SettingsError: the family has no latent space to walk through, or takes no such label or truncation.
        """
        if not isinstance(self._family, NoiseFamily):
            raise SettingsError(f"{self.info['family']} makes no images from noise: there is nothing to walk through.")
        return torch.cat(
            [to_uint8(part).cpu() for part in self._family.walk(n, seed, label, truncation, frames=frames)]
        )


def to_uint8(images: Tensor) -> Tensor:
    """Images in [-1, 1] as uint8, rounded to nearest."""
    return images.float().add(1).mul(127.5).round_().clamp_(0, 255).to(torch.uint8).contiguous()


def save_generator(
    directory: Path | str,
    *,
    family_name: str,
    family: Family,
    networks: dict[str, nn.Module] | None = None,
    extra: dict[str, Any] | None = None,
) -> None:
    """Export ``networks`` (an EMA copy, or the family's own generators) to ``directory``, whole or not at all.

    Args:
        directory: the folder to make; an existing one is replaced.
        family_name: key in the table of families.
        family: gives configuration and shape.
        networks: generators by name.
        extra: plain values to keep beside them: dataset digest, class names, step.
    """
    networks = networks or {name: family.networks[name] for name in family.generators}
    tensors = {
        f"{name}.{key}": value.detach().cpu().contiguous()
        for name, network in networks.items()
        for key, value in network.state_dict().items()
    }
    info = {
        "format": 1,
        "family": family_name,
        "config": as_dict(family.config),
        "shape": asdict(family.shape),
        **(extra or {}),
    }
    with replacing(directory) as temporary:
        temporary.mkdir()
        save_file(tensors, temporary / WEIGHTS)
        write_json(temporary / DESCRIPTION, {**info, "weights_sha256": sha256_file(temporary / WEIGHTS)})


def load_generator(directory: Path | str, device: str | torch.device = "cpu") -> Generator:
    """Load an exported generator; raises CheckpointError when the folder is not one or its weights are not whole."""
    directory = Path(directory)
    if not (directory / DESCRIPTION).is_file():
        raise CheckpointError(f"{directory} holds no exported generator: {DESCRIPTION} is missing.")
    try:
        info = read_json(directory / DESCRIPTION)
    except ValueError as error:
        raise CheckpointError(
            f"{directory / DESCRIPTION} is damaged ({error}); export or download it again."
        ) from error
    weights = sha256_file(directory / WEIGHTS) if (directory / WEIGHTS).is_file() else None
    if weights != info["weights_sha256"]:
        raise CheckpointError(f"{directory / WEIGHTS} is missing or damaged; export or download the generator again.")
    digest = sha256_json({key: info[key] for key in ("family", "config", "shape", "weights_sha256")})
    shape = ImageShape(**info["shape"])
    family = build_family(info["family"], family_config(info["family"], info["config"], where="config"), shape)
    tensors = load_file(directory / WEIGHTS)
    for name in family.generators:
        network = family.networks[name]
        network.load_state_dict({k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")})
        network.eval()
    family.networks = {name: family.networks[name] for name in family.generators}
    family.to(torch.device(device))
    return Generator(family, info, digest)
