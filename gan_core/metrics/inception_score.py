"""The Inception score (Salimans et al. 2016), from the classes of the 2015 network.

The weights file that Gantry fetches ends before the class layer. The score is measured if the file that pytorch-fid and
torch-fidelity publish lies in the weights folder; only its class layer is read.
"""

import functools
import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gan_core.download.weights import weights_dir
from gan_core.files import sha256_file
from gan_core.metrics.features import Features
from gan_core.metrics.intervals import GROUPS, jackknife_groups, student_t_quantile

CLASSES_FILE = "pt_inception-2015-12-05-6726825d.pth"
CLASSES_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
CLASSES_URL = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{CLASSES_FILE}"
MIN_PICTURES = 2 * GROUPS
VERSION = 2
"""Part of the protocol: increase it when a change here changes scores."""


@dataclass(frozen=True)
class ClassLayer:
    """The last layer of the network, without its bias, as in the original score."""

    weight: Tensor
    """float32 (classes, features)."""
    digest: str
    """SHA-256 of the file."""

    def log_probabilities(self, rows: np.ndarray) -> np.ndarray:
        """Log-probabilities of the classes, float64 (N, classes), of features (N, features)."""
        logits = torch.from_numpy(np.asarray(rows, np.float32)) @ self.weight.T
        return logits.double().log_softmax(1).numpy()


def class_layer(features: int) -> ClassLayer | str:
    """The class layer for an extractor with ``features`` outputs, or why there is none."""
    path = weights_dir() / CLASSES_FILE
    if features != 2048:
        return f"it needs the 2,048 features before the class layer, and these are the {features} of an earlier layer"
    if not path.is_file():
        return (
            f"the weights file of the FID network has no class layer, and {path} does not exist. To measure it, put "
            f"{CLASSES_URL} (96 MB) there"
        )
    return _read(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=1)
def _read(path: Path, _: int) -> ClassLayer | str:
    if sha256_file(path) != CLASSES_SHA256:
        return (
            f"{path} is damaged or another file: its SHA-256 is not {CLASSES_SHA256}. Fetch it again from {CLASSES_URL}"
        )
    try:
        # Plain tensors only: weights_only runs no code of the file.
        weight = torch.load(path, map_location="cpu", weights_only=True)["fc.weight"].float()
    except (RuntimeError, KeyError, pickle.UnpicklingError) as error:
        return f"{path} has no class layer ({error})"
    return ClassLayer(weight, CLASSES_SHA256)


def inception_score(fake: Features, layer: ClassLayer) -> tuple[float, tuple[float, float]]:
    """The mean score of ten equal parts, from 1 to the number of classes, and its 95 % interval.

    The parts are those of :func:`gan_core.metrics.intervals.jackknife_groups`: at random, because files are often sorted by
    class, and a part of one class has a score of 1. The interval is Student's t over the ten parts.

    Args:
        fake: features of at least 20 pictures, with rows.
        layer: from :func:`class_layer`.
    """
    groups, scores = jackknife_groups(len(fake.kept)), []
    for group in range(GROUPS):
        logs = layer.log_probabilities(fake.kept[groups == group])
        probabilities = np.exp(logs)
        marginal = np.log(probabilities.mean(0).clip(min=np.finfo(float).tiny))
        scores.append(float(np.exp((probabilities * (logs - marginal)).sum(1).mean())))
    value = float(np.mean(scores))
    reach = student_t_quantile(GROUPS - 1) * float(np.std(scores, ddof=1)) / GROUPS**0.5
    return value, (max(1.0, value - reach), value + reach)
