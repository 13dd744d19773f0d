"""The schema of params.yaml: all settings are checked, and errors name the setting and the nearest valid name."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from gan_core.data import PreparedDataset
from gan_core.errors import DataError, SettingsError
from gan_core.families import FAMILIES
from gan_core.presets.recipes import RECIPES
from pipelines.settings.schema import load_settings
from pipelines.settings.tracking_uri import URI_VARIABLES
from tests.datasets import blobs, write_prepared
from tests.pipelines.settings_example import ROOT, small_settings


def changed(tmp_path: Path, **values: object) -> Path:
    """A params.yaml with sections updated by ``values``."""
    plain = yaml.safe_load((ROOT / "params.yaml").read_text())
    for section, update in values.items():
        plain[section] = {**plain.get(section, {}), **update} if isinstance(update, dict) else update
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(plain))
    return path


def test_the_projects_own_settings_are_valid() -> None:
    settings = load_settings(ROOT / "params.yaml")
    assert settings.model.family == "dcgan"
    assert settings.train.workers == (1, 1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train": {"setps": 3}}, r"Unknown setting 'train.setps'. Did you mean 'steps'\?"),
        ({"model": {"widht": 3}}, r"Unknown setting 'model.widht'. Did you mean 'width'\?"),
        (
            {"model": {"family": "pix2pix", "latent": 9, "prior": "normal"}},
            r"model.init, model.latent, model.loss, model.prior: not a setting of pix2pix",
        ),
        ({"train": {"collapse_diversity": 1.5}}, r"train.collapse_diversity: must lie in \[0, 1\)"),
        (
            {"train": {"steps": 9, "minutes": 5}},
            r"train.steps and train.minutes: both are given \(9 and 5\).* Remove one",
        ),
        ({"train": {"seed": -1}}, r"train.seed: must be at least 0"),
        ({"model": {"family": "dcgam"}}, r"unknown family 'dcgam'. Did you mean 'dcgan'\?"),
        ({"trian": {}}, r"Unknown setting 'trian'. Did you mean 'train'\?"),
        ({"train": {"augment": {"target": 0.5}}}, r"train.augment.target: only for kind ada, but kind is none"),
        (
            {"train": {"augment": {"kind": "ada", "strength": 0.2, "target": 0.5}}},
            r"strength: a fixed strength excludes",
        ),
        ({"train": {"batch": "1.5e0"}}, r"train.batch: expected a whole number, got '1.5e0'"),
        ({"train": {"batch": "many"}}, r"train.batch: expected a whole number, got 'many'"),
        ({"train": {"generator_lr": -1}}, r"train.generator_lr: must be above 0"),
        ({"train": {"num_workers": [3, 1]}}, r"train.num_workers: must be at least 1, and a pair"),
        ({"tune": {"space": {"train.lr": {"type": "log", "low": 1, "high": 2}}}}, r"Unknown setting 'train.lr'"),
        ({"tune": {"space": {"model.slope": {"type": "log", "low": 0, "high": 2}}}}, r"above 0 on a log scale"),
        (
            {"tune": {"gpus_per_trial": 0}},
            r"tune.gpus_per_trial: must be null or a share of a GPU from 0.01 to 1, got 0",
        ),
        ({"tune": {"gpus_per_trial": 2.0}}, r"tune.gpus_per_trial: must be null or a share .* got 2.0"),
        ({"tune": {"features": 100}}, r"tune.features: must be 64, 192, 768 or 2048"),
        ({"evaluate": {"samples": 1}}, r"evaluate.samples: must be at least 2"),
        ({"data": {"name": "../elsewhere"}}, r"data.name: must be the plain name of a folder .*, got"),
        ({"data": {"name": ""}}, r"data.name: must be the plain name of a folder .*, got ''"),
        ({"data": {"name": ".."}}, r"data.name: must be the plain name of a folder .*, got '\.\.'"),
        ({"data": {"name": "pets\n"}}, r"data.name: must be the plain name of a folder .*, got"),
        ({"data": {"name": "n" * 300}}, r"data.name: must be at most 200 bytes long, got 300"),
        ({"data": {"name": "x", "max_unpacked_gib": 0}}, r"data.max_unpacked_gib: must be above 0"),
        (
            {"evaluate": {"objective": "recal"}},
            r"evaluate.objective: there is no figure 'recal'. Did you mean 'recall'\?",
        ),
        (
            {"evaluate": {"objective": "ppl_w"}},
            r"evaluate.objective: ppl_w is measured only if evaluate.path_samples is",
        ),
        ({"evaluate": {"split": "a/b"}}, r"evaluate.split: must be auto or a split .*, got 'a/b'"),
        ({"register": {"name": ""}}, r"register.name: '' is not a valid name"),
        ({"register": {"name": "a/b"}}, r"register.name: 'a/b' is not a valid name"),
        ({"register": {"name": "a:b"}}, r"register.name: 'a:b' is not a valid name"),
        ({"register": {"name": "Tom's birds"}}, r"register.name: \"Tom's birds\" is not a valid name"),
        ({"register": {"name": " birds"}}, r"register.name: ' birds' is not a valid name"),
        ({"register": {"name": ".."}}, r"register.name: '..' is not a valid name"),
        ({"track": {"uri": ""}}, r"track.uri: '' is not a tracking URI"),
        ({"track": {"uri": "htp://server"}}, r"track.uri: 'htp://server' is not a tracking URI"),
        ({"track": {"uri": "mlruns"}}, r"track.uri: 'mlruns' is not a tracking URI"),
        ({"track": {"experiment": " "}}, r"track.experiment: must not be empty"),
        ({"train": {"beta1": float("nan")}}, r"train.beta1: expected a finite number"),
        ({"train": [3]}, r"train: expected a mapping of settings, got \[3\]"),
        ({"train": 3}, r"train: expected a mapping of settings, got 3"),
        ({"model": [3]}, r"model: expected a mapping of settings, got \[3\]"),
        ({"model": None}, r"model: expected a mapping of settings, got None"),
        ({"model": {"family": ["dcgan"]}}, r"model.family: must be a name. Valid: .*dcgan"),
        ({"model": {"family": None}}, r"model.family: must be a name"),
        ({"model": {"family": 3}}, r"model.family: must be a name"),
        ({"train": {"batch": 16, "num_workers": 3}}, r"train.batch: 16 cannot be split evenly over 3 workers"),
        (
            {"train": {"batch": 16, "num_workers": [1, 5]}},
            r"train.batch: 16 .* does not divide evenly over 3, 5 workers",
        ),
    ],
)
def test_an_error_names_the_setting_and_the_file(tmp_path: Path, values: dict, message: str) -> None:
    path = changed(tmp_path, **values)
    with pytest.raises(SettingsError, match=message) as error:
        load_settings(path)
    assert str(path) in str(error.value)


def test_without_params_yaml_the_error_says_where_to_run(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="root of a project"):
        load_settings(tmp_path / "params.yaml")


RATE = "train.generator_lr"


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (
            {"train.augment": {"type": "choice", "values": [{}]}},
            r"is a section. Search one of its settings: kind",
        ),
        ({"evaluate.seed": {"type": "integer", "low": 0, "high": 2}}, r"'evaluate.seed' cannot be searched"),
        ({"train.steps": {"type": "integer", "low": 1, "high": 2000}}, r"'train.steps' cannot be searched"),
        ({"train.num_workers": {"type": "integer", "low": 1, "high": 2}}, r"'train.num_workers' cannot be searched"),
        ({"train.start_from": {"type": "choice", "values": [None, "a/1"]}}, r"'train.start_from' cannot be searched"),
        ({"model.family": {"type": "choice", "values": ["dcgan", "cgan"]}}, r"'model.family' cannot be searched"),
        ({"model.slope": {"type": "uniform", "low": 0, "high": 1.5}}, r"model.slope: 1.5 is not a valid value"),
        (
            {RATE: {"type": "uniform", "low": -1, "high": 1}},
            r"-1.0 is not a valid value. train.generator_lr: must be above 0",
        ),
        ({RATE: {"type": "log", "low": 1e-5, "high": float("inf")}}, r"inf is not a finite number"),
        (
            {"model.width": {"type": "uniform", "low": 8, "high": 64}},
            r"8.0 is not a valid value. .*expected a whole number",
        ),
        (
            {"model.width": {"type": "integer", "low": 8.5, "high": 64}},
            r"low: must be a whole number .* type integer",
        ),
        ({"model.loss": {"type": "choice", "values": ["non-saturating", "hinge"]}}, r"hinge is not a valid value"),
        ({RATE: {"type": "log", "low": 1e-3, "high": 1e-2}}, r"generator_lr is 0.0004, outside its search range"),
    ],
)
def test_an_invalid_search_space_is_refused(tmp_path: Path, space: dict, message: str) -> None:
    with pytest.raises(SettingsError, match=rf"tune.space.*{message}"):
        load_settings(changed(tmp_path, tune={"space": space}))


def test_choices_have_the_type_of_their_setting(tmp_path: Path) -> None:
    """YAML 1.1 reads 1e-4 as text."""
    path = changed(tmp_path, tune={"space": {RATE: {"type": "choice", "values": ["1e-4", "4e-4"]}}})
    assert load_settings(path).tune.space[RATE].values == (1e-4, 4e-4)


def test_a_range_may_exclude_a_setting_if_no_search_runs_or_a_preset_chooses_it(tmp_path: Path) -> None:
    space = {"train.generator_lr": {"type": "log", "low": 1e-3, "high": 1e-2}}
    load_settings(changed(tmp_path, tune={"trials": 0, "space": space}))
    plain = yaml.safe_load(changed(tmp_path, tune={"space": space}).read_text())
    plain["model"], plain["train"] = {"family": "dcgan", "preset": "auto"}, {"steps": 100}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(plain))
    load_settings(tmp_path / "params.yaml")


def test_a_picture_size_that_the_family_cannot_make_is_refused(tmp_path: Path) -> None:
    load_settings(changed(tmp_path)).check_pictures()
    settings = load_settings(changed(tmp_path, ingest={"size": [8, 8]}))
    with pytest.raises(SettingsError, match=r"not 8x8. Change ingest.size"):
        settings.check_pictures()
    load_settings(
        changed(tmp_path, model={"family": "dcgan", "preset": "auto"}, ingest={"size": [8, 8]})
    ).check_pictures()


def of_family(tmp_path: Path, family: str, **sections: dict) -> Path:
    """A params.yaml for ``family``, trained by its recipe."""
    recipe = {"steps": 10, **RECIPES[family].train}
    plain = yaml.safe_load(changed(tmp_path, tune={"space": "auto"}, **sections).read_text())
    plain["model"], plain["train"] = {"family": family}, {**recipe, **sections.get("train", {})}
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(plain))
    return path


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_a_search_space_that_contains_its_recipe(tmp_path: Path, family: str) -> None:
    settings = load_settings(of_family(tmp_path, family))
    assert list(settings.tune.space) == list(RECIPES[family].search)
    assert {"train.generator_lr", "train.discriminator_lr"} < set(settings.tune.space)
    assert settings.with_values({"tune.trials": 2}).tune.space == settings.tune.space


def test_an_error_names_a_setting_outside_the_familys_own_range(tmp_path: Path) -> None:
    path = of_family(tmp_path, "pix2pix", train={"generator_lr": 0.5})
    with pytest.raises(SettingsError, match=r"generator_lr is 0.5, outside .* in place of auto \(5e-05 to 0.001\)"):
        load_settings(path)


@pytest.mark.parametrize(
    ("family", "ingest", "message"),
    [
        ("pix2pix", {}, "ingest.kind: pix2pix trains on paired data, got auto. Set ingest.kind to paired"),
        ("pix2pix", {"kind": "unpaired"}, "ingest.kind: pix2pix trains on paired data, got unpaired"),
        ("cyclegan", {"kind": "labelled"}, "ingest.kind: cyclegan trains on unpaired data"),
        ("stargan", {"kind": "paired"}, "ingest.kind: stargan trains on domains or labelled data"),
        (
            "pix2pix",
            {"kind": "paired", "size": [6, 6]},
            "pix2pix needs pictures of at least 8 pixels per side, not 6x6",
        ),
        ("pix2pix", {"kind": "paired", "pairs": "greyscale", "channels": 3}, None),
        ("cyclegan", {"kind": "unpaired"}, None),
        ("cyclegan", {}, None),
        ("stargan", {"kind": "domains"}, None),
        ("dcgan", {"kind": "paired"}, None),
    ],
)
def test_the_ingest_section_must_suit_the_family(tmp_path, family: str, ingest: dict, message) -> None:
    settings = load_settings(of_family(tmp_path, family, ingest=ingest))
    if message is None:
        settings.check_pictures()
        return
    with pytest.raises(SettingsError, match=message):
        settings.check_pictures()


def test_prepared_data_of_a_kind_that_the_family_cannot_train_on_is_refused(tmp_path: Path) -> None:
    data = PreparedDataset(write_prepared(tmp_path / "data", blobs(16)))
    settings = load_settings(of_family(tmp_path, "cyclegan"))
    with pytest.raises(SettingsError, match=r"cyclegan learns from unpaired data, .* unlabelled. Correct ingest.kind"):
        settings.check_data(data)


def test_prepared_data_without_the_split_to_evaluate_on_is_refused(tmp_path: Path) -> None:
    data = PreparedDataset(write_prepared(tmp_path / "data", blobs(16)))
    small_settings().check_data(data)
    with pytest.raises(SettingsError, match=r"evaluate.split: the prepared data has no split 'tset'; it has train"):
        small_settings(evaluate__split="tset").check_data(data)


def test_more_real_pictures_than_the_data_has_are_refused(tmp_path: Path) -> None:
    data = PreparedDataset(write_prepared(tmp_path / "data", blobs(16)))
    small_settings(evaluate__real=16).check_data(data)
    message = r"evaluate.real: requests 17 real pictures, but the train split has 16\. Set it to 16 or less"
    with pytest.raises(SettingsError, match=message):
        small_settings(evaluate__real=17).check_data(data)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([0] * 15 + [1]), r"train 1 has 1 picture, .* at least 2. Add pictures, or remove the domain"),
        (np.stack([np.arange(16) % 2, np.zeros(16, int)], axis=1), r"attribute 1 has 0 pictures.*ingest\.attributes"),
        (np.stack([np.arange(16) % 2, np.ones(16, int)], axis=1), r"without attribute 1 has 0 pictures"),
    ],
)
def test_a_domain_with_too_few_pictures_to_measure_is_refused(tmp_path: Path, labels: np.ndarray, message: str) -> None:
    data = PreparedDataset(write_prepared(tmp_path / "data", blobs(16), labels, kind="domains"))
    with pytest.raises(DataError, match=message):
        load_settings(of_family(tmp_path, "stargan")).check_data(data)


def test_num_workers_may_be_an_elastic_pair(tmp_path: Path) -> None:
    path = changed(tmp_path, train={"batch": 24, "num_workers": [1, 4]})
    assert load_settings(path).train.workers == (1, 4)


def test_a_relative_tracking_uri_is_relative_to_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in URI_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    path = changed(tmp_path)
    monkeypatch.chdir("/")
    assert load_settings(path).track.uri == f"sqlite:///{tmp_path}/var/mlflow.db"
    monkeypatch.setenv("GANTRY_TRACKING_URI", "http://server:5000")
    assert load_settings(path).track.uri == "http://server:5000"


def test_values_by_dotted_name_are_checked_again() -> None:
    settings = load_settings(ROOT / "params.yaml")
    assert settings.with_values({"train.generator_lr": 1e-3, "model.slope": 0.1}).model.config.slope == 0.1
    with pytest.raises(SettingsError, match="model.slope"):
        settings.with_values({"model.slope": 2.0})
