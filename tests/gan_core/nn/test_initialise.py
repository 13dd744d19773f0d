"""Weight initialisation: gains that preserve the variance, and the effective fan-in of each kind of layer."""

import math

import pytest
import torch
from torch import nn

from gan_core.nn.initialise import init_he, init_normal, leaky_gain


@pytest.mark.parametrize("slope", [0.0, 0.2, 0.5])
def test_leaky_gain_preserves_the_second_moment(slope: float) -> None:
    x = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    after = nn.functional.leaky_relu(x, slope).square().mean().item()
    assert leaky_gain(slope) ** 2 * after == pytest.approx(1, rel=0.02)


def test_leaky_gain_of_relu_and_of_a_linear_unit() -> None:
    assert leaky_gain(0) == pytest.approx(math.sqrt(2))
    assert leaky_gain(1) == pytest.approx(1)


def test_init_normal_draws_from_the_papers_distributions() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(32, 64, 4), nn.BatchNorm2d(64 * 64), nn.ConvTranspose2d(64, 32, 4), nn.Linear(99, 99)
    )
    init_normal(network)
    for layer, mean in ((network[0], 0), (network[1], 1), (network[2], 0), (network[3], 0)):
        assert layer.weight.mean().item() == pytest.approx(mean, abs=0.002)
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert layer.bias.abs().max() == 0


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(64, 64, 4, stride=2, bias=False),
        nn.ConvTranspose2d(64, 64, 4, stride=2, bias=False),
        nn.Linear(256, 512, bias=False),
    ],
    ids=["convolution", "transposed", "linear"],
)
def test_init_he_keeps_the_variance_of_unit_noise_up_to_the_gain(layer: nn.Module) -> None:
    """Away from the border, where every output sums a whole fan-in of products."""
    torch.manual_seed(0)
    init_he(layer, slope=0.2)
    inputs = torch.randn(64, 256) if isinstance(layer, nn.Linear) else torch.randn(8, 64, 16, 16)
    with torch.no_grad():
        outputs = layer(inputs)
    inner = outputs[:, :, 4:-4, 4:-4] if isinstance(layer, nn.ConvTranspose2d) else outputs
    assert inner.var().item() == pytest.approx(leaky_gain(0.2) ** 2, rel=0.08)
