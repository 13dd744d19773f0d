"""Regularisers added to the adversarial losses, as pure functions: gradient penalties (R1, R2, WGAN-GP), path length,
orthogonality and consistency.

Each penalty is a scalar, not yet multiplied by its weight. Gradient penalties differentiate the gradients of a network once
more, so pass networks that are not compiled; :mod:`gan_core.nn.traced` compiles a penalty as a whole. Under autocast,
networks and their gradients are computed in bf16, norms and sums in fp32.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from gan_core.nn.convolution import FastDoubleBackward


def squared_gradient_norm(discriminator: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Squared norm of the gradient of ``discriminator`` at each of ``images`` (N, C, H, W): (N,), differentiable."""
    images = images.detach().requires_grad_(True)
    with FastDoubleBackward():
        output = discriminator(images)
    (gradient,) = torch.autograd.grad(output.sum(), images, create_graph=True)
    return gradient.flatten(1).square().sum(dim=1)


def zero_centred_penalty(discriminator: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Mean squared gradient norm: R1 at real images, R2 at generated ones (Mescheder et al. 2018, equations 9 and 10).

    The paper multiplies it by gamma / 2.
    """
    return squared_gradient_norm(discriminator, images).mean()


def gradient_penalty(
    discriminator: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, mix: Tensor, *, target: float = 1.0
) -> Tensor:
    """Mean of (|grad D(x^)| - target)^2 at x^ between real and fake images (WGAN-GP; Gulrajani et al. 2017, equation 3).

    Args:
        discriminator: maps (N, C, H, W) to (N, ...).
        real: real images, (N, C, H, W).
        fake: generated images of the same shape; no gradient flows to the generator.
        mix: uniform numbers in [0, 1], (N, 1, 1, 1): the weight of the generated image.
        target: the target of the gradient norm.
    """
    between = torch.lerp(real.detach(), fake.detach(), mix)
    # The gradient of a square root is infinite at 0.
    return ((squared_gradient_norm(discriminator, between) + 1e-12).sqrt() - target).square().mean()


def path_lengths(images: Tensor, styles: Tensor, noise: Tensor) -> Tensor:
    """Norm of the product of random images with the Jacobian d images / d styles (Karras et al. 2020, section 3.2): (N,).

    Args:
        images: generated images, (N, C, H, W), with a graph back to ``styles``; fastest if generated in a
            :class:`~gan_core.nn.convolution.FastDoubleBackward` context.
        styles: latents of each layer, (N, layers, W). Squared lengths are averaged over layers.
        noise: standard normal numbers in the shape of ``images``.
    """
    scale = (images.shape[2] * images.shape[3]) ** 0.5
    (gradient,) = torch.autograd.grad((images * noise / scale).sum(), styles, create_graph=True)
    return gradient.square().sum(dim=2).mean(dim=1).sqrt()


def orthogonal_penalty(network: nn.Module) -> Tensor:
    """Sum over weights of |W W^T x (1 - I)|^2 (Brock et al. 2019, equation 3), without embeddings and biases."""
    total = torch.zeros((), device=next(network.parameters()).device)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            rows = module.weight.flatten(1)
            products = rows @ rows.T
            total = total + (products - products.diag().diag()).square().sum()
    return total


def consistency_penalty(plain: Tensor, augmented: Tensor) -> Tensor:
    """Mean squared difference of the discriminator's outputs for images and for the same images augmented.

    Zhang et al. 2020, "Consistency Regularization for GANs", equation 2. The balanced form (Zhao et al. 2021) adds
    that of real and that of generated images.
    """
    return (plain - augmented).square().mean()
