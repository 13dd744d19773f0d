"""What a run leaves behind: its generator, and what a later run needs to start from it; the last ones, or the best ones."""

import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gan_core.augment.augmenter import Augmenter
from gan_core.data import DatasetInfo
from gan_core.families import Family
from gan_core.files import atomic_write
from gan_core.inference.generator import describe_generator, save_generator
from gan_core.metrics.protocol import Figure
from gan_core.training.config import TrainConfig
from gan_core.training.generator import AveragedGenerator
from gan_core.training.quality import BestGenerator
from gan_core.training.start import describe_start, save_start
from gan_core.training.state import State

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Moment:
    """How far a run is."""

    step: int
    images_seen: int
    """Real images of this run."""
    total_images: int
    """Those of the runs that it started from, too."""
    incidents: list[str]
    """The reason of each rollback so far."""


class Exports:
    """Exports the averaged generator of a run, and its start folder; only rank 0 calls it.

    With ``keep_best``, these are the ones of the lowest FID so far (:meth:`keep`), if a FID was measured.
    """

    def __init__(
        self,
        family: Family,
        generator: AveragedGenerator,
        state: State,
        augmenter: Augmenter,
        config: TrainConfig,
        directory: Path,
        *,
        info: DatasetInfo,
        parent: Mapping[str, Any] | None,
    ) -> None:
        """
        Args:
            family: with the networks of the run.
            generator: its averaged generator.
            state: its state.
            augmenter: its augmentation.
            config: its settings.
            directory: its folder; the best ones are kept there.
            info: its data.
            parent: what the description says of the run that it started from; None if it started from random weights.
        """
        self._family, self._generator, self._state, self._augmenter = family, generator, state, augmenter
        self._config, self._info, self._parent = config, info, parent
        self._best = BestGenerator(directory / "best")
        self._best_start = directory / "best-start"

    def forget(self) -> None:
        """Delete the best generator of an earlier run."""
        self._best.delete()
        shutil.rmtree(self._best_start, ignore_errors=True)

    def keep(self, figure: Figure, moment: Moment) -> None:
        """Keep the generator as it is now if ``figure`` is its FID, and the lowest so far."""
        if self._config.keep_best and self._best.is_beaten_by(figure):
            self._write_start(self._best_start, moment)
            self._write_generator(self._best.directory, moment, fid=figure.as_dict())

    def describe(self, moment: Moment) -> dict[str, Any]:
        """Describe the generator and where it comes from: its data, the images seen, and the run that it started from."""
        return describe_generator(self._family, self._lineage(moment))

    def write_generator(self, directory: Path | str, moment: Moment) -> None:
        """Export the averaged generator to ``directory``."""
        if self._config.keep_best and self._best.figure:
            self._best.copy_to(directory, rollbacks=moment.incidents)
            return
        if self._config.keep_best:
            log.warning(
                "keep_best: exporting the last generator instead of the best, because this run has measured no FID."
            )
        self._generator.update_statistics()
        self._write_generator(directory, moment, rollbacks=moment.incidents)

    def write_start(self, directory: Path | str, moment: Moment) -> None:
        """Write what a later run needs to start from this one (:mod:`gan_core.training.start`)."""
        if self._config.keep_best and self._best.figure and self._best_start.is_dir():
            with atomic_write(directory) as temporary:
                shutil.copytree(self._best_start, temporary)
            return
        self._generator.update_statistics()  # so that the bytes do not depend on what was drawn or measured before
        self._write_start(directory, moment)

    def _lineage(self, moment: Moment) -> dict[str, Any]:
        info = self._info
        domains = {"classes": list(info.classes), "attributes": list(info.attributes)}
        parent = {"parent": self._parent} if self._parent else {}
        return {
            "dataset": info.digest,
            "dataset_name": info.name,
            **domains,
            "images_seen": moment.images_seen,
            **parent,
        }

    def _write_start(self, directory: Path | str, moment: Moment) -> None:
        described = describe_start(
            self.describe(moment), self._augmenter, step=moment.step, total_images=moment.total_images
        )
        save_start(directory, self._state, described, keep=self._config.save_start)

    def _write_generator(self, directory: Path | str, moment: Moment, **extra: Any) -> None:
        save_generator(
            directory,
            family=self._family,
            networks=self._generator.networks,
            extra={**self._lineage(moment), "step": moment.step, **extra},
        )
