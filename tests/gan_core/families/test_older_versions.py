"""Networks of earlier versions of Gantry load with their own settings, and can be trained further."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gan_core.checkpoint import valid_checkpoints
from gan_core.data import PreparedDataset
from gan_core.errors import CheckpointError
from gan_core.families import family_config
from gan_core.files import sha256_file
from gan_core.inference.generator import load_generator
from gan_core.training.config import TrainConfig
from gan_core.training.trainer import Trainer
from tests.gan_core.families.conftest import SMALL

FIXTURES = Path(__file__).parents[1] / "fixtures"
"""Exported by an earlier edition, with pictures 0 and 1 of seed 3 as it made them."""

EARLIER: dict[str, tuple[str, Any]] = {"biggan": ("attention_values", 8), "r3gan": ("always_project", True)}
"""What a family calls its earlier networks, which did not name it."""


@pytest.mark.parametrize("fixture", ["biggan-before-attention", "r3gan-before-transitions"])
def test_an_exported_generator_of_an_earlier_edition_makes_the_same_pictures(fixture: str) -> None:
    expected = torch.from_numpy(np.load(FIXTURES / fixture / "pictures.npy")).int()
    assert expected.float().std() > 20  # pictures, not one grey
    assert (load_generator(FIXTURES / fixture).sample(2, seed=3).int() - expected).abs().max() <= 1


@pytest.mark.parametrize("name", EARLIER)
def test_a_checkpoint_of_an_earlier_edition_goes_on_where_the_setting_says_so(
    name: str, labelled: PreparedDataset, tmp_path: Path
) -> None:
    setting, value = EARLIER[name]
    trainer(name, labelled, tmp_path, {setting: value}).run(1)
    forget(tmp_path, setting)
    assert trainer(name, labelled, tmp_path, {setting: value}).step == 1
    with pytest.raises(CheckpointError, match=rf"model\.{setting}: {value} in the checkpoint, .* in this run"):
        trainer(name, labelled, tmp_path, {})
    assert load_generator(tmp_path).sample(1, seed=0).shape == (1, 1, 16, 16)


def test_biggan_without_attention_was_no_other_before(labelled: PreparedDataset, tmp_path: Path) -> None:
    trainer("biggan", labelled, tmp_path, {"attention": 0}).run(1)
    forget(tmp_path, "attention_values")
    assert trainer("biggan", labelled, tmp_path, {"attention": 0}).step == 1


def trainer(name: str, data: PreparedDataset, out: Path, settings: dict[str, Any]) -> Trainer:
    config = TrainConfig(steps=2, batch=8, precision="fp32", checkpoint_every=1)
    return Trainer(name, family_config(name, {**SMALL[name], **settings}), data, config, out, device="cpu")


def forget(out: Path, setting: str) -> None:
    """Make the newest checkpoint in ``out`` one of an edition that did not know ``setting``."""
    newest = next(valid_checkpoints([out]), None)
    assert newest is not None
    state = json.loads((newest.path / "state.json").read_text())
    del state["settings"][f"model.{setting}"], state["generator"]["config"][setting]
    (newest.path / "state.json").write_text(json.dumps(state))
    sums = {file: sha256_file(newest.path / file) for file in ("state.json", "tensors.safetensors")}
    (newest.path / "manifest.json").write_text(json.dumps(sums))
