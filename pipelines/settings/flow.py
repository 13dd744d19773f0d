"""The section ``flow`` of params.yaml: retries, time limits, and what deployments do (``gantry deploy``)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gan_core.config import build, check
from gan_core.errors import SettingsError, did_you_mean
from pipelines.settings.params import read_params


@dataclass(frozen=True, kw_only=True)
class TrainAbove:
    """Bounds on the change of the data, since the champion, above which a scheduled run trains."""

    share: float | None = None
    """Pictures added, removed, in another split or with another label, as a share of the old ones."""
    fid: float | None = None
    """FID between the old and the new data."""
    uncovered: float | None = None
    """1 - coverage: the share of the new pictures that the old ones do not cover."""
    samples: int = 2000
    """Most pictures of each side for the FID and the coverage."""

    def __post_init__(self) -> None:
        bounds = {name: getattr(self, name) for name in ("share", "fid", "uncovered")}
        check(
            any(bound is not None for bound in bounds.values()),
            "share: no bound is set. Set share, fid or uncovered, or set flow.train_above to null.",
        )
        for name, bound in bounds.items():
            check(bound is None or bound >= 0, f"{name}: must be 0 or more, got {bound}.")
        check(self.samples >= 2, f"samples: must be at least 2, got {self.samples}.")


@dataclass(frozen=True, kw_only=True)
class FlowSettings:
    """Retries and time limits, which the flow adds to DVC's stages, and settings of deployments on workers."""

    retries: int = 0
    """Number of retries of a failed stage. A retry resumes where the last attempt stopped."""
    retry_delay_s: float = 10.0
    """Pause before a retry, seconds."""
    timeout_s: Mapping[str, float] = field(default_factory=dict)
    """Time limit of one attempt, seconds, by stage: {train: 3600}. Stages that are not listed have no limit."""
    max_takeovers: int = 3
    """How often another worker takes up a deployed run whose worker was lost, before the run fails."""
    push_experiments: bool = True
    """Whether a deployed run pushes its DVC experiment to the git repository that its worker cloned."""
    train_above: TrainAbove | None = None
    """Train in a scheduled run (gantry serve, gantry deploy) only if the data has changed since the champion by more than one
    of these bounds: {share: 0.05, fid: 2.0, uncovered: 0.1}. null: train whenever DVC finds a change."""
    notify: str | None = None
    """Prefect block that is told of failed, late and crashed runs of the deployment, as TYPE/NAME: slack-webhook/team, or
    webhook/NAME for any address. Make it in Prefect's page; it keeps the secret address. null: none."""

    def __post_init__(self) -> None:
        check(self.retries >= 0, f"retries: must be 0 or more, got {self.retries}.")
        check(self.retry_delay_s >= 0, f"retry_delay_s: must be 0 or more, got {self.retry_delay_s}.")
        check(self.max_takeovers >= 0, f"max_takeovers: must be 0 or more, got {self.max_takeovers}.")
        if self.notify is not None:
            block = self.notify.split("/")
            check(len(block) == 2 and all(block), f"notify: must be TYPE/NAME of a Prefect block, got {self.notify!r}.")
        for stage, seconds in self.timeout_s.items():
            check(seconds > 0, f"timeout_s.{stage}: must be above 0, got {seconds}.")

    def check_stages(self, names: Iterable[str]) -> None:
        """Raise SettingsError if ``timeout_s`` names a stage that is not in ``names``."""
        names = list(names)
        for stage in self.timeout_s:
            check(stage in names, f"flow.timeout_s: unknown stage '{stage}'.{did_you_mean(stage, names)}")


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
