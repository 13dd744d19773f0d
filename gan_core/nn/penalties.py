"""Penalties beside the adversarial losses, as pure functions: gradients of a network are differentiated once more.

Give them networks that are not compiled. Under autocast, networks and their gradients are computed in bf16, norms and sums in
fp32. Each returns a scalar (a mean over the batch) without its weight.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from gan_core.nn.convolution import FastDoubleBackward


def squared_gradient(judge: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Squared norm of the gradient of ``judge`` at each of ``images`` (N, C, H, W): (N,), differentiable."""
    images = images.detach().requires_grad_(True)
    with FastDoubleBackward():
        judged = judge(images)
    (gradient,) = torch.autograd.grad(judged.sum(), images, create_graph=True)
    return gradient.flatten(1).square().sum(dim=1)


def zero_centred_penalty(judge: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Mean squared gradient norm: R1 at real images, R2 at generated ones (Mescheder et al. 2018, equations 9 and 10).

    The paper weighs it with gamma / 2.
    """
    return squared_gradient(judge, images).mean()


def gradient_penalty(
    judge: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, mix: Tensor, *, target: float = 1.0
) -> Tensor:
    """Mean of (|grad D(x^)| - target)^2 at x^ between real and fake (Gulrajani et al. 2017, equation 3).

    Args:
        judge: maps (N, C, H, W) to (N, ...).
        real: real images, (N, C, H, W).
        fake: generated images of the same shape; no gradient flows to the generator.
        mix: uniform numbers in [0, 1], (N, 1, 1, 1).
        target: the gradient norm asked for.
    """
    between = torch.lerp(real.detach(), fake.detach(), mix)
    # The gradient of a square root is infinite at 0.
    return ((squared_gradient(judge, between) + 1e-12).sqrt() - target).square().mean()


def path_lengths(images: Tensor, styles: Tensor, noise: Tensor) -> Tensor:
    """Length of the Jacobian of ``images`` by ``styles`` along random images (Karras et al. 2020, section 3.2): (N,).

    Args:
        images: generated images, (N, C, H, W), with a graph back to ``styles``, best made under FastDoubleBackward.
        styles: latents of each layer, (N, layers, W); lengths are averaged over layers.
        noise: standard normal numbers of the images' shape.
    """
    scale = (images.shape[2] * images.shape[3]) ** 0.5
    (gradient,) = torch.autograd.grad((images * noise / scale).sum(), styles, create_graph=True)
    return gradient.square().sum(dim=2).mean(dim=1).sqrt()


def orthogonal_penalty(network: nn.Module) -> Tensor:
    """Sum over weights of |W W^T x (1 - I)|^2 (Brock et al. 2019, equation 3); embeddings and biases are left out."""
    total = torch.zeros((), device=next(network.parameters()).device)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            rows = module.weight.flatten(1)
            products = rows @ rows.T
            total = total + (products - products.diag().diag()).square().sum()
    return total


def consistency_penalty(plain: Tensor, augmented: Tensor) -> Tensor:
    """Mean squared difference of what the discriminator gives for images and for the same ones augmented.

    Zhang et al. 2020, "Consistency Regularization for GANs", equation 2; applied to real and to generated images in its
    balanced form (Zhao et al. 2021).
    """
    return (plain - augmented).square().mean()
