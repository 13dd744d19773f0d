"""params.yaml, typed and checked whole before anything runs."""

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import yaml

from gan_core.config import as_dict, build, check, check_choice, check_least
from gan_core.data import DatasetInfo
from gan_core.errors import SettingsError
from gan_core.families import family_config
from gan_core.presets import Choice, choose
from gan_core.training.config import TrainConfig
from pipelines.data.ingest import IngestSettings
from pipelines.flow.settings import FlowSettings
from pipelines.tuning.space import Range

FEATURES = (64, 192, 768, 2048)
"""Widths of the Inception features that may be measured on."""


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Which raw dataset."""

    name: str
    """Folder under data/raw."""


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """The family and its own settings."""

    family: str
    config: Any
    """The family's typed configuration."""
    preset: Literal["none", "auto"] = "none"
    """auto: settings of model and train that params.yaml leaves out are chosen from the data and the device."""

    def as_dict(self) -> dict[str, Any]:
        """As in params.yaml: the family's settings beside its name."""
        return {"family": self.family, "preset": self.preset, **as_dict(self.config)}


@dataclass(frozen=True, kw_only=True)
class TrainSettings(TrainConfig):
    """The run's settings and how Ray spreads it."""

    num_workers: int | tuple[int, int] = 1
    """Workers (one a GPU where there are GPUs); a pair [least, most] is elastic."""
    max_failures: int = 3
    """How often a lost worker is replaced before the stage fails."""

    def __post_init__(self) -> None:
        super().__post_init__()
        least, most = self.workers
        check(1 <= least <= most, f"num_workers: must be at least 1 and rise, got {self.num_workers}.")
        check_least(self, 0, "max_failures")

    @property
    def workers(self) -> tuple[int, int]:
        """Least and most workers."""
        return self.num_workers if isinstance(self.num_workers, tuple) else (self.num_workers, self.num_workers)

    def core(self) -> TrainConfig:
        """What gan_core's trainer is to know."""
        return TrainConfig(**{f.name: getattr(self, f.name) for f in dataclasses.fields(TrainConfig)})


@dataclass(frozen=True, kw_only=True)
class TuneSettings:
    """The search."""

    trials: int = 4
    """Trials in all, the family's own default first; 0 leaves the search out."""
    steps: int = 200
    """Training steps of a trial that is not stopped early."""
    report_every: int = 100
    """Steps between two measurements of a trial."""
    samples: int = 128
    """Generated and real pictures in one measurement (FID-n on the train split)."""
    features: int = 2048
    """Width of the Inception features measured on: 64, 192, 768 or 2048."""
    concurrent: int = 2
    """Trials at once; each takes an equal share of the CPUs and of the GPUs."""
    reduction: int = 2
    """ASHA stops all but 1/reduction of the trials at each rung."""
    seed: int = 0
    space: dict[str, Range] = field(default_factory=dict)
    """Settings to search, by their dotted name in this file."""

    def __post_init__(self) -> None:
        check_least(self, 0, "trials")
        check_least(self, 1, "steps", "report_every", "concurrent")
        check_least(self, 2, "samples", "reduction")
        check(self.report_every <= self.steps, f"report_every: {self.report_every} is more than steps ({self.steps}).")
        check_choice(self, FEATURES, "features")


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """What the published figure is measured on."""

    samples: int = 1000
    """Generated pictures."""
    real: int | None = None
    """Real pictures; null for the whole split."""
    split: str = "train"
    features: int = 2048
    """Width of the Inception features: 2048 is what papers publish."""
    batch: int = 32
    """Pictures in one pass of the feature network."""
    seed: int = 0

    def __post_init__(self) -> None:
        check_least(self, 2, "samples", "real")
        check_least(self, 1, "batch")
        check_choice(self, FEATURES, "features")


@dataclass(frozen=True, kw_only=True)
class TrackSettings:
    """Where runs are tracked."""

    uri: str = "sqlite:///var/mlflow.db"
    """MLflow tracking URI; a relative SQLite path counts from the checkout. GANTRY_TRACKING_URI in the environment wins."""
    experiment: str = "gantry"


@dataclass(frozen=True, kw_only=True)
class RegisterSettings:
    """The registered model."""

    name: str = "gantry"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything of params.yaml."""

    data: DataSettings
    ingest: IngestSettings
    model: ModelSettings
    train: TrainSettings
    tune: TuneSettings
    evaluate: EvaluateSettings
    register: RegisterSettings
    track: TrackSettings
    flow: FlowSettings
    given: frozenset[str] = frozenset()
    """Dotted names of what was written out in the sections model and train; the rest stands at its default."""

    def resolved(self, info: DatasetInfo, device: torch.device) -> tuple["Settings", list[Choice]]:
        """These settings with what ``model.preset: auto`` chooses for this data and device, and those choices.

        What params.yaml says itself stays.
        """
        if self.model.preset == "none":
            return self, []
        choices = [c for c in choose(self.model.family, info, device, self.train.steps) if c.name not in self.given]
        return self.with_values({"model.preset": "none", **{c.name: c.value for c in choices}}), choices

    def with_values(self, values: Mapping[str, Any]) -> "Settings":
        """These settings with some replaced by dotted name (``train.generator_lr``), checked again."""
        plain = self.as_dict()
        for name, value in values.items():
            place = plain
            *sections, key = name.split(".")
            for section in sections:
                if not isinstance(place.get(section), dict):
                    raise SettingsError(f"There is no setting '{name}': '{section}' is not a section.")
                place = place[section]
            place[key] = value
        return parse_settings(plain)

    def as_dict(self) -> dict[str, Any]:
        """As in params.yaml."""
        sections = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "given"}
        return {n: v.as_dict() if isinstance(v, ModelSettings) else as_dict(v) for n, v in sections.items()}


def parse_settings(values: Mapping[str, Any]) -> Settings:
    """Settings from plain values; raises SettingsError naming the key and the nearest valid one."""
    before, values = values, dict(values)
    model = values.get("model")
    if isinstance(model, Mapping) and "family" in model:
        own = {key: value for key, value in model.items() if key not in ("family", "preset")}
        values["model"] = {"family": model["family"], "config": family_config(model["family"], own)}
        if "preset" in model:
            values["model"]["preset"] = model["preset"]
    elif model is not None:
        raise SettingsError("Missing setting 'model.family'.")
    if "given" in values:
        raise SettingsError("Unknown setting 'given'.")
    given = {f"{section}.{key}" for section in ("model", "train") for key in before.get(section) or {}}
    settings = dataclasses.replace(build(Settings, values), given=frozenset(given))
    for name in settings.tune.space:
        # A name that cannot be set would be found out only by the first trial.
        plain: Any = settings.as_dict()
        for part in name.split("."):
            if not isinstance(plain, dict) or part not in plain:
                raise SettingsError(f"tune.space: there is no setting '{name}' to search.")
            plain = plain[part]
    if settings.data.name != Path(settings.data.name).name:
        raise SettingsError(f"data.name: {settings.data.name!r} is not a plain folder name.")
    return settings


def load_settings(path: Path | str = "params.yaml") -> Settings:
    """Read and check params.yaml.

    Raises:
        SettingsError: no such file, not YAML, or a setting that is unknown, missing or impossible; names it and the file.
    """
    path = Path(path)
    if not path.is_file():
        raise SettingsError(f"There is no {path} here ({Path.cwd()}). Run gantry in the root of a Gantry checkout.")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        settings = parse_settings(values or {})
    except yaml.YAMLError as error:
        raise SettingsError(f"{path} is not YAML: {error}") from error
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from None
    uri = os.environ.get("GANTRY_TRACKING_URI", settings.track.uri)
    if uri.startswith("sqlite:///") and not uri.startswith("sqlite:////"):
        # Ray's workers run elsewhere: a relative path would name another file there.
        uri = f"sqlite:///{path.parent.resolve() / uri.removeprefix('sqlite:///')}"
    return dataclasses.replace(settings, track=dataclasses.replace(settings.track, uri=uri))
