"""Hyperparameters: the settings that affect the result of a step. Resuming a run requires the same hyperparameters."""

from typing import Any

from gan_core.config import as_dict
from gan_core.families import Family
from gan_core.training.config import CHANGEABLE_ON_RESUME, FEED_SETTINGS, TrainConfig


def hyperparameters(
    config: TrainConfig, family: Family, dataset_digest: str, *, streamed: bool = False, start: str | None = None
) -> dict[str, Any]:
    """The settings of a run that affect the result of a step, by dotted name.

    Args:
        config: settings of the run.
        family: of the run.
        dataset_digest: of its data.
        streamed: whether it streams its data.
        start: digest of the run that it starts from.
    """
    return {
        **_by_name(config, family.config),
        "model.family": family.name,
        "dataset": dataset_digest,
        "train.start": start,
        # If learning rates decay towards the end of the run, each step depends on the length of the run.
        "train.feed": "stream" if streamed else "decoded",
        # The order of streamed data depends on it.
        **({"train.stream_gib": config.stream_gib} if streamed else {}),
        **({"train.steps": config.steps} if config.decay_from < 1 else {}),
    }


def earlier_defaults(family: Family) -> dict[str, Any]:
    """Values, by dotted name, of settings that checkpoints of older versions do not have."""
    older = family.older_settings(as_dict(family.config))
    return {
        **_by_name(TrainConfig(), type(family.config)()),
        "train.feed": "decoded",
        "train.start": None,
        **{f"model.{name}": value for name, value in older.items()},
    }


def _by_name(config: TrainConfig, family_config: Any) -> dict[str, Any]:
    # A name such as NAME@champion may mean another run later: the digest of the run counts.
    left_out = CHANGEABLE_ON_RESUME | FEED_SETTINGS | {"start_from"}
    train = {f"train.{key}": value for key, value in as_dict(config).items() if key not in left_out}
    return {**train, **{f"model.{key}": value for key, value in as_dict(family_config).items()}}
