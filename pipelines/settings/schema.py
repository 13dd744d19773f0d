"""The schema of params.yaml. All settings are typed, and checked before anything runs."""

import dataclasses
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from gan_core.config import as_dict, build, check, check_at_least, check_choice
from gan_core.data import DatasetInfo, PreparedDataset
from gan_core.errors import SettingsError, did_you_mean
from gan_core.families import FAMILIES, ImageShape, check_family, family_config
from gan_core.families.translation import TranslationFamily
from gan_core.metrics.domain_translation import check_domains
from gan_core.metrics.features import check_real_count
from gan_core.metrics.objective import OBJECTIVES, PATH_LENGTHS
from gan_core.metrics.protocol import FEATURES
from gan_core.presets.choose import Choice, LengthChoices, choose
from gan_core.presets.recipes import RECIPES
from gan_core.training.config import CHANGEABLE_ON_RESUME, TrainConfig, check_one_length
from pipelines.settings.data import DataSettings
from pipelines.settings.flow import FlowSettings
from pipelines.settings.ingest import DERIVED, IngestSettings
from pipelines.settings.params import read_params
from pipelines.settings.promote import PromoteSettings
from pipelines.settings.ranges import Range
from pipelines.settings.storage import StorageSettings
from pipelines.settings.tracking_uri import check_uri, tracking_uri

NOT_SEARCHED = frozenset(
    {
        "model.family",
        "model.preset",
        "train.start_from",
        *(f"train.{name}" for name in (*CHANGEABLE_ON_RESUME, "num_workers", "max_failures")),
    }
)
"""Settings of model and train that a search cannot vary, because they do not affect a trial or a trial cannot set them."""
_SPLIT = re.compile(r"\w[\w.-]*")


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """The model family and its settings."""

    family: str
    """Model family to train: dcgan, biggan, stylegan2 ... (README, "Families")."""
    config: Any
    """The family's typed configuration."""
    preset: Literal["none", "auto"] = "none"
    """``auto``: choose the settings of model and train that params.yaml leaves out from the data and the device. ``none``: use
    their defaults."""

    def as_dict(self) -> dict[str, Any]:
        """The section as in params.yaml, with the family's settings beside its name."""
        return {"family": self.family, "preset": self.preset, **as_dict(self.config)}


@dataclass(frozen=True, kw_only=True)
class TrainSettings(TrainConfig):
    """Settings of training, and of its distribution by Ray Train."""

    num_workers: int | tuple[int, int] = 1
    """Number of Ray Train workers, one for each GPU if the machines have GPUs. A pair [min, max] makes training elastic."""
    max_failures: int = 3
    """Number of crashed workers that are replaced before the stage fails. A worker whose node was lost or taken away does not
    count: on a cluster, that is always survived."""

    def __post_init__(self) -> None:
        super().__post_init__()
        least, most = self.workers
        check(
            1 <= least <= most,
            f"num_workers: must be at least 1, and a pair must be [min, max], got {self.num_workers}.",
        )
        check_at_least(self, 0, "max_failures")

    @property
    def workers(self) -> tuple[int, int]:
        """Smallest and largest number of workers."""
        return self.num_workers if isinstance(self.num_workers, tuple) else (self.num_workers, self.num_workers)

    def check_batch(self) -> None:
        """Raise SettingsError unless the batch divides evenly over every number of workers that Ray may choose."""
        least, most = self.workers
        if least == most:
            self.check_workers(least)
        # More workers than images never divide evenly: one such number is enough to check.
        sizes = range(least, min(most, self.batch + 1) + 1)
        wrong = [str(size) for size in sizes if self.batch % (size * self.accumulate)]
        check(
            not wrong,
            f"train.batch: {self.batch} (in {self.accumulate} micro-batches) does not divide evenly over "
            f"{', '.join(wrong[:5])}{' ...' if len(wrong) > 5 else ''} workers, and train.num_workers [{least}, {most}] "
            "allows every number between. Narrow it, or choose a batch that divides evenly over each.",
        )

    def trainer_config(self) -> TrainConfig:
        """The settings of gan_core's trainer, without those of Ray."""
        return TrainConfig(**{f.name: getattr(self, f.name) for f in dataclasses.fields(TrainConfig)})


@dataclass(frozen=True, kw_only=True)
class TuneSettings:
    """The hyperparameter search."""

    trials: int = 4
    """Number of search trials, including the first, which uses the settings of params.yaml. 0 skips the search."""
    steps: int = 200
    """Training steps of a trial that is not stopped early."""
    report_every: int = 100
    """Steps between two FID measurements of a trial."""
    samples: int = 128
    """Number of generated pictures, and of real ones, in one FID measurement on the train split."""
    features: int = 2048
    """Width of the Inception features for FID: 64, 192, 768 or 2048."""
    concurrent: int = 2
    """Trials that run in parallel. Each gets an equal share of the CPUs and GPUs."""
    gpus_per_trial: float | None = None
    """Share of a GPU for each trial, above 0 and at most 1, so that several trials use one GPU; its memory is not divided.
    null: as many trials share a GPU as are needed to run ``concurrent`` trials. An error on machines without a GPU."""
    reduction: int = 2
    """Reduction factor of ASHA: at each rung, 1/reduction of the trials continue."""
    seed: int = 0
    """Seed of the search and of its measurements."""
    space: dict[str, Range] = field(default_factory=dict)
    """Search range by dotted name of the setting: {train.generator_lr: {type: log, low: 5.0e-5, high: 1.0e-3}}. ``auto`` is
    the family's own search space."""

    @property
    def searches(self) -> bool:
        """Whether there is anything to search."""
        return self.trials > 0 and bool(self.space)

    def __post_init__(self) -> None:
        check_at_least(self, 0, "trials", "seed")
        check_at_least(self, 1, "steps", "report_every", "concurrent")
        check_at_least(self, 2, "samples", "reduction")
        check(
            self.report_every <= self.steps,
            f"report_every: must be at most steps ({self.steps}), got {self.report_every}.",
        )
        check_choice(self, FEATURES, "features")
        if (share := self.gpus_per_trial) is not None:
            check(0.01 <= share <= 1, f"gpus_per_trial: must be null or a share of a GPU from 0.01 to 1, got {share}.")


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """The evaluation of the trained generator."""

    samples: int = 1000
    """Number of generated pictures; papers use 50,000."""
    real: int | None = None
    """Number of real pictures; null: all of the split."""
    split: str = "auto"
    """Split of the real pictures. ``auto``: train, or for a family that translates pictures test, if the data has it."""
    features: int = 2048
    """Width of the Inception features: 64, 192, 768 or 2048. Papers use 2048."""
    batch: int = 32
    """Batch size of the feature network."""
    seed: int = 0
    """Seed of the generated pictures."""
    objective: str = "fid"
    """Figure that the search minimises or maximises and that promotion compares: fid, kid, precision, recall, coverage ...
    Whether higher is better follows from the figure. It must be one that is measured for the family and the data."""
    path_samples: int = 0
    """Steps for each perceptual path length, in z and w, two pictures each; 0: it is not measured. Papers use 50,000."""

    def __post_init__(self) -> None:
        check_at_least(self, 2, "samples", "real")
        check_at_least(self, 1, "batch")
        check_at_least(self, 0, "seed", "path_samples")
        check(
            bool(_SPLIT.fullmatch(self.split)),
            f"split: must be auto or a split such as train or test, got {self.split!r}.",
        )
        check_choice(self, FEATURES, "features")
        check(
            self.objective in OBJECTIVES,
            f"objective: there is no figure '{self.objective}'.{did_you_mean(self.objective, OBJECTIVES)} "
            f"Valid: {', '.join(OBJECTIVES)}.",
        )
        check(
            self.objective not in PATH_LENGTHS or self.path_samples > 0,
            f"objective: {self.objective} is measured only if evaluate.path_samples is above 0. Set it to 1000, for example.",
        )

    def split_for(self, splits: Collection[str], *, translates: bool) -> str:
        """The split to evaluate on. ``splits``: those of the data; ``translates``: whether the generator translates images."""
        if self.split != "auto":
            return self.split
        return "test" if translates and "test" in splits else "train"


@dataclass(frozen=True, kw_only=True)
class TrackSettings:
    """Tracking with MLflow."""

    uri: str = "sqlite:///var/mlflow.db"
    """MLflow tracking URI. A relative SQLite path is relative to the checkout. The environment variables GANTRY_TRACKING_URI
    and MLFLOW_TRACKING_URI, in this order, take precedence."""
    experiment: str = "gantry"
    """MLflow experiment of the runs."""

    def __post_init__(self) -> None:
        check_uri(self.uri, "uri")
        check(bool(self.experiment.strip()), "experiment: must not be empty. Give the MLflow experiment a name.")


@dataclass(frozen=True, kw_only=True)
class RegisterSettings:
    """The registered model."""

    name: str = "gantry"
    """Name of the registered model in MLflow."""
    data_licence: str = ""
    """Licence of the data and what it asks for, for the model card."""
    intended_use: str = ""
    """What the generator is meant for, for the model card."""

    def __post_init__(self) -> None:
        # The name is one part of models:/NAME/VERSION, and appears between quotes in MLflow queries.
        plain = re.fullmatch(r"[\w.-][\w. -]*", self.name) and self.name not in (".", "..")
        check(
            bool(plain),
            f"name: {self.name!r} is not a valid name of a registered model. Use letters, digits, _ . - and spaces, "
            "except at the start.",
        )


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All sections of params.yaml."""

    data: DataSettings
    ingest: IngestSettings
    model: ModelSettings
    train: TrainSettings
    tune: TuneSettings
    evaluate: EvaluateSettings
    register: RegisterSettings
    track: TrackSettings
    promote: PromoteSettings = field(default_factory=PromoteSettings)
    flow: FlowSettings = field(default_factory=FlowSettings)
    storage: StorageSettings = field(default_factory=StorageSettings)
    given: frozenset[str] = frozenset()
    """Dotted names of the settings of model and train that params.yaml sets; the others have their defaults."""

    def choices(self, info: DatasetInfo, device: torch.device) -> tuple[list[Choice], list[Choice]]:
        """Return the choices of ``model.preset: auto`` for this data and device.

        The second list holds choices that differ from a value in params.yaml; the value in params.yaml takes precedence.
        """
        given = {name: self.value(name) for name in self.given - {"model.family", "model.preset"}}
        workers = self.train.workers[0]
        found = choose(self.model.family, info, device, self.train.known_steps, given=given, workers=workers)

        def differs(choice: Choice) -> bool:
            value = self.value(choice.name)
            # The choice for a section may name some of its settings only.
            return (
                any(value[k] != v for k, v in choice.value.items())
                if isinstance(value, dict)
                else value != choice.value
            )

        chosen = [choice for choice in found if choice.name not in self.given]
        return chosen, [choice for choice in found if choice.name in self.given and differs(choice)]

    def length_choices(self, given: Collection[str]) -> LengthChoices:
        """What ``model.preset: auto`` chooses once ``train.minutes`` are a number of steps, except for the names ``given``."""
        train = self.train
        return LengthChoices(
            family=self.model.family,
            batch=train.batch,
            discriminator_steps=train.discriminator_steps,
            given=frozenset(given),
        )

    def with_steps(self, steps: int) -> "Settings":
        """Return a copy that trains ``steps`` steps, in place of ``train.minutes``; what is given stays given."""
        return dataclasses.replace(self, train=dataclasses.replace(self.train, steps=steps, minutes=None))

    def with_values(self, values: Mapping[str, Any]) -> "Settings":
        """Return a copy with ``values`` set by dotted name (``train.generator_lr``), checked again."""
        return parse_settings(_replaced(self.as_dict(), values))

    def value(self, name: str) -> Any:
        """The value of a setting by its dotted name, as in params.yaml; raises SettingsError if the setting is unknown."""
        place: Any = self.as_dict()
        for part in name.split("."):
            if not isinstance(place, dict):
                raise SettingsError(f"Unknown setting '{name}'.")
            if part not in place:
                raise SettingsError(f"Unknown setting '{name}'.{did_you_mean(part, place)}")
            place = place[part]
        return place

    def check_pictures(self) -> None:
        """Raise SettingsError if the family cannot train on pictures as ``ingest`` prepares them.

        With ``model.preset: auto`` only the kind of data is checked: the shape needs the prepared data. Builds the networks
        without allocating them, which takes seconds for some families.
        """
        kinds, kind, pairing = FAMILIES[self.model.family].kinds, self.ingest.kind, self.ingest.pairing
        # auto never detects pairs: no layout shows that pictures are pairs.
        wanted = kind in kinds or (kind == "auto" and kinds != {"paired"})
        check(
            wanted,
            f"ingest.kind: {self.model.family} trains on {' or '.join(sorted(kinds))} data, got {kind}. Set ingest.kind to "
            f"{sorted(kinds)[0]}, or choose another model.family.",
        )
        if self.model.preset == "none":
            height, width = self.ingest.size
            # The number of classes or domains is not known before the data is; any number serves to check the shape.
            some = 0 if pairing else 2 if kinds == {"unpaired"} else 10
            shape = ImageShape(
                channels=self.ingest.channels,
                height=height,
                width=width,
                classes=some,
                condition_channels=pairing.channels if pairing else 0,
                derived=pairing.pairs if pairing and pairing.pairs in DERIVED else "",
            )
            check_family(self.model.family, self.model.config, shape)

    def check_data(self, dataset: PreparedDataset) -> None:
        """Check that the prepared data suits all later stages.

        Raises:
            SettingsError: the family cannot train on this kind of data or make pictures of this shape, the data lacks the
                split to evaluate on, or the split has fewer pictures than ``evaluate.real``.
            DataError: a domain has too few pictures to be measured.
        """
        info = dataset.info
        FAMILIES[self.model.family].check_data(info, self.model.config)
        check_family(self.model.family, self.model.config, ImageShape.of(info))
        split = self.evaluate.split
        check(
            split == "auto" or split in info.splits,
            f"evaluate.split: the prepared data has no split '{split}'; it has {', '.join(sorted(info.splits))}. "
            "Choose one of these, or hold out a test split with ingest.test_share.",
        )
        if not FAMILIES[self.model.family].can(TranslationFamily):
            split = self.evaluate.split_for(info.splits, translates=False)
            check_real_count("evaluate.real", self.evaluate.real or 0, split, info.splits[split])
        elif info.kind != "paired":
            for name in {"train", self.evaluate.split_for(info.splits, translates=True)}:
                check_domains(dataset, name)

    def as_dict(self) -> dict[str, Any]:
        """The sections as in params.yaml."""
        sections = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "given"}
        return {n: v.as_dict() if isinstance(v, ModelSettings) else as_dict(v) for n, v in sections.items()}

    def for_workers(self) -> dict[str, Any]:
        """As :meth:`as_dict`, without the tracking URI: it may hold a password, Ray writes what it sends to workers to disk,
        and workers do not need it."""
        return {**self.as_dict(), "track": as_dict(TrackSettings(experiment=self.track.experiment))}


def parse_settings(values: Mapping[str, Any]) -> Settings:
    """Parse and check settings; raises SettingsError that names the setting and, if unknown, the nearest valid name."""
    settings = _parse(values)
    tune = values.get("tune")
    automatic = isinstance(tune, Mapping) and tune.get("space") == "auto"
    space = {name: _checked_range(name, limits, settings, automatic) for name, limits in settings.tune.space.items()}
    return dataclasses.replace(settings, tune=dataclasses.replace(settings.tune, space=space))


def _parse(values: Mapping[str, Any]) -> Settings:
    """Parse and check all settings except ``tune.space``."""
    before, values = values, dict(values)
    model = values.get("model")
    if isinstance(model, Mapping):
        if not isinstance(model.get("family"), str):
            missing = "Missing setting 'model.family'." if "family" not in model else "model.family: must be a name."
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


def _checked_range(name: str, limits: Range, settings: Settings, automatic: bool) -> Range:
    """The range ``limits`` of the setting ``name``, whose choices have the type of the setting: YAML 1.1 reads 1e-4 as text.

    Args:
        name: dotted name.
        limits: as in ``tune.space``.
        settings: all of params.yaml.
        automatic: whether the range comes from ``tune.space: auto``.

    Raises:
        SettingsError: it holds an invalid value, or the setting does not affect a trial.
    """
    try:
        value = settings.value(name)
    except SettingsError as error:
        raise SettingsError(f"tune.space: {error}") from None
    if isinstance(value, dict):
        raise SettingsError(f"tune.space: '{name}' is a section. Search one of its settings: {', '.join(value)}.")
    if name.partition(".")[0] not in ("model", "train") or name in NOT_SEARCHED:
        raise SettingsError(
            f"tune.space: '{name}' cannot be searched: all trials share it. Search another setting of model or train."
        )
    ends = []
    for end in limits.ends():
        try:
            ends.append(_parse(_replaced(settings.as_dict(), {name: end})).value(name))
        except SettingsError as error:
            raise SettingsError(f"tune.space.{name}: {end} is not a valid value. {error}") from None
    if limits.type == "choice":
        limits = dataclasses.replace(limits, values=tuple(ends))
    # The preset chooses later; its choices are checked then.
    known = settings.model.preset == "none" or name in settings.given
    if settings.tune.trials and known and not limits.contains(value):
        remedy = "Widen the range or change the setting."
        if automatic:
            remedy = f"Change the setting, or write your own ranges in place of auto ({limits.low} to {limits.high})."
        raise SettingsError(f"tune.space: {name} is {value}, outside its search range. {remedy}")
    return limits


def _replaced(plain: dict[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Set ``values`` in ``plain`` by dotted name and return it; raises SettingsError if a section is unknown."""
    for name, value in values.items():
        place = plain
        *sections, key = name.split(".")
        for section in sections:
            if not isinstance(place.get(section), dict):
                raise SettingsError(f"Unknown setting '{name}': '{section}' is not a section.")
            place = place[section]
        place[key] = value
    return plain


def load_settings(path: Path | str = "params.yaml") -> Settings:
    """Read and check params.yaml.

    Raises:
        SettingsError: the file does not exist or is not YAML, or a setting is unknown, missing or invalid. The message names
            the setting and the file.
    """
    path = Path(path)
    if not path.is_file():
        raise SettingsError(
            f"{path} not found in {Path.cwd()}. Run gantry in the root of a project, which holds params.yaml."
        )
    values = read_params(path)
    try:
        if isinstance(train := values.get("train"), Mapping):
            check_one_length(train)
        settings = parse_settings(values)
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from None
    uri = tracking_uri(settings.track.uri, path.parent)
    return dataclasses.replace(settings, track=dataclasses.replace(settings.track, uri=uri))
