"""What a run's images go through on their way to the discriminator, and how strong it is."""

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
"""Updates of the discriminator between two moves of the strength (Karras et al. 2020, section 3)."""


def starting_strength(pictures: int) -> float:
    """The strength that a steered run starts from: 0.6 with 1,000 training pictures, 0.3 with 10,000, 0 from 100,000.

    The numbers follow the trend of the strengths that the paper's runs settle at (Karras et al. 2020, the figure of
    strength over training) and are our choice; steering corrects them. Above 0.8 augmentation may leak into what is
    generated (section 2.2), so nothing starts there.
    """
    return min(max(0.6 - 0.3 * (math.log10(max(pictures, 1)) - 3), 0.0), 0.8)


class Augmenter(nn.Module):
    """Augments images as ``config`` says: an Augmentation (:mod:`gan_core.batch`) with a state.

    The state is what steers ada; none of it is ever read back from the device.
    """

    strength: Tensor
    """Probability of each of ada's transformations, float32 without dimensions."""
    sign: Tensor
    """Sum, since the last move of the strength, of the mean sign of what the discriminator gives for real images."""

    def __init__(self, config: AugmentConfig, pictures: int, *, fused: bool = False) -> None:
        """Start from the strength that suits the data.

        Args:
            config: which augmentation.
            pictures: how many training pictures there are; ada without a fixed strength starts from it.
            fused: be as quick as a run may be that is compiled, and so promises its bytes up to rounding. DiffAugment is
                compiled: on a GPU starting its fifty small kernels takes longer than they do. ADA sorts nothing.
        """
        super().__init__()
        self.config = config
        self.steered = config.kind == "ada" and config.strength is None
        start = starting_strength(pictures) if self.steered else config.strength or 0.0
        self.register_buffer("strength", torch.tensor(start, dtype=torch.float32))
        self.register_buffer("sign", torch.tensor(0.0))
        compiled = torch.compile(diffaugment.diffaugment, dynamic=False) if fused else None
        self._diffaugment, self._exact = compiled or diffaugment.diffaugment, not fused

    def forward(self, images: Tensor, batch: Batch, draw: str) -> Tensor:
        """``images`` (N, C, H, W) augmented, float32 (float64 stays); the same object where the kind is none.

        A fixed strength rises from 0 over the run's burn-in.
        """
        if self.config.kind == "none":
            return images
        key = (*batch.key, "augment", draw)

        def table(make, names: tuple[str, ...], kind: str) -> Tensor:
            return make((len(images), len(names)), batch.part, images.device, *key, kind)

        # bf16 would move pixels to wrong places.
        with full_precision(images.device):
            if images.dtype is not torch.float64:
                images = images.float()
            if self.config.kind == "diffaugment":
                return self._diffaugment(images, table(randomness.uniform, diffaugment.NUMBERS, "uniform"))
            uniform = table(randomness.uniform, ada.UNIFORMS, "uniform")
            normal = table(randomness.normal, ada.NORMALS, "normal")
            strength = self.strength if self.steered else self.strength * cosine(0, 1, batch.progress)
            return ada.ada(images, strength, uniform, normal, exact=self._exact)

    @torch.no_grad()
    def adapt(self, real_right: Tensor, images: int, turn: int) -> None:
        """Steer the strength (Karras et al. 2020, section 3); called after each update of the discriminator, by every worker.

        A discriminator that is too sure of real images overfits: with every 4th update the strength goes up where it is
        surer than the target, else down. A strength that is fixed stays.

        Args:
            real_right: share of real images that the discriminator took for real in this update, without dimensions.
            images: real images in one update, of all workers together.
            turn: the number of the update in the run, from 0.
        """
        if not self.steered:
            return
        self.sign += 2 * real_right.detach().float() - 1
        if turn % WINDOW != WINDOW - 1:
            return
        mean = collectives.mean_over_workers(self.sign / WINDOW)
        move = images * WINDOW / (self.config.speed_kimg * 1000)
        self.strength.add_(torch.sign(mean - self.config.target), alpha=move).clamp_(0, 1)
        self.sign.zero_()
