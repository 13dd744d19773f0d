"""``model.preset: auto`` in a stage: choose, and say what was chosen and why."""

from pathlib import Path

from gan_core.data import PreparedDataset
from gan_core.precision import choose_device
from pipelines.progress import say
from pipelines.settings import Settings


def resolve_auto(stage: str, settings: Settings, data: Path) -> Settings:
    """The settings to run ``stage`` with on the prepared dataset ``data``; prints each choice with its reason."""
    if settings.model.preset == "none":
        return settings
    settings, choices = settings.resolved(PreparedDataset(data).info, choose_device())
    for choice in choices:
        say(stage, f"auto: {choice.name} = {choice.value} ({choice.reason})")
    return settings
