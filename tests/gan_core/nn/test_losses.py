"""Loss values and gradients against float64 values computed with numpy."""

import numpy as np
import pytest
import torch

from gan_core.nn import losses

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
    "relativistic": -np.log(sigmoid(REAL - FAKE)).mean(),
}
GENERATOR = {
    "non-saturating": -np.log(sigmoid(FAKE)).mean(),
    "minimax": np.log(1 - sigmoid(FAKE)).mean(),
    "hinge": -FAKE.mean(),
    "least-squares": 0.5 * (16 + 0.5625 + 0.25) / 3,
    "wasserstein": -FAKE.mean(),
    "relativistic": -np.log(sigmoid(FAKE - REAL)).mean(),
}
PAIRED = {"relativistic"}
# d loss / d (each fake output), times 3 because of the mean.
GENERATOR_SLOPE = {
    "non-saturating": sigmoid(FAKE) - 1,
    "minimax": -sigmoid(FAKE),
    "hinge": -np.ones(3),
    "least-squares": FAKE - 1,
    "wasserstein": -np.ones(3),
    "relativistic": -sigmoid(REAL - FAKE),
}
DISCRIMINATOR_SLOPE = {
    "non-saturating": (sigmoid(REAL) - 1, sigmoid(FAKE)),
    "minimax": (sigmoid(REAL) - 1, sigmoid(FAKE)),
    "hinge": (np.array([0.0, -1, -1]), np.array([0.0, 1, 1])),
    "least-squares": (REAL - 1, FAKE),
    "wasserstein": (-np.ones(3), np.ones(3)),
    "relativistic": (-sigmoid(FAKE - REAL), sigmoid(FAKE - REAL)),
}


def leaf(values: np.ndarray) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def generator_loss(name: str, fake: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    loss = losses.ADVERSARIAL_LOSSES[name]
    if loss.generator:
        return loss.generator(fake)
    assert loss.paired_generator
    return loss.paired_generator(fake, real)


def test_the_table_contains_every_loss_tested_here() -> None:
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
    value = generator_loss(name, fake, leaf(REAL))
    value.backward()
    assert value.item() == pytest.approx(GENERATOR[name], rel=1e-12)
    np.testing.assert_allclose(fake.grad.numpy() * 3, GENERATOR_SLOPE[name], atol=1e-12)


def test_each_loss_has_one_generator_loss_and_relativistic_losses_the_paired_one() -> None:
    for name, loss in losses.ADVERSARIAL_LOSSES.items():
        assert (loss.generator is None) == (loss.paired_generator is not None) == (name in PAIRED)


def test_a_relativistic_loss_depends_on_differences_only() -> None:
    """What both outputs have in common changes neither side's loss; exchanging the two exchanges the sides."""
    loss = losses.ADVERSARIAL_LOSSES["relativistic"]
    real, fake = leaf(REAL), leaf(FAKE)
    torch.testing.assert_close(loss.discriminator(real + 7, fake + 7), loss.discriminator(real, fake))
    torch.testing.assert_close(generator_loss("relativistic", fake + 7, real + 7), loss.discriminator(fake, real))


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
    for name in ("minimax", "non-saturating", "relativistic"):
        fake = torch.tensor([-1e4, 1e4], requires_grad=True)
        generator_loss(name, fake, torch.zeros(2)).backward()
        assert torch.isfinite(fake.grad).all()
