"""``preset: auto`` prints what it chose, and what it would have chosen."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from gan_core.presets import choose as presets
from pipelines.settings.schema import load_settings
from pipelines.stages.auto import resolve_auto
from tests.datasets import blobs, write_prepared

ROOT = Path(__file__).parents[3]


def test_missing_settings_are_chosen_and_given_ones_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = yaml.safe_load((ROOT / "params.yaml").read_text())
    plain["model"] = {"family": "stargan", "preset": "auto", "width": 8}
    plain["train"] = {"steps": 50, "batch": 8, "beta1": 0.5, "augment": {"kind": "none"}}
    plain["tune"]["space"] = "auto"
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(plain))
    data = write_prepared(tmp_path / "data", blobs(16, channels=3), np.arange(16) % 2, kind="domains")
    settings = resolve_auto("train", load_settings(tmp_path / "params.yaml"), data)
    told = capsys.readouterr().out
    assert (settings.model.preset, settings.model.config.width, settings.train.batch) == ("none", 8, 8)
    assert settings.train.discriminator_steps == 5
    assert "auto: train.discriminator_steps = 5 (the recipe of stargan)" in told
    assert "auto: train.batch = 8 from params.yaml (auto would choose 16: the recipe of stargan)" in told
    assert "auto: model.width = 8 from params.yaml (auto would choose 24: stargan on a CPU)" in told
    assert "beta1" not in told, "what is the same either way is no news"


def test_a_step_too_large_for_the_gpu_is_split_by_the_settings_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = yaml.safe_load((ROOT / "params.yaml").read_text())
    plain["model"] = {"family": "dcgan", "preset": "auto", "width": 16}
    plain["train"] = {"steps": 50, "batch": 64}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(plain))
    data = write_prepared(tmp_path / "data", blobs(16, 32))
    counts = []
    for mebibytes in (1024, 8):
        monkeypatch.setattr(presets, "device_memory", lambda device, has=mebibytes << 20: has)
        counts.append(resolve_auto("train", load_settings(tmp_path / "params.yaml"), data).train.accumulate)
    assert counts[0] == 1 < counts[1]
    assert "auto: train.accumulate = 1 (a step takes about 0.0 GiB of the GPU's 1.0 GiB)" in capsys.readouterr().out
