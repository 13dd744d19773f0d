"""A small classifier of domains or attributes, trained on the real train split."""

import hashlib
import logging
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load
from torch import Tensor

from gan_core.cache import user_cache_dir
from gan_core.checkpoint import write_tensors
from gan_core.data import PreparedDataset
from gan_core.errors import DataError
from gan_core.files import atomic_write, sha256_file, sha256_json
from gan_core.metrics.classifier import Classifier, train_classifier

log = logging.getLogger(__name__)

_BATCH = 64
STEPS = 50, 300
"""Minimum and maximum number of training steps; in between, 40 epochs of the train split."""
_SIDE = 32
_SEED = 0
# Part of the digest: increase it when a change here or in classifier.py changes predictions.
_VERSION = 1


class DomainClassifier:
    """Predicts whether pictures belong to a domain or have an attribute."""

    def __init__(self, dataset: PreparedDataset, *, device: torch.device, cache_dir: Path | str | None = None) -> None:
        """Load the classifier from the cache, or train it: 50 to 300 steps of 64 pictures reduced to 32 to 63 pixels.

        Args:
            dataset: prepared data with domains or attributes.
            device: the device for training and prediction.
            cache_dir: folder for trained classifiers; None uses ``classifiers`` in the user's cache.

        Raises:
            DataError: the dataset has no domains, or no train split.
        """
        info = dataset.info
        names = info.attributes or info.classes
        if not names:
            raise DataError(f"{dataset.directory} has no domains. Ingest it with ingest.kind: domains.")
        self.multi_label = bool(info.attributes)
        self._device = device
        self._factor = max(1, min(info.height, info.width) // _SIDE)
        wanted = sha256_json(["domain classifier", _VERSION, info.digest, _BATCH, STEPS, _SIDE, _SEED])
        path = (Path(cache_dir) if cache_dir else user_cache_dir() / "classifiers") / f"{wanted[:32]}.safetensors"
        size = info.height // self._factor, info.width // self._factor
        self._network = Classifier(info.channels, size, len(names))
        digest = self._load(path) if path.is_file() else ""
        if not digest:
            log.info("Training a small classifier of %s on dataset %s.", ", ".join(names), info.name)
            self._network = self._train(dataset, len(names))
            with atomic_write(path) as temporary:
                write_tensors(temporary, self._network.state_dict())
                # Not of ``path``, which another process may replace with its own.
                digest = sha256_file(temporary)
        self.digest = digest
        """SHA-256 of the weights file; weights depend on the device and the version of torch that trained them."""
        self._network.to(device).eval()

    @torch.inference_mode()
    def predicts(self, pictures: Tensor, domain: int) -> Tensor:
        """Whether each picture, uint8 (N, C, H, W), belongs to ``domain`` or has the attribute at that index: bool (N,)."""
        reduced = self._reduced(pictures.to(self._device))
        scores = self._network(reduced.float() / 127.5 - 1)
        return (scores[:, domain] > 0 if self.multi_label else scores.argmax(1) == domain).cpu()

    def _load(self, path: Path) -> str:
        """Load the weights at ``path``; their SHA-256, or empty if they cannot be used."""
        try:
            content = path.read_bytes()
            self._network.load_state_dict(load(content))
        except Exception as error:  # safetensors has exceptions of its own, torch raises RuntimeError
            log.warning("Training the classifier again: the cached file %s cannot be used (%s).", path, error)
            return ""
        return hashlib.sha256(content).hexdigest()

    def _train(self, dataset: PreparedDataset, classes: int) -> Classifier:
        labels, pixels = dataset.labels("train"), dataset.pixels("train")
        assert labels is not None
        # Pictures that are streamed are decoded here once, because training takes them in a random order.
        if self._factor > 1 or not isinstance(pixels, np.ndarray):
            parts = [
                self._reduced(torch.from_numpy(np.array(pixels[start : start + 256]))).numpy()
                for start in range(0, len(pixels), 256)
            ]
            pixels = np.concatenate(parts)
        steps = min(max(40 * len(pixels) // _BATCH, STEPS[0]), STEPS[1])
        how = {"steps": steps, "seed": _SEED, "batch": _BATCH}
        return train_classifier((pixels, labels), classes=classes, device=self._device, **how)

    def _reduced(self, pictures: Tensor) -> Tensor:
        if self._factor == 1:
            return pictures
        return F.avg_pool2d(pictures.float(), self._factor).round().to(torch.uint8)
