"""Extractors for tests: the real one, a small one with random weights, and one without a network."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gan_core.metrics.inception import Extractor, Inception, load_inception


@pytest.fixture(scope="session")
def real_extractor(weights_file: Path) -> Extractor:
    """The FID Inception with 2048 features, on the CPU."""
    return load_inception()


@pytest.fixture(scope="session")
def small_extractor() -> Extractor:
    """The first four layers with random weights: 64 features."""
    torch.manual_seed(0)
    return Extractor(
        Inception(64), features=64, precision="fp32", device=torch.device("cpu"), weights="random weights of seed 0"
    )


class Averages(Extractor):
    """A fast extractor with 32 features: 16 averages of a picture and their squares."""

    def __init__(self) -> None:
        self.features, self.precision, self.resize = 32, "fp32", "none"
        self.device, self.batch_size, self.digest = torch.device("cpu"), 16, "averages"

    def prepare(self, images: Tensor) -> Tensor:
        return images.float() / 255

    def extract(self, inputs: Tensor) -> Tensor:
        averages = F.adaptive_avg_pool2d(inputs.mean(1, keepdim=True), 4).flatten(1)
        return torch.cat([averages, averages.square()], dim=1)


@pytest.fixture(scope="session")
def averages() -> Extractor:
    """See :class:`Averages`."""
    return Averages()
