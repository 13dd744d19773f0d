"""A small image classifier, to measure how useful generated pictures are as training data."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_core import randomness
from gan_core.nn.initialise import init_he

_BATCH = 128
_SHIFT = 0.1
"""Random shift of training pictures, as a share of their sides."""


class Classifier(nn.Module):
    """Convolutional classifier: images (N, C, H, W) in [-1, 1] to logits (N, classes).

    Images are halved until the smaller side has 4 to 7 pixels; then positions are averaged.
    """

    def __init__(self, channels: int, size: tuple[int, int], classes: int, width: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs, outputs = channels, width
        for _ in range(max(min(size).bit_length() - 3, 1)):
            layers += [
                nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(inplace=True),
                nn.MaxPool2d(2),
            ]
            inputs, outputs = outputs, min(outputs * 2, 256)
        self.layers = nn.Sequential(*layers)
        self.scores = nn.Linear(inputs, classes)
        init_he(self, 0.0)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, (N, classes)."""
        return self.scores(self.layers(images).mean(dim=(2, 3)))


def accuracy(
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    *,
    classes: int,
    steps: int,
    seed: int,
    device: torch.device,
) -> float:
    """Accuracy on ``test``, from 0 to 1, of a classifier trained for ``steps`` steps on batches of 128 from ``train``.

    Both sets are pictures, uint8 (N, C, H, W), with labels, int64 (N,). Deterministic on a CPU.
    """
    network = train_classifier(train, classes=classes, steps=steps, seed=seed, device=device)
    return _right(network, test, device)


def train_classifier(
    train: tuple[np.ndarray, np.ndarray],
    *,
    classes: int,
    steps: int,
    seed: int,
    device: torch.device,
    batch: int = _BATCH,
) -> Classifier:
    """Train a classifier for ``steps`` steps on batches of ``batch`` pictures from ``train``; returned in evaluation mode.

    Labels are int64 (N,) for exclusive classes, or (N, ``classes``) of 0 and 1 for attributes (multi-label).
    """
    pictures, labels = train
    multi_label = labels.ndim == 2
    randomness.seed_global(seed, -1, 0)
    network = Classifier(pictures.shape[1], pictures.shape[2:], classes).to(device)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps)
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        rows = np.sort(rng.integers(0, len(pictures), batch))
        images = _shifted(_images(pictures[rows], device), rng)
        scores, right = network(images), torch.from_numpy(labels[rows]).to(device)
        loss = (
            F.binary_cross_entropy_with_logits(scores, right.float()) if multi_label else F.cross_entropy(scores, right)
        )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
    return network.eval()


@torch.inference_mode()
def _right(network: Classifier, test: tuple[np.ndarray, np.ndarray], device: torch.device) -> float:
    pictures, labels = test
    right = 0
    for start in range(0, len(pictures), 512):
        named = network(_images(pictures[start : start + 512], device)).argmax(dim=1).cpu()
        right += int((named == torch.from_numpy(labels[start : start + 512])).sum())
    return right / len(pictures)


def _images(pictures: np.ndarray, device: torch.device) -> Tensor:
    images = torch.from_numpy(np.array(pictures)).to(device, memory_format=torch.channels_last)
    return images.float() / 127.5 - 1


def _shifted(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Shift all images of a batch by the same random offset, up to a tenth of each side."""
    moves = [int(rng.integers(-round(side * _SHIFT), round(side * _SHIFT) + 1)) for side in images.shape[2:]]
    return torch.roll(images, (moves[0], moves[1]), dims=(2, 3))
