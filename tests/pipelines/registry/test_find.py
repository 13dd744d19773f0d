"""A generator is found by folder, registered model, version, alias or run."""

from contextlib import contextmanager

import pytest

from gan_core.errors import TrackingError
from gan_core.inference.generator import load_generator
from pipelines.registry.find import find_model, generator_folder
from pipelines.registry.promote import promote


def digest(model, uri):
    with generator_folder(str(model), tracking_uri=uri) as folder:
        return load_generator(folder).digest


def test_a_generator_is_found_in_its_folder_and_in_the_parent_folder(generator_dir, uri):
    assert digest(generator_dir, uri) == digest(generator_dir.parent, uri) == load_generator(generator_dir).digest


def test_a_generator_is_found_by_name_version_alias_uri_and_run(register, generator_dir, uri):
    first = register(fid=20.0)
    register(fid=10.0)
    expected = load_generator(generator_dir).digest
    from mlflow import MlflowClient

    client = MlflowClient(uri, uri)
    run = client.get_model_version("digits", first.version).run_id
    stage = client.create_run(client.get_run(run).info.experiment_id, tags={"mlflow.parentRunId": run}).info.run_id
    for model in ("digits", "digits/1", "digits@challenger", "models:/digits/2", run, stage):
        assert digest(model, uri) == expected


def test_a_registered_generator_is_found_with_its_version(register, generator_dir, uri):
    register()
    for model, version in (("digits@challenger", "digits/1"), (str(generator_dir), None)):
        with find_model(model, tracking_uri=uri) as found:
            assert found.version == version


def test_the_run_of_a_trial_is_refused(register, uri):
    from mlflow import MlflowClient

    client = MlflowClient(uri, uri)
    run = client.get_model_version("digits", register().version).run_id
    tags = {"mlflow.parentRunId": run, "gantry.stage": "trial"}
    trial = client.create_run(client.get_run(run).info.experiment_id, tags=tags).info.run_id
    with pytest.raises(
        TrackingError, match=rf"{trial} is the run of a trial; generators of trials are not kept. Name the run of"
    ):
        digest(trial, uri)


def test_a_server_that_fails_meanwhile_is_not_taken_for_one_without_the_run(register, uri, monkeypatch):
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE

    def fail(self, run_id):
        raise MlflowException("the database restarts", error_code=TEMPORARILY_UNAVAILABLE)

    register()
    monkeypatch.setattr(MlflowClient, "get_run", fail)
    with pytest.raises(TrackingError, match="cannot be reached or failed: the database restarts"):
        digest("0" * 32, uri)


def test_a_name_alone_means_the_champion_if_there_is_one(register, uri, generator_dir, monkeypatch):
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
        ("digits@", "'digits@' names no alias. Give NAME@ALIAS, or 'digits' alone"),
        ("digits/", "There is no generator 'digits/'"),
        ("a'b", "There is no generator 'a'b'"),
        ("a\"b'c", "There is no generator"),
        ("outputs/train/generator", "There is no folder 'outputs/train/generator'. Train first"),
        ("./digits", "There is no folder './digits'"),
    ],
)
def test_an_unknown_model_is_refused_with_the_known_names(register, uri, model, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a checkout may have outputs/train/generator
    register()
    with pytest.raises(TrackingError, match=words):
        digest(model, uri)


@pytest.mark.parametrize("model", ["", " "])
def test_an_empty_name_is_refused(uri, model):
    with pytest.raises(TrackingError, match="name of the model is empty. If it comes from a shell variable"):
        digest(model, uri)


def test_a_checkout_is_refused_even_if_it_contains_checkpoints(tmp_path, uri):
    (tmp_path / "dvc.yaml").touch()
    (tmp_path / "var" / "step-00000001").mkdir(parents=True)
    with pytest.raises(TrackingError, match=r"is a checkout, not a generator\. Name .*outputs/train/generator"):
        digest(tmp_path, uri)


def test_a_folder_without_a_generator_is_refused(tmp_path, uri):
    with pytest.raises(TrackingError, match="has no exported generator"):
        digest(tmp_path, uri)


def test_without_a_tracking_uri_only_folders_are_found(generator_dir):
    assert digest(generator_dir, None) == load_generator(generator_dir).digest
    with pytest.raises(TrackingError, match="the address of the registry is unknown"):
        digest("digits", None)


def test_a_name_with_a_quote_is_found(register, generator_dir, uri):
    """Gantry's own names contain no quotes, but MLflow allows them."""
    from mlflow import MlflowClient

    client, version = MlflowClient(uri, uri), register().version
    client.create_registered_model("o'hara")
    client.create_model_version("o'hara", client.get_model_version("digits", version).source)
    assert digest("o'hara", uri) == load_generator(generator_dir).digest


def test_a_registered_model_without_versions_is_named(uri):
    """As after a registration that was killed."""
    from mlflow import MlflowClient

    MlflowClient(uri, uri).create_registered_model("empty")
    with (
        pytest.raises(TrackingError, match="The registered model 'empty' has no version yet"),
        find_model("empty", tracking_uri=uri),
    ):
        pass


def test_files_that_a_store_has_no_longer_are_gone_and_not_changed(register, uri, monkeypatch):
    """MLflow gives an empty folder for a place of a store or server where nothing is."""
    import mlflow

    register()
    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", lambda dst_path, **more: dst_path)
    with (
        pytest.raises(TrackingError, match="The files of version 1 of 'digits' are gone: there is no file at"),
        find_model("digits", tracking_uri=uri),
    ):
        pass
