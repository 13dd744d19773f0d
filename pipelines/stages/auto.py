"""``model.preset: auto`` in a stage: choose settings, and print each choice with its reason."""

from pathlib import Path

from gan_core.data import PreparedDataset
from gan_core.precision import choose_device
from pipelines.runtime.progress import say
from pipelines.settings.schema import Settings


def resolve_auto(stage: str, settings: Settings, data: Path) -> Settings:
    """Replace ``preset: auto`` with concrete settings for the prepared dataset ``data``; print each choice with its reason."""
    if settings.model.preset == "none":
        return settings
    chosen, overruled = settings.choices(PreparedDataset(data).info, choose_device())
    for choice in chosen:
        say(stage, f"auto: {choice.name} = {choice.value} ({choice.reason})")
    for choice in overruled:
        value = settings.value(choice.name)
        say(
            stage, f"auto: {choice.name} = {value} from params.yaml (auto would choose {choice.value}: {choice.reason})"
        )
    return settings.with_values({"model.preset": "none", **{choice.name: choice.value for choice in chosen}})
