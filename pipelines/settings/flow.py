"""The ``flow`` section of params.yaml."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gan_core.config import build, check
from gan_core.errors import SettingsError, nearest
from pipelines.settings.params import read_params


@dataclass(frozen=True, kw_only=True)
class FlowSettings:
    """What the flow adds to DVC: second attempts and time limits."""

    retries: int = 0
    """Further attempts at a failed stage; it resumes where it stopped."""
    retry_delay_s: float = 10.0
    """Pause before a further attempt, seconds."""
    timeout_s: Mapping[str, float] = field(default_factory=dict)
    """Longest time that one attempt may take, seconds, by stage; a stage that is not named has no limit."""

    def __post_init__(self) -> None:
        check(self.retries >= 0, f"retries: must be 0 or more, got {self.retries}.")
        check(self.retry_delay_s >= 0, f"retry_delay_s: must be 0 or more, got {self.retry_delay_s}.")
        for stage, seconds in self.timeout_s.items():
            check(seconds > 0, f"timeout_s.{stage}: must be above 0, got {seconds}.")

    def check_stages(self, names: Iterable[str]) -> None:
        """Raise SettingsError when a time limit names a stage that is not among ``names``."""
        names = list(names)
        for stage in self.timeout_s:
            check(stage in names, f"flow.timeout_s: there is no stage '{stage}'.{nearest(stage, names)}")


def load_flow_settings(root: Path) -> FlowSettings:
    """The flow's settings from ``root``'s params.yaml; the defaults where it has no ``flow`` section or is absent.

    Raises:
        SettingsError: an unknown or impossible setting; names it and the file.
    """
    path = root / "params.yaml"
    if not path.is_file():
        return FlowSettings()
    values = read_params(path)
    try:
        return build(FlowSettings, values.get("flow", {}), where="flow")
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from None
