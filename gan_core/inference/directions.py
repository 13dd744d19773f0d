"""Directions of a latent space along which pictures change most, found in the weights of a generator.

Shen & Zhou 2021, "Closed-Form Factorization of Latent Semantics in GANs": a step n changes the output of the first layer A by
A n, so the steps of length 1 with the largest effect are the eigenvectors of A^T A with the largest eigenvalues. No pictures,
labels or training are needed, and what a direction shows (a turn, a colour, a sleeve) is for the user to see.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gan_core.errors import SettingsError
from gan_core.families.noise import NoiseFamily, StyleBasedFamily

Part = Literal["all", "coarse", "middle", "fine"]
"""Layers whose styles a direction moves: all, or the first, second or last third. For z, there is only ``all``."""
_DRAWS = 256
"""Styles from which the length of a step is estimated."""


@dataclass(frozen=True)
class Directions:
    """Directions of z, or of the styles of some layers."""

    vectors: Tensor
    """float32 (count, dimension), of length 1, on the CPU; the one with the strongest effect comes first."""
    strengths: Tensor
    """float32 (count,): how far a step of length 1 moves the output of the layers, which is the singular value."""
    unit: float
    """Standard deviation of a coordinate of z, or of the styles: the natural length of a step."""


def factorise(weights: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Find the right singular vectors of ``weights`` (rows, dimension) with the largest singular values.

    Args:
        weights: the layers that take the vector, one below the other.
        count: number of directions; there are at most as many as dimensions.

    Returns:
        The vectors, float32 (count, dimension), of length 1, each with the sign that makes its largest coordinate positive, and
        the singular values, float32 (count,), in descending order.
    """
    # The product is small (dimension x dimension) even if there are many rows. It squares the condition, hence float64.
    matrix = weights.detach().cpu().double()
    squares, columns = torch.linalg.eigh(matrix.T @ matrix)
    vectors = columns.T.flip(0)[:count]
    largest = vectors.gather(1, vectors.abs().argmax(dim=1, keepdim=True))
    return (vectors * largest.sign()).float(), squares.flip(0)[:count].clamp_min(0).sqrt().float()


def layers_of_part(layers: int, part: Part) -> slice:
    """The layers of a part, of ``layers`` layers.

    Raises:
        SettingsError: there is no such part.
    """
    first, second = -(-layers // 3), -(-2 * layers // 3)
    parts: dict[str, slice] = {
        "all": slice(0, layers),
        "coarse": slice(0, first),
        "middle": slice(first, second),
        "fine": slice(second, layers),
    }
    if part not in parts:
        raise SettingsError(f"Unknown part '{part}' of the layers. Choose all, coarse, middle or fine.")
    return parts[part]


@torch.no_grad()
def find_directions(family: NoiseFamily, count: int, part: Part = "all") -> Directions:
    """Find the ``count`` strongest directions of z or, if the family has styles, of the styles of ``part``; deterministic.

    Raises:
        SettingsError: the family has no such part.
    """
    if isinstance(family, StyleBasedFamily):
        weights = family.style_weights()
        chosen = weights[layers_of_part(len(weights), part)]
        return Directions(*factorise(torch.cat(chosen), count), _style_deviation(family))
    if part != "all":
        raise SettingsError(
            f"Part '{part}' of the layers: {family.name} has no styles, so a direction moves z as a whole."
        )
    return Directions(*factorise(family.latent_weights(), count), 1.0 if family.prior == "normal" else 3**-0.5)


def _style_deviation(family: StyleBasedFamily) -> float:
    """Standard deviation of a coordinate of the styles, averaged over the coordinates."""
    device = next(family.networks["generator"].parameters()).device
    latents, labels = family.draw(_DRAWS, 0, device=device)
    return family.to_styles(latents, labels)[:, 0].var(dim=0).mean().sqrt().item()
