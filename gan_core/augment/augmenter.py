"""The augmentation of a run, and the adaptation of its strength."""

import math

import torch
from torch import Tensor, nn

from gan_core import randomness
from gan_core.augment import AugmentConfig, ada, diffaugment
from gan_core.batch import Batch
from gan_core.nn import collectives
from gan_core.precision import full_precision
from gan_core.schedule import cosine

WINDOW = 4
"""Updates of the discriminator between two adjustments of the strength (Karras et al. 2020, section 3)."""


def initial_strength(pictures: int) -> float:
    """Initial strength of adaptive augmentation: 0.6 with 1,000 training pictures, 0.3 with 10,000, 0 from 100,000.

    These values are our choice. They follow the strengths that the paper's runs settle at (Karras et al. 2020, the figure of
    strength over training), and adaptation corrects them. The limit is 0.8, above which augmentation may leak into the
    generated images (section 2.2).
    """
    return min(max(0.6 - 0.3 * (math.log10(max(pictures, 1)) - 3), 0.0), 0.8)


def _risen(step: int, progress: float) -> float:
    """Share of a fixed strength."""
    return cosine(0, 1, progress)


class Augmenter(nn.Module):
    """Augments images according to ``config``: an Augmentation (:mod:`gan_core.batch`) with a state.

    The state adapts the strength of ADA. It stays on the device and is never read back.
    """

    strength: Tensor
    """Probability of each of ADA's transformations, a float32 scalar."""
    sign: Tensor
    """Sum of r_t (the mean sign of outputs for real images, above the loss's threshold) since the last adjustment, a float32
    scalar."""

    def __init__(self, config: AugmentConfig, pictures: int, *, fused: bool = False) -> None:
        """Create the augmentation, with the initial strength.

        Args:
            config: kind and strength of the augmentation.
            pictures: number of training pictures, which gives the initial strength of ADA without a fixed one.
            fused: for compiled runs, which are reproducible only up to rounding: compile DiffAugment, whose fifty small
                kernels take longer to launch than to run on a GPU, and let ADA skip the sorting (see :func:`ada.ada`).
        """
        super().__init__()
        self.config = config
        self.adaptive = config.kind == "ada" and config.strength is None
        start = initial_strength(pictures) if self.adaptive else config.strength or 0.0
        self.register_buffer("strength", torch.tensor(start, dtype=torch.float32))
        self.register_buffer("sign", torch.tensor(0.0))
        compiled = torch.compile(diffaugment.diffaugment, dynamic=False) if fused else None
        self._diffaugment, self._exact = compiled or diffaugment.diffaugment, not fused

    def forward(self, images: Tensor, batch: Batch, draw: str) -> Tensor:
        """Augment ``images`` (N, C, H, W); with kind none, return the same object.

        The result is float32, or float64 for float64. A fixed strength rises from 0 over the burn-in of the run.
        """
        if self.config.kind == "none":
            return images
        key = (*batch.key, "augment", draw)

        def table(make, names: tuple[str, ...], kind: str) -> Tensor:
            return make((len(images), len(names)), batch.part, images.device, *key, kind)

        # The positions of pixels need more precision than bf16 has.
        with full_precision(images.device):
            if images.dtype is not torch.float64:
                images = images.float()
            if self.config.kind == "diffaugment":
                return self._diffaugment(images, table(randomness.uniform, diffaugment.UNIFORMS, "uniform"))
            uniform = table(randomness.uniform, ada.UNIFORMS, "uniform")
            normal = table(randomness.normal, ada.NORMALS, "normal")
            strength = self.strength if self.adaptive else self.strength * batch.scheduled(_risen)
            return ada.ada(images, strength, uniform, normal, exact=self._exact)

    def adjusts(self, update: int) -> bool:
        """Whether the strength is adjusted after ``update`` of the discriminator, counted over the run."""
        return self.adaptive and update % WINDOW == WINDOW - 1

    @torch.no_grad()
    def adapt(self, real_accuracy: Tensor, images: int, update: int) -> None:
        """Adapt the strength (Karras et al. 2020, section 3). Every worker calls this after each discriminator update.

        A discriminator that is too confident about real images overfits. On every 4th update the strength rises if the mean
        sign of its outputs is above the target, else it falls. A fixed strength does not change.

        Args:
            real_accuracy: share of real images that the discriminator classified as real in this update, a scalar tensor.
            images: real images per update, over all workers.
            update: number of the update in the run, from 0.
        """
        if not self.adaptive:
            return
        self.sign += 2 * real_accuracy.detach().float() - 1
        if not self.adjusts(update):
            return
        mean = collectives.mean_over_workers(self.sign / WINDOW)
        move = images * WINDOW / (self.config.speed_kimg * 1000)
        self.strength.add_(torch.sign(mean - self.config.target), alpha=move).clamp_(0, 1)
        self.sign.zero_()
