"""Penalties against finite differences in float64: their values, and the gradients they give to weights."""

from collections.abc import Callable, Iterable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gan_core.nn import penalties


class Critic(nn.Module):
    """Smooth, and nonlinear in the picture, so that its gradient changes from place to place."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.a = nn.Parameter(torch.randn(12, 5, dtype=torch.float64, generator=generator))
        self.b = nn.Parameter(torch.randn(5, dtype=torch.float64, generator=generator))

    def forward(self, images: Tensor) -> Tensor:
        return torch.tanh(images.flatten(1) @ self.a) @ self.b


class Painter(nn.Module):
    """Styles (N, 2, 3) to images (N, 1, 2, 2), smooth and nonlinear in both layers."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(4)
        self.a = nn.Parameter(torch.randn(3, 5, dtype=torch.float64, generator=generator))
        self.b = nn.Parameter(torch.randn(3, 5, dtype=torch.float64, generator=generator))
        self.c = nn.Parameter(torch.randn(5, 4, dtype=torch.float64, generator=generator))

    def forward(self, styles: Tensor) -> Tensor:
        return (torch.tanh(styles[:, 0] @ self.a) * torch.sin(styles[:, 1] @ self.b) @ self.c).view(-1, 1, 2, 2)


def pictures() -> tuple[Tensor, Tensor, Tensor]:
    """Real images, generated ones, and numbers to mix them with."""
    generator = torch.Generator().manual_seed(2)
    real, fake = (0.3 * torch.randn(3, 3, 2, 2, dtype=torch.float64, generator=generator) for _ in range(2))
    return real, fake, torch.rand(3, 1, 1, 1, dtype=torch.float64, generator=generator)


def slopes(function: Callable[[Tensor], Tensor], places: Tensor, h: float = 1e-6) -> Tensor:
    """d function / d (each number), by central differences; ``function`` maps (N, K) to (N,)."""
    found = torch.zeros_like(places)
    with torch.no_grad():
        for index in range(places.shape[1]):
            move = torch.zeros_like(places)
            move[:, index] = h
            found[:, index] = (function(places + move) - function(places - move)) / (2 * h)
    return found


def assert_gradients_are_finite_differences(
    penalty: Callable[[], Tensor], parameters: Iterable[nn.Parameter], h: float = 1e-5
) -> None:
    """What ``penalty().backward()`` gives each parameter is what moving that parameter does to the penalty."""
    penalty().backward()
    for parameter in parameters:
        measured = torch.zeros_like(parameter).flatten()
        for index in range(parameter.numel()):
            ends = []
            for sign in (1, -1):
                parameter.data.view(-1)[index] += sign * h
                ends.append(penalty().item())
                parameter.data.view(-1)[index] -= sign * h
            measured[index] = (ends[0] - ends[1]) / (2 * h)
        assert measured.abs().max() > 1e-3  # something to compare
        torch.testing.assert_close(parameter.grad.flatten(), measured, rtol=1e-6, atol=1e-8)


# -- penalties on the gradient at images -------------------------------------------------------------------------------


def test_zero_centred_is_the_mean_squared_gradient_norm() -> None:
    critic, (real, _, _) = Critic(), pictures()
    expected = slopes(critic, real.flatten(1)).square().sum(dim=1)
    torch.testing.assert_close(penalties.squared_gradient_norm(critic, real), expected, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(penalties.zero_centred_penalty(critic, real), expected.mean(), rtol=1e-7, atol=1e-9)


def test_zero_centred_gives_the_critic_the_gradient_that_finite_differences_give() -> None:
    critic, (real, _, _) = Critic(), pictures()
    assert_gradients_are_finite_differences(lambda: penalties.zero_centred_penalty(critic, real), [critic.a, critic.b])


def test_zero_centred_gives_the_generator_no_gradient() -> None:
    _, fake, _ = pictures()
    fake.requires_grad_(True)
    penalties.zero_centred_penalty(Critic(), fake).backward()
    assert fake.grad is None


def test_gradient_penalty_is_the_mean_squared_distance_of_the_gradient_norm_to_its_target() -> None:
    critic, (real, fake, mix) = Critic(), pictures()
    norms = slopes(critic, (real + mix * (fake - real)).flatten(1)).norm(dim=1)
    for target in (1.0, 0.0):
        found = penalties.gradient_penalty(critic, real, fake, mix, target=target)
        torch.testing.assert_close(found, (norms - target).square().mean(), rtol=1e-7, atol=1e-9)


def test_gradient_penalty_gives_the_critic_the_gradient_that_finite_differences_give() -> None:
    critic, inputs = Critic(), pictures()
    assert_gradients_are_finite_differences(lambda: penalties.gradient_penalty(critic, *inputs), [critic.a, critic.b])


def test_gradient_penalty_gives_the_generator_no_gradient() -> None:
    real, fake, mix = pictures()
    fake.requires_grad_(True)
    penalties.gradient_penalty(Critic(), real, fake, mix).backward()
    assert fake.grad is None


def test_gradient_penalty_of_a_critic_that_is_flat_has_a_finite_gradient() -> None:
    critic, inputs = Critic(), pictures()
    critic.b.data.zero_()
    penalties.gradient_penalty(critic, *inputs).backward()
    assert torch.isfinite(critic.a.grad).all()
    assert torch.isfinite(critic.b.grad).all()


# -- path lengths ------------------------------------------------------------------------------------------------------


def path_inputs() -> tuple[Tensor, Tensor]:
    """Styles (4, 2, 3), and noise in the shape of the images."""
    generator = torch.Generator().manual_seed(5)
    styles = torch.randn(4, 2, 3, dtype=torch.float64, generator=generator)
    return styles, torch.randn(4, 1, 2, 2, dtype=torch.float64, generator=generator)


def lengths(painter: Painter) -> Tensor:
    styles, noise = path_inputs()
    styles.requires_grad_(True)
    return penalties.path_lengths(painter(styles), styles, noise)


def test_path_lengths_are_the_norms_of_the_jacobian_along_the_noise() -> None:
    """|J^T y| in each layer, y normal noise over the square root of the number of pixels; root mean square over layers."""
    painter, (styles, noise) = Painter(), path_inputs()
    along = slopes(lambda flat: (painter(flat.view(-1, 2, 3)) * noise / 2).sum(dim=(1, 2, 3)), styles.flatten(1))
    expected = along.view(4, 2, 3).square().sum(dim=2).mean(dim=1).sqrt()
    torch.testing.assert_close(lengths(painter), expected, rtol=1e-7, atol=1e-9)


def test_path_lengths_give_the_generator_the_gradient_that_finite_differences_give() -> None:
    painter = Painter()
    assert_gradients_are_finite_differences(
        lambda: (lengths(painter) - 1).square().mean(), [painter.a, painter.b, painter.c]
    )


def test_path_lengths_do_not_depend_on_the_size_of_the_images() -> None:
    """Twice the pixels in each direction, each of them the same function of the styles: as long in expectation."""
    generator = torch.Generator().manual_seed(6)
    found = []
    for size in (8, 16):
        styles = torch.ones(2000, 1, 1, dtype=torch.float64, requires_grad=True)
        images = styles.view(-1, 1, 1, 1).expand(-1, 1, size, size) * 3
        noise = torch.randn(images.shape, dtype=torch.float64, generator=generator)
        found.append(penalties.path_lengths(images, styles, noise).square().mean().item())
    np.testing.assert_allclose(found, 9.0, rtol=0.1)


# -- weights -----------------------------------------------------------------------------------------------------------


def test_orthogonal_sums_the_squared_products_of_different_rows() -> None:
    layer = nn.Linear(3, 2, bias=True)
    layer.weight.data = torch.tensor([[1.0, 2, 0], [3, 1, 5]])  # rows . rows = 5, off the diagonal twice
    assert penalties.orthogonal_penalty(layer).item() == 50.0
    layer.weight.data = torch.tensor([[7.0, 0, 0], [0, 0, 0.1]])  # of any length, but orthogonal
    assert penalties.orthogonal_penalty(layer).item() == 0.0


def test_orthogonal_sums_over_layers_and_leaves_embeddings_and_biases_out() -> None:
    layers = [nn.Conv2d(2, 3, 2), nn.Linear(4, 3), nn.ConvTranspose2d(3, 2, 2), nn.Embedding(5, 4)]
    network = nn.Sequential(*layers).double()
    expected = sum(penalties.orthogonal_penalty(layer).item() for layer in layers[:3])
    assert expected > 0
    assert penalties.orthogonal_penalty(network).item() == pytest.approx(expected, rel=1e-12)
    penalties.orthogonal_penalty(network).backward()
    assert layers[3].weight.grad is None
    assert all(layer.bias.grad is None for layer in layers[:3])


def test_orthogonal_gives_weights_the_gradient_that_finite_differences_give() -> None:
    torch.manual_seed(7)
    network = nn.Sequential(nn.Conv2d(2, 3, 2), nn.Linear(4, 3)).double()
    assert_gradients_are_finite_differences(
        lambda: penalties.orthogonal_penalty(network), [network[0].weight, network[1].weight]
    )


# -- consistency -------------------------------------------------------------------------------------------------------


def test_consistency_is_the_mean_squared_difference() -> None:
    plain, augmented = torch.tensor([1.0, -2, 0]), torch.tensor([3.0, -2, 1])
    assert penalties.consistency_penalty(plain, augmented).item() == pytest.approx(5 / 3)


def test_consistency_gives_the_critic_the_gradient_that_finite_differences_give() -> None:
    critic, (real, _, _) = Critic(), pictures()
    assert_gradients_are_finite_differences(
        lambda: penalties.consistency_penalty(critic(real), critic(real.flip(3))), [critic.a, critic.b]
    )


@pytest.mark.parametrize("name", ["r1", "gp"])
def test_under_autocast_the_gradient_is_nearly_that_of_full_precision(name: str) -> None:
    """In bf16 each value has three digits, but their errors are not of one sign."""
    torch.manual_seed(0)
    critic = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(16, 16, 4, stride=2, padding=1), nn.LeakyReLU(0.2)
    )
    head = nn.Linear(16, 1)
    real, fake = torch.randn(2, 8, 3, 16, 16).unbind(0)

    def judge(images: Tensor) -> Tensor:
        return head(critic(images).mean(dim=(2, 3))).float()

    gradients = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            mix = torch.full((8, 1, 1, 1), 0.3)
            how = penalties.zero_centred_penalty, penalties.gradient_penalty
            penalty = how[0](judge, real) if name == "r1" else how[1](judge, real, fake, mix)
        assert penalty.dtype is torch.float32
        found = torch.autograd.grad(penalty, [*critic.parameters(), *head.parameters()], allow_unused=True)
        gradients.append(torch.cat([gradient.flatten() for gradient in found if gradient is not None]))
    exact, low = gradients
    assert torch.nn.functional.cosine_similarity(exact, low, dim=0) > 0.995
    assert low.norm() / exact.norm() == pytest.approx(1, abs=0.03)
