"""Perceptual path length (Karras et al. 2019, section 4.1), with distances of Inception features.

The paper measures distances by LPIPS on VGG, whose weights are not in the package index. Here the distance is the squared
Euclidean one between features of the extractor, so that figures compare with each other and not with the paper's.
"""

from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from gan_core.inference.path import Space
from gan_core.metrics.inception import Extractor
from gan_core.metrics.intervals import GROUPS, MIN_PICTURES, Estimate, jackknife_groups
from gan_core.precision import true_fp32

EPSILON = 1e-4
"""Length of a step as a share of the path, as in the paper."""
TRIM = 0.01
"""Share of the shortest and of the longest steps that are left out, as in the paper's code."""
MEASURE = f"squared distance of the features, step {EPSILON:g}, generator in fp32"
"""How a length is measured, for the protocol."""


@runtime_checkable
class PathSubject(Protocol):
    """A generator whose latent space can be walked through."""

    @property
    def takes_mixed_styles(self) -> bool:
        """Whether it has a space w of styles."""

    def path_step(self, n: int, seed: int, *, space: Space, epsilon: float, first: int = 0) -> tuple[Tensor, Tensor]:
        """See :func:`gan_core.inference.path.path_step`."""


def path_lengths(
    subject: PathSubject, count: int, extractor: Extractor, *, space: Space, seed: int, batch_size: int | None = None
) -> np.ndarray:
    """Squared feature distance of each of ``count`` steps divided by the squared length of the step, float64 (count,).

    Pictures keep their float values: rounding to 8 bits would hide a step. The generator runs without TF32, whose rounding is
    coarser than a step and makes lengths many times too large. Memory is that of a batch.
    """
    size = max((batch_size or extractor.batch_size) // 2, 1)
    parts = []
    for first in range(0, count, size):
        with true_fp32:
            pictures = subject.path_step(min(size, count - first), seed, space=space, epsilon=EPSILON, first=first)
        near, far = extractor.extract(extractor.prepare_float(torch.cat(pictures))).cpu().double().chunk(2)
        parts.append(((far - near).square().sum(1) / EPSILON**2).numpy())
    return np.concatenate(parts)


def path_length_estimate(lengths: np.ndarray) -> Estimate:
    """The mean step without the shortest and the longest 1 %, with a delete-a-group jackknife over the paths."""
    groups = jackknife_groups(len(lengths))
    jackknife = None
    if len(lengths) >= MIN_PICTURES:
        jackknife = np.array([_trimmed_mean(lengths[groups != group]) for group in range(GROUPS)])
    return Estimate(value=_trimmed_mean(lengths), jackknife=jackknife, lower_bound=0.0)


def _trimmed_mean(lengths: np.ndarray) -> float:
    low, high = np.quantile(lengths, TRIM, method="lower"), np.quantile(lengths, 1 - TRIM, method="higher")
    return float(lengths[(lengths >= low) & (lengths <= high)].mean())
