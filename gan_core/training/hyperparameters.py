"""Hyperparameters: the settings that decide what a step computes. A checkpoint of a run with others is refused."""

from typing import Any

from gan_core.config import as_dict
from gan_core.families import Family
from gan_core.training.config import FREE_TO_CHANGE, TrainConfig


def hyperparameters(config: TrainConfig, family: Family, dataset_digest: str) -> dict[str, Any]:
    """The settings of a run, by dotted name, that what a step computes depends on."""
    return {
        **_by_name(config, family.config),
        "model.family": family.name,
        "dataset": dataset_digest,
        # Where rates fall towards its end, what a step computes depends on how long the run is.
        **({"train.steps": config.steps} if config.decay_from < 1 else {}),
    }


def earlier_defaults(family: Family) -> dict[str, Any]:
    """What the settings were, by dotted name, in a checkpoint of an edition that did not know them."""
    older = family.older_settings(as_dict(family.config))
    return {
        **_by_name(TrainConfig(), type(family.config)()),
        **{f"model.{name}": value for name, value in older.items()},
    }


def _by_name(config: TrainConfig, family_config: Any) -> dict[str, Any]:
    train = {f"train.{key}": value for key, value in as_dict(config).items() if key not in FREE_TO_CHANGE}
    return {**train, **{f"model.{key}": value for key, value in as_dict(family_config).items()}}
