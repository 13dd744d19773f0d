"""Files of an earlier version can be loaded: a generator, a checkpoint, a prepared dataset, a registered version.

``tests/earlier_version`` was made at commit f4357d1, before the modules moved into their current folders: 40 pictures of
16x16 pixels in two classes, and a cGAN of width 2 that was trained on them for 4 steps with a checkpoint at step 2.
"""

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from gan_core.data import PreparedDataset
from gan_core.families import family_config
from gan_core.inference.generator import load_generator
from gan_core.training.config import TrainConfig
from gan_core.training.trainer import Trainer

EARLIER = Path(__file__).with_name("earlier_version")
LOAD = """
import sys
if sys.argv[2] == "beside":
    import gan_core.inference.generator
import mlflow, pandas
rows = mlflow.pyfunc.load_model(sys.argv[1]).predict(pandas.DataFrame({"n": [3], "label": [1]}))
print(sys.modules["gan_core"].__file__, len(rows), rows.png[0][:4])
"""


def test_an_earlier_generator_makes_the_same_pictures() -> None:
    generator = load_generator(EARLIER / "generator")
    expected = torch.tensor(json.loads((EARLIER / "pictures.json").read_text(encoding="utf-8")), dtype=torch.uint8)
    pictures = generator.sample(4, seed=0)
    assert pictures.shape == expected.shape == (4, 1, 16, 16)
    # A different processor may round the last bit of a pixel differently.
    assert (pictures.int() - expected.int()).abs().max() <= 1


def test_training_resumes_from_an_earlier_checkpoint_with_the_same_result(tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(EARLIER / "checkpoints", run)
    config = TrainConfig(steps=4, batch=8, precision="fp32", log_every=2, sample_every=4, checkpoint_every=2)
    data = PreparedDataset(EARLIER / "prepared", tmp_path / "decoded")
    trainer = Trainer("cgan", family_config("cgan", {"width": 2}), data, config, run, device="cpu")
    assert trainer.step == 2
    trainer.run()
    trainer.export(tmp_path / "generator")
    ended = load_generator(tmp_path / "generator").sample(4, seed=0).int()
    assert (ended - load_generator(EARLIER / "generator").sample(4, seed=0).int()).abs().max() <= 1


def test_an_earlier_prepared_dataset_is_read(tmp_path: Path) -> None:
    data = PreparedDataset(EARLIER / "prepared", tmp_path / "decoded")
    assert data.info.name == "blobs"
    assert data.info.classes == ("a", "b")
    assert data.info.splits == {"train": 31, "test": 9}


@pytest.mark.parametrize("how", ["alone", "beside"])
def test_an_earlier_registered_version_is_loaded(how: str, tmp_path: Path) -> None:
    """With its own code, as in ``mlflow models serve``, and in a process that has imported the current code."""
    with zipfile.ZipFile(EARLIER / "version.zip") as archive:
        archive.extractall(tmp_path / "version")
    done = subprocess.run(
        [sys.executable, "-c", LOAD, tmp_path / "version", how], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    code, rows, head = done.stdout.split(maxsplit=2)
    assert rows == "3"
    assert "PNG" in head
    assert (Path(code).parent.parent == tmp_path / "version/code") is (how == "alone")
