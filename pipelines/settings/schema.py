"""params.yaml, typed and checked whole before anything runs."""

import dataclasses
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from gan_core.config import as_dict, build, check, check_choice, check_least
from gan_core.data import DatasetInfo, PreparedDataset
from gan_core.errors import SettingsError, nearest
from gan_core.families import FAMILIES, ImageShape, check_family, family_config
from gan_core.families.translation import TranslationFamily
from gan_core.metrics.between import check_domains
from gan_core.metrics.features import check_count
from gan_core.metrics.inception import FEATURES
from gan_core.presets.choose import Choice, choose
from gan_core.presets.recipes import RECIPES
from gan_core.training.config import FREE_TO_CHANGE, TrainConfig
from pipelines.settings.data import DataSettings
from pipelines.settings.flow import FlowSettings
from pipelines.settings.ingest import DERIVED, IngestSettings
from pipelines.settings.params import read_params
from pipelines.settings.ranges import Range
from pipelines.settings.tracking_uri import check_uri, tracking_uri

NOT_SEARCHED = frozenset(
    {"model.family", "model.preset", *(f"train.{name}" for name in (*FREE_TO_CHANGE, "num_workers", "max_failures"))}
)
"""Settings of model and train that make no difference between trials, or that no trial could change."""
_SPLIT = re.compile(r"\w[\w.-]*")


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """The family and its own settings."""

    family: str
    """What to train: dcgan, biggan, stylegan2 ... (README, "Families")."""
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

    def check_batch(self) -> None:
        """Raise SettingsError unless the batch divides over every number of workers that Ray may choose."""
        least, most = self.workers
        if least == most:
            self.check_workers(least)
        # More workers than images is wrong anyway: one such number stands for all.
        sizes = range(least, min(most, self.batch + 1) + 1)
        wrong = [str(size) for size in sizes if self.batch % (size * self.accumulate)]
        check(
            not wrong,
            f"train.batch: {self.batch} (in {self.accumulate} micro-batches) does not divide over "
            f"{', '.join(wrong[:5])}{' ...' if len(wrong) > 5 else ''} workers, and train.num_workers [{least}, {most}] "
            f"allows every number between. Narrow it, or choose a batch that divides over each.",
        )

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
    """Of what the search draws, and of its measurements."""
    space: dict[str, Range] = field(default_factory=dict)
    """Settings to search, by their dotted name in this file. ``auto`` there is what the family has for it."""

    def __post_init__(self) -> None:
        check_least(self, 0, "trials", "seed")
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
    split: str = "auto"
    """Which real pictures. auto: the test split of what is translated, where there is one; train otherwise."""
    features: int = 2048
    """Width of the Inception features: 2048 is what papers publish."""
    batch: int = 32
    """Pictures in one pass of the feature network."""
    seed: int = 0
    """Names the generated pictures."""

    def __post_init__(self) -> None:
        check_least(self, 2, "samples", "real")
        check_least(self, 1, "batch")
        check_least(self, 0, "seed")
        check(bool(_SPLIT.fullmatch(self.split)), f"split: {self.split!r} is no name of a split (train, test).")
        check_choice(self, FEATURES, "features")

    def split_for(self, splits: Collection[str], *, translates: bool) -> str:
        """The split to measure on, of data with ``splits``, a generator that ``translates`` or makes images from noise."""
        if self.split != "auto":
            return self.split
        return "test" if translates and "test" in splits else "train"


@dataclass(frozen=True, kw_only=True)
class TrackSettings:
    """Where runs are tracked."""

    uri: str = "sqlite:///var/mlflow.db"
    """MLflow tracking URI; a relative SQLite path counts from the checkout. GANTRY_TRACKING_URI, or
    else MLFLOW_TRACKING_URI, in the environment wins."""
    experiment: str = "gantry"
    """MLflow experiment that the runs belong to."""

    def __post_init__(self) -> None:
        check_uri(self.uri, "uri")
        check(bool(self.experiment.strip()), "experiment: an MLflow experiment needs a name.")


@dataclass(frozen=True, kw_only=True)
class RegisterSettings:
    """The registered model."""

    name: str = "gantry"
    """Of the registered model in MLflow."""

    def __post_init__(self) -> None:
        # A name has to be one part of models:/NAME/VERSION, and to stand in a query of MLflow's between quotes.
        plain = re.fullmatch(r"[\w.-][\w. -]*", self.name) and self.name not in (".", "..")
        check(
            bool(plain), f"name: {self.name!r} cannot name an MLflow model: use letters, digits, spaces and _ . - only."
        )


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
    flow: FlowSettings = field(default_factory=FlowSettings)
    given: frozenset[str] = frozenset()
    """Dotted names of what was written out in the sections model and train; the rest stands at its default."""

    def choices(self, info: DatasetInfo, device: torch.device) -> tuple[list[Choice], list[Choice]]:
        """What ``model.preset: auto`` chooses for this data and device, and what it would have chosen otherwise than
        params.yaml says, which stays."""
        given = {name: self.value(name) for name in self.given - {"model.family", "model.preset"}}
        workers = self.train.workers[0]
        found = choose(self.model.family, info, device, self.train.steps, given=given, workers=workers)

        def stands(choice: Choice) -> bool:
            value = self.value(choice.name)
            # Of a section a choice says a part.
            return (
                any(value[k] != v for k, v in choice.value.items())
                if isinstance(value, dict)
                else value != choice.value
            )

        chosen = [choice for choice in found if choice.name not in self.given]
        return chosen, [choice for choice in found if choice.name in self.given and stands(choice)]

    def with_values(self, values: Mapping[str, Any]) -> "Settings":
        """These settings with some replaced by dotted name (``train.generator_lr``), checked again."""
        return parse_settings(_replaced(self.as_dict(), values))

    def value(self, name: str) -> Any:
        """The value of one setting by its dotted name, as in params.yaml; raises SettingsError when there is none."""
        place: Any = self.as_dict()
        for part in name.split("."):
            if not isinstance(place, dict):
                raise SettingsError(f"There is no setting '{name}'.")
            if part not in place:
                raise SettingsError(f"There is no setting '{name}'.{nearest(part, place)}")
            place = place[part]
        return place

    def check_pictures(self) -> None:
        """Raise SettingsError when the family cannot learn from the pictures that ingestion is to prepare.

        With ``model.preset: auto`` that is not known before the data is. Builds the networks without their memory, which
        takes some families seconds.
        """
        kinds, kind, pairing = FAMILIES[self.model.family].kinds, self.ingest.kind, self.ingest.pairing
        # That pictures are pairs no layout says: auto never finds any.
        wanted = kind in kinds or (kind == "auto" and kinds != {"paired"})
        check(
            wanted,
            f"ingest.kind: {self.model.family} learns from {' or '.join(sorted(kinds))} data, and this is {kind}. Set it to "
            f"{sorted(kinds)[0]}, or choose another model.family.",
        )
        if self.model.preset == "none":
            height, width = self.ingest.size
            # How many classes or domains there are, only the data tells: some, so that the shape alone is judged.
            some = 0 if pairing else 2 if kinds == {"unpaired"} else 10
            shape = ImageShape(
                channels=self.ingest.channels,
                height=height,
                width=width,
                classes=some,
                condition_channels=pairing.channels if pairing else 0,
                derived=pairing.how if pairing and pairing.how in DERIVED else "",
            )
            check_family(self.model.family, self.model.config, shape)

    def check_data(self, dataset: PreparedDataset) -> None:
        """Whether all that is to come can be done with this data.

        Raises:
            SettingsError: the family does not learn from such data or cannot make such pictures, there is no split to
                evaluate on, or fewer pictures in it than are to be measured.
            DataError: a domain that has too few pictures to be measured.
        """
        info = dataset.info
        FAMILIES[self.model.family].check_data(info, self.model.config)
        check_family(self.model.family, self.model.config, ImageShape.of(info))
        split = self.evaluate.split
        check(
            split == "auto" or split in info.splits,
            f"evaluate.split: the prepared dataset has no split '{split}'; it has {', '.join(sorted(info.splits))}. "
            "Change it, or hold a test split out with ingest.test_share.",
        )
        if not FAMILIES[self.model.family].can(TranslationFamily):
            split = self.evaluate.split_for(info.splits, translates=False)
            check_count("evaluate.real", self.evaluate.real or 0, split, info.splits[split])
        elif info.kind != "paired":
            for name in {"train", self.evaluate.split_for(info.splits, translates=True)}:
                check_domains(dataset, name)

    def as_dict(self) -> dict[str, Any]:
        """As in params.yaml."""
        sections = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "given"}
        return {n: v.as_dict() if isinstance(v, ModelSettings) else as_dict(v) for n, v in sections.items()}

    def for_workers(self) -> dict[str, Any]:
        """As :meth:`as_dict`, without the tracking address: workers need none, Ray keeps what it sends them on disk, and
        an address from the environment may hold a password."""
        return {**self.as_dict(), "track": as_dict(TrackSettings(experiment=self.track.experiment))}


def parse_settings(values: Mapping[str, Any]) -> Settings:
    """Settings from plain values; raises SettingsError naming the key and the nearest valid one."""
    settings = _parse(values)
    tune = values.get("tune")
    _check_space(settings, automatic=isinstance(tune, Mapping) and tune.get("space") == "auto")
    return settings


def _parse(values: Mapping[str, Any]) -> Settings:
    """The settings, all checked but for what a search would make of them."""
    before, values = values, dict(values)
    model = values.get("model")
    if isinstance(model, Mapping):
        if not isinstance(model.get("family"), str):
            missing = "Missing setting 'model.family'." if "family" not in model else "model.family: expected a name."
            raise SettingsError(f"{missing} Valid: {', '.join(FAMILIES)}.")
        own = {key: value for key, value in model.items() if key not in ("family", "preset")}
        values["model"] = {"family": model["family"], "config": family_config(model["family"], own)}
        if "preset" in model:
            values["model"]["preset"] = model["preset"]
    tune = values.get("tune")
    if isinstance(tune, Mapping) and tune.get("space") == "auto" and isinstance(model, Mapping):
        values["tune"] = {**tune, "space": RECIPES[model["family"]].space(values["model"]["config"])}
    if "given" in values:
        raise SettingsError("Unknown setting 'given'.")
    settings = build(Settings, values)
    given = frozenset(f"{section}.{key}" for section in ("model", "train") for key in before[section])
    if settings.model.preset == "none":
        settings.train.check_batch()
    return dataclasses.replace(settings, given=given)


def _check_space(settings: Settings, *, automatic: bool) -> None:
    """Raise SettingsError for a search that could not try what it is to try, or would try it to no purpose."""
    for name, limits in settings.tune.space.items():
        try:
            value = settings.value(name)
        except SettingsError as error:
            raise SettingsError(f"tune.space: {error}") from None
        if isinstance(value, dict):
            raise SettingsError(f"tune.space: '{name}' is a section: search one of {', '.join(value)} in it.")
        if name.partition(".")[0] not in ("model", "train") or name in NOT_SEARCHED:
            raise SettingsError(
                f"tune.space: '{name}' makes no difference between trials. Search what model and train compute with."
            )
        for end in limits.ends():
            try:
                _parse(_replaced(settings.as_dict(), {name: end}))
            except SettingsError as error:
                raise SettingsError(f"tune.space.{name}: {end} cannot be tried. {error}") from None
        # What a preset is to choose is not known yet; it is checked again when it has chosen.
        known = settings.model.preset == "none" or name in settings.given
        if settings.tune.trials and known and not limits.contains(value):
            remedy = "Widen the range or change the setting."
            if automatic:
                remedy = f"Change the setting, or write the ranges out instead of auto ({limits.low} to {limits.high} there)."
            raise SettingsError(f"tune.space: the setting {name} is {value}, outside its own range. {remedy}")


def _replaced(plain: dict[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """``plain``, its entries at the dotted names of ``values`` replaced; raises SettingsError where there is no section."""
    for name, value in values.items():
        place = plain
        *sections, key = name.split(".")
        for section in sections:
            if not isinstance(place.get(section), dict):
                raise SettingsError(f"There is no setting '{name}': '{section}' is not a section.")
            place = place[section]
        place[key] = value
    return plain


def load_settings(path: Path | str = "params.yaml") -> Settings:
    """Read and check params.yaml.

    Raises:
        SettingsError: no such file, not YAML, or a setting that is unknown, missing or impossible; names it and the file.
    """
    path = Path(path)
    if not path.is_file():
        raise SettingsError(f"There is no {path} here ({Path.cwd()}). Run gantry in the root of a Gantry checkout.")
    values = read_params(path)
    try:
        settings = parse_settings(values)
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from None
    uri = tracking_uri(settings.track.uri, path.parent)
    return dataclasses.replace(settings, track=dataclasses.replace(settings.track, uri=uri))
