"""Settings for small runs in tests: the project's own params.yaml with a few values replaced."""

from pathlib import Path
from typing import Any

from pipelines.settings.schema import Settings, load_settings

ROOT = Path(__file__).parents[2]

SMALL = {
    "model.width": 8,
    "model.latent": 16,
    "train.batch": 16,
    "train.steps": 60,
    "train.log_every": 5,
    "train.sample_every": 30,
    "train.checkpoint_every": 10,
    "train.precision": "fp32",
    "train.fid_every": 0,
    "evaluate.real": None,
}


def small_settings(**more: Any) -> Settings:
    """Small settings; ``more`` are further values by dotted name, dots written as double underscores."""
    return load_settings(ROOT / "params.yaml").with_values(
        {**SMALL, **{name.replace("__", "."): value for name, value in more.items()}}
    )
