"""What the settings of a run have that the family's recipe has not."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from gan_core.config import as_dict
from gan_core.data import DatasetInfo
from gan_core.families import FAMILIES
from gan_core.presets.choose import choose
from gan_core.presets.recipes import RECIPES
from pipelines.settings.schema import Settings, TrainSettings

UNDECISIVE = frozenset(
    {
        *("model.preset", "evaluate.batch", "train.log_every", "train.sample_every", "train.checkpoint_every"),
        *("train.keep_checkpoints", "train.num_workers", "train.max_failures", "train.max_rollbacks"),
        *("train.decoded_gib", "train.stream_gib"),
    }
)
"""Settings by which no two runs are compared: they say how often something is written, or how much a host can hold."""
_OF_THE_USER = frozenset(
    {
        *("model.family", "train.steps", "train.minutes", "train.seed", "train.fid_every", "train.fid_samples"),
    }
)
"""Settings of model and train of which a recipe says nothing."""


@dataclass(frozen=True, kw_only=True)
class Departure:
    """A setting that differs from the family's recipe."""

    name: str
    """Dotted name, as in params.yaml."""
    value: Any
    recipe: Any
    """The value of the recipe; None if it has none."""
    reason: str
    """Why the recipe has its value."""
    left_out: bool
    """Whether params.yaml leaves the setting out, so that it has its default."""


def departures(settings: Settings, info: DatasetInfo | None, device: torch.device) -> list[Departure]:
    """The settings of model, train and ``tune.space`` that differ from the family's recipe for this data and device.

    Where the recipe says nothing, the default counts as the recipe.

    Args:
        settings: as in params.yaml. With ``model.preset: auto``, what params.yaml leaves out is the recipe's.
        info: the prepared data; None to compare with the defaults of the family alone.
        device: device to train on.
    """
    chosen = {}
    if info is not None:
        # The user's own value of one setting does not change what the recipe has for another.
        found = choose(
            settings.model.family, info, device, settings.train.known_steps, workers=settings.train.workers[0]
        )
        chosen = {choice.name: choice for choice in found}
    result = []
    for name, default in _defaults(settings):
        choice = chosen.get(name)
        automatic = settings.model.preset == "auto" and name not in settings.given
        if name in UNDECISIVE | _OF_THE_USER or automatic:
            continue
        value = _plain(settings.value(name))
        wanted = _plain(choice.value) if choice else default
        if isinstance(wanted, dict) and isinstance(value, dict):  # the choice for a section names some of its settings
            wanted = {**_plain(default), **wanted}
        if value != wanted:
            result.append(
                Departure(
                    name=name,
                    value=value,
                    recipe=wanted,
                    reason=choice.reason if choice else "the default",
                    left_out=name not in settings.given,
                )
            )
    return [*result, *_space(settings)]


def _defaults(settings: Settings) -> Iterator[tuple[str, Any]]:
    """The settings of model and train with their defaults."""
    config = FAMILIES[settings.model.family].Config()
    yield from ((f"model.{name}", value) for name, value in as_dict(config).items())
    defaults = TrainSettings()
    yield from ((f"train.{f.name}", _plain(getattr(defaults, f.name))) for f in dataclasses.fields(defaults))


def _space(settings: Settings) -> Iterator[Departure]:
    """The ranges of ``tune.space`` that differ from the family's."""
    own = {name: _plain(limits) for name, limits in settings.tune.space.items()}
    if not own or not settings.tune.trials:
        return
    recipe = RECIPES[settings.model.family].space(settings.model.config)
    known = {name: {**_empty(own), **limits} for name, limits in recipe.items()}
    for name in [*own, *(name for name in known if name not in own)]:
        if own.get(name) != known.get(name):
            yield Departure(
                name=f"tune.space.{name}",
                value=_short(own.get(name)),
                recipe=_short(known.get(name)),
                reason="the family's search space",
                left_out=name not in own,
            )


def _empty(ranges: dict[str, Any]) -> dict[str, Any]:
    return dict.fromkeys(next(iter(ranges.values())))


def _short(limits: dict[str, Any] | None) -> dict[str, Any] | None:
    return limits and {name: value for name, value in limits.items() if value is not None}


def _plain(value: Any) -> Any:
    """``value`` as params.yaml has it."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return as_dict(value)
    return list(value) if isinstance(value, tuple) else value
