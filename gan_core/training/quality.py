"""How good a run's averaged generator is while it trains: its FID over time, and the best generator so far."""

import contextlib
import logging
import math
import shutil
from pathlib import Path
from typing import Any

import torch

from gan_core.data import PreparedDataset
from gan_core.errors import CheckpointError
from gan_core.files import read_json, replacing
from gan_core.inference.generator import DESCRIPTION, generator_digest
from gan_core.metrics.assess import assess
from gan_core.metrics.between import check_domains
from gan_core.metrics.inception import load_inception
from gan_core.metrics.measurement import Subject, check_two_pictures
from gan_core.metrics.protocol import Figure
from gan_core.metrics.sources import DatasetSplit

log = logging.getLogger(__name__)

SEED = 0
"""Names the pictures that are measured: those that ``gantry fid`` and the evaluate stage draw by default."""


class QualityMonitor:
    """Measures one run at several steps, always by the same protocol: 2048 features in fp32, as published figures are."""

    def __init__(
        self, dataset: PreparedDataset, split: str, count: int, device: torch.device, *, translates: bool = False
    ) -> None:
        """Load the feature network and look at the data: what keeps a figure from being measured is known before training.

        Args:
            dataset: the real pictures.
            split: which of them.
            count: pictures to make from noise, or at most so many of the split's to translate in each direction.
            device: measured on.
            translates: whether pictures are made from pictures.

        Raises:
            DataError: there are too few real pictures, or in one of the domains.
            FetchError: the Inception weights could not be fetched.
        """
        if translates and dataset.info.kind != "paired":
            check_domains(dataset, split)
        else:
            check_two_pictures(DatasetSplit(dataset, split))
        self._dataset, self._split, self._count = dataset, split, count
        self._extractor = load_inception(device)

    def measure(self, subject: Subject, step: int) -> Figure:
        """The objective of evaluation and search, the FID or its mean over directions, of ``subject`` as it is at ``step``."""
        return assess(
            subject,
            self._dataset,
            split=self._split,
            count=self._count,
            seed=SEED,
            extractor=self._extractor,
            generator_digest=f"step {step}",
            full=False,
        ).objective


class BestGenerator:
    """The generator with the lowest FID of a run: an exported folder, which says by which figure it was chosen."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @property
    def figure(self) -> dict[str, Any] | None:
        """What it was chosen by, as :meth:`Figure.as_dict` has it; None while there is none that can be read, which is said."""
        description = self.directory / DESCRIPTION
        if not description.is_file():
            return None
        try:
            generator_digest(self.directory)
            figure = read_json(description)["fid"]
            if not (math.isfinite(figure["value"]) and isinstance(figure["protocol_digest"], str)):
                raise ValueError("its figure is no number")
        except (CheckpointError, ValueError, LookupError, TypeError, OverflowError) as error:
            log.warning("Passing over the best generator so far, %s: %s.", self.directory, str(error).rstrip("."))
            return None
        return figure

    def is_beaten_by(self, figure: Figure) -> bool:
        """Whether ``figure`` is lower, or the first by its protocol."""
        if not math.isfinite(figure.value):
            return False
        best = self.figure
        return best is None or best["protocol_digest"] != figure.protocol.digest or figure.value < best["value"]

    def copy_to(self, directory: Path | str) -> None:
        """Write it as the folder ``directory``, whole or not at all."""
        with replacing(directory) as temporary:
            shutil.copytree(self.directory, temporary)

    def forget(self) -> None:
        """Remove it: it belongs to a run that another one takes the place of."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.directory)
