"""Before the first trial, a search from an earlier run refuses what that run fixes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gan_core.data import PreparedDataset
from gan_core.errors import CheckpointError, SettingsError
from gan_core.training.start import Start, open_start
from gan_core.training.trainer import Trainer
from pipelines.tuning.parent import check_space
from tests.datasets import blobs, write_prepared
from tests.pipelines.settings_example import small_settings

SLOPE = {"model.slope": {"type": "uniform", "low": 0.0, "high": 0.4}}
Check = Callable[..., None]


@pytest.fixture
def check(tmp_path: Path) -> Check:
    """A function that checks a search with further settings, from a run of width 8 that has kept its weights."""
    dataset = PreparedDataset(write_prepared(tmp_path / "data", blobs(32)), tmp_path / "decoded")
    plain = small_settings()
    trainer = Trainer(
        "dcgan", plain.model.config, dataset, plain.train.trainer_config(), tmp_path / "run", device="cpu"
    )
    trainer.export_start(tmp_path / "start")
    start = open_start(tmp_path / "start", "faces/3")

    def run(space: dict[str, Any], start: Start = start, **more: Any) -> None:
        check_space(
            small_settings(train__start_from="faces/3", tune__space={**SLOPE, **space}, **more), dataset.info, start
        )

    return run


def test_what_leaves_the_networks_their_shape_can_be_searched(check: Check) -> None:
    check({"train.generator_lr": {"type": "log", "low": 1e-4, "high": 1e-3}})
    check({"train.freeze_discriminator": {"type": "integer", "low": 0, "high": 2}})
    check({"model.width": {"type": "choice", "values": [8]}})


@pytest.mark.parametrize(
    ("name", "values", "why"),
    [
        ("model.width", [8, 16], r"With the value 16: .* model\.width \(8 there, 16 here\)"),
        ("model.latent", [4, 16], r"With the value 4: .* model\.latent \(16 there, 4 here\)"),
        ("train.freeze_discriminator", [0, 9], "With the value 9: .* has 3 layers"),
        ("train.start_optimisers", [False, True], "With the value True: .* does not have its optimisers"),
    ],
)
def test_what_the_run_fixes_cannot_be_searched(check: Check, name: str, values: list[Any], why: str) -> None:
    with pytest.raises(
        SettingsError, match=rf"tune\.space: '{name}' cannot be searched if trials start from faces/3\. {why}"
    ):
        check({name: {"type": "choice", "values": values}})


def test_settings_that_no_trial_could_start_with_are_refused_as_in_training(check: Check) -> None:
    with pytest.raises(SettingsError, match=r"train\.start_from: this run cannot start from faces/3: .*model\.width"):
        check({}, model__width=16)
    with pytest.raises(CheckpointError, match="does not have its optimisers"):
        check({}, train__start_optimisers=True)


def test_a_run_whose_weights_are_gone_is_refused(check: Check, tmp_path: Path) -> None:
    (tmp_path / "start" / "weights.safetensors").unlink()
    with pytest.raises(CheckpointError, match="faces/3 is incomplete"):
        check({})


def test_a_checkpoint_can_be_started_from_too(check: Check, tmp_path: Path) -> None:
    dataset = PreparedDataset(tmp_path / "data", tmp_path / "decoded")
    settings = small_settings(train__steps=1, train__checkpoint_every=1)
    trainer = Trainer("dcgan", settings.model.config, dataset, settings.train.trainer_config(), tmp_path / "run")
    trainer.run()
    start = open_start(tmp_path / "run", "a folder")
    check({}, start, train__start_optimisers=True)
    with pytest.raises(SettingsError, match=r"model\.width \(8 there, 16 here\)"):
        check({}, start, model__width=16)
