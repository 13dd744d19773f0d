"""Adversarial losses as pure functions of discriminator outputs.

Every function takes raw discriminator outputs (logits or critic values) of shape (N, ...) and returns the mean loss, a scalar.
A patch discriminator passes its whole map.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


def logistic_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Binary cross-entropy, -log D(x) - log(1 - D(G(z))) (Goodfellow et al. 2014, equation 1)."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def minimax_generator(fake: Tensor) -> Tensor:
    """log(1 - D(G(z))), the generator's loss in the minimax game (Goodfellow et al. 2014, equation 1); it saturates."""
    return -F.softplus(fake).mean()


def non_saturating_generator(fake: Tensor) -> Tensor:
    """-log D(G(z)) (Goodfellow et al. 2014, section 3)."""
    return F.softplus(-fake).mean()


def hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """max(0, 1 - D(x)) + max(0, 1 + D(G(z))) (Lim & Ye 2017; Miyato et al. 2018, equation 16)."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def least_squares_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """((D(x) - 1)^2 + D(G(z))^2) / 2 (Mao et al. 2017, equation 9)."""
    return 0.5 * ((real - 1).square().mean() + fake.square().mean())


def least_squares_generator(fake: Tensor) -> Tensor:
    """(D(G(z)) - 1)^2 / 2 (Mao et al. 2017, equation 9)."""
    return 0.5 * (fake - 1).square().mean()


def wasserstein_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """D(G(z)) - D(x) (Arjovsky et al. 2017, equation 3); needs a Lipschitz bound such as :func:`gradient_penalty`."""
    return fake.mean() - real.mean()


def wasserstein_generator(fake: Tensor) -> Tensor:
    """-D(G(z)): the generator's loss for the hinge and the Wasserstein loss."""
    return -fake.mean()


def relativistic_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """softplus(D(G(z)) - D(x)) over pairs (Jolicoeur-Martineau 2018; Huang et al. 2024, equation 2)."""
    return F.softplus(fake - real).mean()


def relativistic_generator(fake: Tensor, real: Tensor) -> Tensor:
    """softplus(D(x) - D(G(z))) over pairs: pushes each generated image to look more real than its real partner."""
    return F.softplus(real - fake).mean()


@dataclass(frozen=True)
class AdversarialLoss:
    """The losses of the discriminator and of the generator.

    Exactly one of ``generator`` and ``paired_generator`` is set.
    """

    discriminator: Callable[[Tensor, Tensor], Tensor]
    """The discriminator's loss, from its outputs for real and for generated images."""
    generator: Callable[[Tensor], Tensor] | None = None
    """The generator's loss, from the discriminator's outputs for generated images; None for a relativistic loss."""
    paired_generator: Callable[[Tensor, Tensor], Tensor] | None = None
    """The generator's relativistic loss, from the discriminator's outputs for generated and for real images; else None."""
    threshold: float | None = 0.0
    """Output above which the discriminator takes an image for real: one output for a relativistic loss is the difference of a
    pair. None if only differences of outputs have a meaning: then it is their mean."""


ADVERSARIAL_LOSSES: dict[str, AdversarialLoss] = {
    "non-saturating": AdversarialLoss(logistic_discriminator, non_saturating_generator),
    "minimax": AdversarialLoss(logistic_discriminator, minimax_generator),
    "hinge": AdversarialLoss(hinge_discriminator, wasserstein_generator),
    "least-squares": AdversarialLoss(least_squares_discriminator, least_squares_generator, threshold=0.5),
    "wasserstein": AdversarialLoss(wasserstein_discriminator, wasserstein_generator, threshold=None),
    "relativistic": AdversarialLoss(relativistic_discriminator, paired_generator=relativistic_generator),
}
