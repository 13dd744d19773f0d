"""A generator is found by whatever a person calls it: a folder, a registered model, a version, an alias, a run."""

from contextlib import contextmanager

import pytest

from gan_core.errors import TrackingError
from gan_core.inference.generator import load_generator
from pipelines.registry.find import generator_folder
from pipelines.registry.promote import promote


def digest(model, uri):
    with generator_folder(str(model), tracking_uri=uri) as folder:
        return load_generator(folder).digest


def test_a_folder_or_the_folder_above_it(generator_dir, uri):
    assert digest(generator_dir, uri) == digest(generator_dir.parent, uri) == load_generator(generator_dir).digest


def test_a_name_a_version_an_alias_a_uri_and_a_run(register, generator_dir, uri):
    first = register(fid=20.0)
    register(fid=10.0)
    expected = load_generator(generator_dir).digest
    from mlflow import MlflowClient

    client = MlflowClient(uri, uri)
    run = client.get_model_version("digits", first.version).run_id
    stage = client.create_run(client.get_run(run).info.experiment_id, tags={"mlflow.parentRunId": run}).info.run_id
    for model in ("digits", "digits/1", "digits@challenger", "models:/digits/2", run, stage):
        assert digest(model, uri) == expected


def test_a_trials_run_is_not_taken_for_the_generator_that_was_registered_above_it(register, uri):
    from mlflow import MlflowClient

    client = MlflowClient(uri, uri)
    run = client.get_model_version("digits", register().version).run_id
    tags = {"mlflow.parentRunId": run, "gantry.stage": "trial"}
    trial = client.create_run(client.get_run(run).info.experiment_id, tags=tags).info.run_id
    with pytest.raises(
        TrackingError, match=rf"{trial} is the run of a trial, whose generator is not kept. Name the run of"
    ):
        digest(trial, uri)


def test_a_name_alone_means_the_champion_where_there_is_one(register, uri, generator_dir, monkeypatch):
    register(fid=20.0)
    promote("digits", tracking_uri=uri)
    register(fid=10.0)
    chosen = []

    @contextmanager
    def noted(version, tracking_uri):
        chosen.append(version)
        yield generator_dir

    monkeypatch.setattr("pipelines.registry.find.version_files", noted)
    with generator_folder("digits", tracking_uri=uri):
        pass
    assert [str(version.version) for version in chosen] == ["1"]


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("nothing", "There is no generator 'nothing'"),
        ("digits/9", "no version 9; it has 1"),
        ("digits@best", "no alias 'best'; it has challenger"),
        ("0" * 32, "There is no generator '000"),
        ("digits@", "'digits@' names no alias: write NAME@ALIAS, or 'digits' alone"),
        ("digits/", "There is no generator 'digits/'"),
        ("a'b", "There is no generator 'a'b'"),
        ("a\"b'c", "There is no generator"),
        ("outputs/train/generator", "There is no folder 'outputs/train/generator'. Train first"),
        ("./digits", "There is no folder './digits'"),
    ],
)
def test_what_is_not_there_is_named_with_what_is(register, uri, model, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a checkout may have outputs/train/generator
    register()
    with pytest.raises(TrackingError, match=words):
        digest(model, uri)


@pytest.mark.parametrize("model", ["", " "])
def test_an_empty_name_is_no_folder(uri, model):
    with pytest.raises(TrackingError, match="name of the model is empty; is a variable not set"):
        digest(model, uri)


def test_a_checkout_is_not_searched_for_whatever_checkpoint_lies_in_it(tmp_path, uri):
    (tmp_path / "dvc.yaml").touch()
    (tmp_path / "var" / "step-00000001").mkdir(parents=True)
    with pytest.raises(TrackingError, match=r"is a checkout, and no generator\. Name .*outputs/train/generator"):
        digest(tmp_path, uri)


def test_a_folder_of_something_else_is_refused(tmp_path, uri):
    with pytest.raises(TrackingError, match="holds no exported generator"):
        digest(tmp_path, uri)


def test_without_a_store_a_folder_is_still_found_and_a_name_is_not(generator_dir):
    assert digest(generator_dir, None) == load_generator(generator_dir).digest
    with pytest.raises(TrackingError, match="nothing says where registered models are"):
        digest("digits", None)


def test_a_name_with_a_quote_is_looked_up_like_any_other(register, generator_dir, uri):
    """MLflow lets others have one."""
    from mlflow import MlflowClient

    client, version = MlflowClient(uri, uri), register().version
    client.create_registered_model("o'hara")
    client.create_model_version("o'hara", client.get_model_version("digits", version).source)
    assert digest("o'hara", uri) == load_generator(generator_dir).digest
