"""Adversarial losses as pure functions of discriminator outputs.

Every function takes raw discriminator outputs (logits or critic values) of shape (N, ...) and returns a scalar: the
mean over all of them. A discriminator that judges patches passes its whole map.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


def logistic_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Binary cross-entropy, -log D(x) - log(1 - D(G(z))) (Goodfellow et al. 2014, equation 1)."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def minimax_generator(fake: Tensor) -> Tensor:
    """The generator's half of the minimax game, log(1 - D(G(z))) (Goodfellow et al. 2014, equation 1); it saturates."""
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


def critic_generator(fake: Tensor) -> Tensor:
    """-D(G(z)): the generator's loss of the hinge and of the Wasserstein game."""
    return -fake.mean()


def gradient_penalty(
    discriminator: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, mix: Tensor, *, target: float = 1.0
) -> Tensor:
    """Mean of (|grad D(x^)| - target)^2 at x^ between real and fake (Gulrajani et al. 2017, equation 3).

    Args:
        discriminator: maps (N, C, H, W) to (N, ...); run it in full precision and uncompiled, its gradient is
            differentiated.
        real: real images, (N, C, H, W).
        fake: generated images of the same shape; no gradient flows to the generator.
        mix: uniform numbers in [0, 1], (N, 1, 1, 1).
        target: the gradient norm asked for.
    """
    between = torch.lerp(real.detach(), fake.detach(), mix).requires_grad_(True)
    output = discriminator(between).sum()
    (gradient,) = torch.autograd.grad(output, between, create_graph=True)
    return (gradient.flatten(1).norm(dim=1) - target).square().mean()


@dataclass(frozen=True)
class AdversarialLoss:
    """The two halves of one adversarial game."""

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor], Tensor]


ADVERSARIAL_LOSSES: dict[str, AdversarialLoss] = {
    "non-saturating": AdversarialLoss(logistic_discriminator, non_saturating_generator),
    "minimax": AdversarialLoss(logistic_discriminator, minimax_generator),
    "hinge": AdversarialLoss(hinge_discriminator, critic_generator),
    "least-squares": AdversarialLoss(least_squares_discriminator, least_squares_generator),
    "wasserstein": AdversarialLoss(wasserstein_discriminator, critic_generator),
}
