"""The section ``flow`` of params.yaml: retries and time limits."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gan_core.config import build, check
from gan_core.errors import SettingsError, nearest
from pipelines.settings.params import read_params


@dataclass(frozen=True, kw_only=True)
class FlowSettings:
    """Retries and time limits, which the flow adds to DVC's stages."""

    retries: int = 0
    """Number of retries of a failed stage. A retry resumes where the last attempt stopped."""
    retry_delay_s: float = 10.0
    """Pause before a retry, seconds."""
    timeout_s: Mapping[str, float] = field(default_factory=dict)
    """Time limit of one attempt, seconds, by stage: {train: 3600}. Stages that are not listed have no limit."""

    def __post_init__(self) -> None:
        check(self.retries >= 0, f"retries: must be 0 or more, got {self.retries}.")
        check(self.retry_delay_s >= 0, f"retry_delay_s: must be 0 or more, got {self.retry_delay_s}.")
        for stage, seconds in self.timeout_s.items():
            check(seconds > 0, f"timeout_s.{stage}: must be above 0, got {seconds}.")

    def check_stages(self, names: Iterable[str]) -> None:
        """Raise SettingsError if ``timeout_s`` names a stage that is not in ``names``."""
        names = list(names)
        for stage in self.timeout_s:
            check(stage in names, f"flow.timeout_s: unknown stage '{stage}'.{nearest(stage, names)}")


def load_flow_settings(path: Path) -> FlowSettings:
    """Read the section ``flow`` of params.yaml at ``path``. A missing file or section means the defaults.

    Raises:
        SettingsError: a setting is unknown or invalid. The message names it and the file.
    """
    if not path.is_file():
        return FlowSettings()
    values = read_params(path)
    try:
        return build(FlowSettings, values.get("flow", {}), where="flow")
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from None
