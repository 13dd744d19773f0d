"""The averaged generator of a run has the figures of the generator that the run exports."""

from pathlib import Path

import numpy as np
import pytest

from gan_core.data import PreparedDataset
from gan_core.families import family_config
from gan_core.inference.generator import load_generator
from gan_core.metrics.assess import assess
from gan_core.training.config import TrainConfig
from gan_core.training.trainer import Trainer
from tests.datasets import blobs, write_prepared
from tests.gan_core.families.conftest import SMALL
from tests.gan_core.metrics.conftest import Averages


def test_a_run_in_training_has_the_figures_of_classes_and_paths_of_its_exported_generator(tmp_path: Path) -> None:
    """A search measures its objective on the run. After two steps, the averaged weights are not those of the last step."""
    labels = np.arange(40) % 2
    data = PreparedDataset(write_prepared(tmp_path / "data", blobs(40), labels), tmp_path / "decoded")
    config = TrainConfig(steps=2, batch=4, precision="fp32", log_every=1, sample_every=2, checkpoint_every=2)
    model = family_config("stylegan2", SMALL["stylegan2"])
    trainer = Trainer("stylegan2", model, data, config, tmp_path / "run", device="cpu")
    trainer.run()
    trainer.generator.update_statistics()
    trainer.export(tmp_path / "generator")
    how = {"split": "train", "count": 40, "seed": 0, "extractor": Averages(), "path_samples": 20}
    found, expected = (
        assess(subject, data, generator_digest="g", cache_dir=tmp_path / "cache", **how)
        for subject in (trainer.generator, load_generator(tmp_path / "generator"))
    )
    names = {figure.name for figure in expected.figures}
    assert {"fid_class", "class_agreement", "class_training", "ppl_z", "ppl_w"} <= names
    for one, other in zip(found.figures, expected.figures, strict=True):
        assert one.protocol == other.protocol
        assert one.value == pytest.approx(other.value, rel=1e-2), one.name
