"""Check before a search that each of its trials can start from the run that ``train.start_from`` names."""

from gan_core.data import DatasetInfo
from gan_core.errors import CheckpointError, SettingsError
from gan_core.families import ImageShape, sketch_family
from gan_core.training.start import Start, check_start
from pipelines.settings.schema import Settings

_OF_START = ("train.freeze_discriminator", "train.start_optimisers")
"""Settings outside of ``model`` that a run to start from may not allow."""


def check_space(settings: Settings, info: DatasetInfo, start: Start) -> None:
    """Check that a trial can start from ``start``, whatever values of ``tune.space`` it gets. Allocates no networks.

    Args:
        settings: of the search; the values in params.yaml are those of the first trial.
        info: of the prepared data.
        start: the run to start from, with its folder.

    Raises:
        SettingsError: a trial could not start from it; the message names the setting, in params.yaml or in ``tune.space``.
        CheckpointError: the run has not kept what a trial needs.
    """
    _check(settings, info, start)
    for name, limits in settings.tune.space.items():
        # If the networks for both ends can be adapted, the setting is not one of their shape.
        for value in limits.ends() if name.startswith("model.") or name in _OF_START else ():
            try:
                _check(settings.with_values({name: value}), info, start)
            except (SettingsError, CheckpointError) as error:
                raise SettingsError(
                    f"tune.space: '{name}' cannot be searched if trials start from {start.name}. With the value {value}: "
                    f"{error} Or take '{name}' out of tune.space."
                ) from error


def _check(settings: Settings, info: DatasetInfo, start: Start) -> None:
    family = sketch_family(settings.model.family, settings.model.config, ImageShape.of(info))
    train = settings.train
    check_start(
        start,
        family,
        classes=tuple(info.classes),
        optimisers=train.start_optimisers,
        freeze=train.freeze_discriminator,
    )
