"""Loss values and gradients against float64 numbers worked out with numpy."""

import numpy as np
import pytest
import torch

from gan_core import losses

REAL = np.array([2.0, -1.0, 0.5])
FAKE = np.array([-3.0, 0.25, 1.5])


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


DISCRIMINATOR = {
    "non-saturating": -np.log(sigmoid(REAL)).mean() - np.log(1 - sigmoid(FAKE)).mean(),
    "minimax": -np.log(sigmoid(REAL)).mean() - np.log(1 - sigmoid(FAKE)).mean(),
    "hinge": (0 + 2 + 0.5) / 3 + (0 + 1.25 + 2.5) / 3,
    "least-squares": 0.5 * ((1 + 4 + 0.25) / 3 + (9 + 0.0625 + 2.25) / 3),
    "wasserstein": FAKE.mean() - REAL.mean(),
}
GENERATOR = {
    "non-saturating": -np.log(sigmoid(FAKE)).mean(),
    "minimax": np.log(1 - sigmoid(FAKE)).mean(),
    "hinge": -FAKE.mean(),
    "least-squares": 0.5 * (16 + 0.5625 + 0.25) / 3,
    "wasserstein": -FAKE.mean(),
}
# d loss / d (each fake output), times 3 because of the mean.
GENERATOR_SLOPE = {
    "non-saturating": sigmoid(FAKE) - 1,
    "minimax": -sigmoid(FAKE),
    "hinge": -np.ones(3),
    "least-squares": FAKE - 1,
    "wasserstein": -np.ones(3),
}
DISCRIMINATOR_SLOPE = {
    "non-saturating": (sigmoid(REAL) - 1, sigmoid(FAKE)),
    "minimax": (sigmoid(REAL) - 1, sigmoid(FAKE)),
    "hinge": (np.array([0.0, -1, -1]), np.array([0.0, 1, 1])),
    "least-squares": (REAL - 1, FAKE),
    "wasserstein": (-np.ones(3), np.ones(3)),
}


def leaf(values: np.ndarray) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def test_the_table_holds_every_game_worked_out_here() -> None:
    assert set(losses.ADVERSARIAL_LOSSES) == set(DISCRIMINATOR) == set(GENERATOR)


@pytest.mark.parametrize("name", sorted(DISCRIMINATOR))
def test_discriminator_loss_and_gradient(name: str) -> None:
    real, fake = leaf(REAL), leaf(FAKE)
    value = losses.ADVERSARIAL_LOSSES[name].discriminator(real, fake)
    value.backward()
    assert value.item() == pytest.approx(DISCRIMINATOR[name], rel=1e-12)
    slopes = DISCRIMINATOR_SLOPE[name]
    np.testing.assert_allclose(real.grad.numpy() * 3, slopes[0], atol=1e-12)
    np.testing.assert_allclose(fake.grad.numpy() * 3, slopes[1], atol=1e-12)


@pytest.mark.parametrize("name", sorted(GENERATOR))
def test_generator_loss_and_gradient(name: str) -> None:
    fake = leaf(FAKE)
    value = losses.ADVERSARIAL_LOSSES[name].generator(fake)
    value.backward()
    assert value.item() == pytest.approx(GENERATOR[name], rel=1e-12)
    np.testing.assert_allclose(fake.grad.numpy() * 3, GENERATOR_SLOPE[name], atol=1e-12)


def test_a_patch_map_gives_the_mean_over_all_patches() -> None:
    fake = torch.randn(2, 1, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert losses.non_saturating_generator(fake) == losses.non_saturating_generator(fake.flatten())


def test_minimax_saturates_where_non_saturating_does_not() -> None:
    """When the discriminator is sure (logit -20), minimax leaves the generator almost no gradient, the other all of it."""
    sure = torch.full((4,), -20.0, dtype=torch.float64)
    slopes = {}
    for name in ("minimax", "non-saturating"):
        fake = sure.clone().requires_grad_(True)
        losses.ADVERSARIAL_LOSSES[name].generator(fake).backward()
        slopes[name] = fake.grad.abs().sum().item()
    assert slopes["minimax"] < 1e-8
    assert slopes["non-saturating"] == pytest.approx(1, abs=1e-8)


def test_logits_of_any_size_give_finite_losses_and_gradients() -> None:
    for name in ("minimax", "non-saturating"):
        fake = torch.tensor([-1e4, 1e4], requires_grad=True)
        losses.ADVERSARIAL_LOSSES[name].generator(fake).backward()
        assert torch.isfinite(fake.grad).all()


class Critic(torch.nn.Module):
    """Smooth, and nonlinear in the picture, so that its gradient changes from place to place."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.a = torch.nn.Parameter(torch.randn(12, 5, dtype=torch.float64, generator=generator))
        self.b = torch.nn.Parameter(torch.randn(5, dtype=torch.float64, generator=generator))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.tanh(images.flatten(1) @ self.a) @ self.b


def penalty_inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    real, fake = (0.3 * torch.randn(3, 3, 2, 2, dtype=torch.float64, generator=generator) for _ in range(2))
    return real, fake, torch.rand(3, 1, 1, 1, dtype=torch.float64, generator=generator)


def test_gradient_penalty_is_the_mean_squared_distance_of_the_gradient_norm_to_its_target() -> None:
    """The norm by central differences over every pixel, in float64."""
    critic, (real, fake, mix), h = Critic(), penalty_inputs(), 1e-6
    between = (real + mix * (fake - real)).flatten(1)
    slopes = torch.zeros_like(between)
    with torch.no_grad():
        for pixel in range(between.shape[1]):
            shift = torch.zeros_like(between)
            shift[:, pixel] = h
            slopes[:, pixel] = (critic(between + shift) - critic(between - shift)) / (2 * h)
    for target in (1.0, 0.0):
        expected = (slopes.norm(dim=1) - target).square().mean()
        torch.testing.assert_close(
            losses.gradient_penalty(critic, real, fake, mix, target=target), expected, rtol=1e-7, atol=1e-9
        )


def test_gradient_penalty_gives_the_critic_the_gradient_that_finite_differences_give() -> None:
    critic, inputs, h = Critic(), penalty_inputs(), 1e-5
    losses.gradient_penalty(critic, *inputs).backward()
    for parameter in (critic.a, critic.b):
        measured = torch.zeros_like(parameter).flatten()
        for index in range(parameter.numel()):
            ends = []
            for sign in (1, -1):
                parameter.data.view(-1)[index] += sign * h
                ends.append(losses.gradient_penalty(critic, *inputs).item())
                parameter.data.view(-1)[index] -= sign * h
            measured[index] = (ends[0] - ends[1]) / (2 * h)
        torch.testing.assert_close(parameter.grad.flatten(), measured, rtol=1e-6, atol=1e-8)


def test_gradient_penalty_leaves_the_generator_alone() -> None:
    real, fake, mix = penalty_inputs()
    fake.requires_grad_(True)
    losses.gradient_penalty(Critic(), real, fake, mix).backward()
    assert fake.grad is None
