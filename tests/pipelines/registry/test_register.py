"""A registered version loads anywhere, contains no pickle, and records its lineage."""

import io
import json
import os
import pickletools
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.utils.file_utils import local_file_uri_to_path
from PIL import Image

from gan_core.errors import CheckpointError, SettingsError, TrackingError
from gan_core.families import ImageShape, build_family, family_config
from gan_core.inference.description import generator_digest
from gan_core.inference.generator import load_generator, save_generator
from gan_core.inference.manifest import write_manifest
from gan_core.metrics.protocol import Figure
from pipelines.registry import attempts
from pipelines.registry import register as registering
from pipelines.registry.contents import read_figure
from pipelines.registry.find import generator_folder
from pipelines.runtime.guard import global_identity, process_identity
from pipelines.tracking import RunLog, find_run, sync
from pipelines.tracking.store import ensure_experiment, run_url
from tests.pipelines.registry.conftest import PROTOCOL, artifacts


@pytest.fixture
def client(uri):
    return MlflowClient(uri, uri)


@pytest.fixture
def load(uri, monkeypatch):
    """Load a model version as a user does, with pickles disabled."""
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    # MLflow writes its tracking URI to the environment, where Gantry would treat it as the user's setting.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    yield mlflow.pyfunc.load_model
    mlflow.set_tracking_uri(before)


def test_a_version_loaded_by_alias_makes_the_pictures_of_its_generator(register, load, generator_dir):
    registered = register()
    assert (registered.version, registered.alias) == ("1", "challenger")
    made = load("models:/digits@challenger").predict(pd.DataFrame({"n": [2, 1], "seed": [5, 6]}))
    assert list(made.columns) == ["png", "seed", "index", "row"]
    assert made[["seed", "index", "row"]].to_numpy().tolist() == [[5, 0, 0], [5, 1, 0], [6, 0, 1]]
    pictures = np.stack([np.asarray(Image.open(io.BytesIO(png))) for png in made["png"]])
    generator = load_generator(generator_dir)
    expected = np.concatenate([generator.sample(2, 5).numpy(), generator.sample(1, 6).numpy()])[:, 0]
    np.testing.assert_array_equal(pictures, expected)


def test_only_n_is_required(register, load):
    model = load(register().model_uri)
    made = model.predict(pd.DataFrame({"n": [3]}))
    assert len(made) == 3
    assert set(made["seed"]) == {0}
    schema = model.metadata.signature.inputs
    assert {column.name: column.required for column in schema} == {
        "n": True,
        "seed": False,
        "label": False,
        "truncation": False,
    }


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"n": [1, 0]}, "row 1: n is 0; it must be 1 or more"),
        ({"n": [-4]}, "row 0: n is -4"),
        ({"n": [1000, 1000]}, "asks for 2000 pictures; the limit is 1024"),
        ({"n": [2000, -1500]}, "row 1: n is -1500; it must be 1 or more"),
        ({"n": [2**62, 2**62]}, "the limit is 1024"),
        ({"n": [1], "truncation": [float("inf")]}, "row 0: truncation is 'inf'; it must be a number"),
        ({"n": [1], "seed": [-1]}, "row 0: seed: must be 0 or more"),
        ({"n": [1], "label": [3]}, "no label 3; it is not class-conditional"),
        ({"seed": [1]}, "missing inputs"),
        ({"n": ["two"]}, "Incompatible input types"),
    ],
)
def test_an_invalid_request_is_refused_with_the_reason(register, load, rows, message):
    with pytest.raises(MlflowException, match=message) as raised:
        load(register().model_uri).predict(pd.DataFrame(rows))
    assert raised.value.get_http_status_code() == 400


def test_the_model_contains_no_pickle(register, client):
    folder = artifacts(client, register().version)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {"MLmodel", "pyfunc_model.py", "README.md", "generator.safetensors"} <= {path.name for path in files}
    for path in files:
        assert path.suffix not in {".pkl", ".pickle", ".joblib", ".pt", ".pth", ".bin"}, path
        content = path.read_bytes()
        assert not content.startswith(b"\x80"), path  # the start of every pickle since protocol 2
        assert not content.startswith(b"PK"), path  # the zip file of torch.save
        with pytest.raises(ValueError, match=r".*"):
            list(pickletools.genops(content))  # a pickle of an older protocol would parse


def test_the_model_contains_no_path_of_this_machine(register, client, generator_dir):
    for path in artifacts(client, register().version).rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert str(generator_dir).encode() not in content, path
            assert str(Path.cwd()).encode() not in content, path


def test_requirements_are_the_installed_versions_without_local_labels(register, client):
    lines = (artifacts(client, register().version) / "requirements.txt").read_text().splitlines()
    assert {line.split("==")[0] for line in lines} >= {"mlflow", "torch", "numpy", "pillow", "safetensors"}
    assert not [line for line in lines if "+" in line]


def test_a_version_works_where_gantry_is_not_installed(register, uri, tmp_path):
    registered = register()
    code = (
        "import sys, mlflow, pandas\n"
        "sys.path = [p for p in sys.path if p != sys.argv[3]]\n"
        "mlflow.set_tracking_uri(sys.argv[1])\n"
        "made = mlflow.pyfunc.load_model(sys.argv[2]).predict(pandas.DataFrame({'n': [2]}))\n"
        "import gan_core\n"
        "assert 'mlartifacts' in gan_core.__file__, gan_core.__file__\n"
        "assert 'pipelines' not in sys.modules\n"
        "print(len(made), made['png'][0][1:4].decode())\n"
    )
    command = [sys.executable, "-c", code, uri, registered.model_uri, str(Path.cwd())]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert done.stdout.split() == ["2", "PNG"], done.stderr


def test_one_stage_key_registers_once(register, client):
    first = register(stage_key="a")
    assert register(stage_key="a") == first
    assert register(stage_key="b").version == "2"
    assert client.get_model_version_by_alias("digits", "challenger").version == 2
    assert register(stage_key="a").version == "1"  # registered again, it becomes challenger again
    assert client.get_model_version_by_alias("digits", "challenger").version == 1
    assert len(client.search_model_versions("name = 'digits'")) == 2


def test_an_interrupted_attempt_leaves_no_second_model_and_no_files(register, client, uri):
    experiment = ensure_experiment(client, uri, "gantry")
    model = client.create_logged_model(experiment, name="digits", tags={"gantry.stage_key": "a"})
    files = Path(local_file_uri_to_path(model.artifact_location))
    files.mkdir(parents=True)
    (files / "metrics.json").write_text('{"half')
    register(stage_key="a")
    assert len(client.search_logged_models([experiment])) == 1
    assert not files.exists()


def test_two_hosts_that_register_the_same_generator_at_once_make_one_version(
    register, client, uri, monkeypatch, caplog, load
):
    results = []
    write_model = registering.write_model

    def slow(folder: Path, **rest) -> str:
        if not results:  # another host begins and ends while this one writes
            results.append(None)
            with monkeypatch.context() as elsewhere:
                elsewhere.setattr(attempts, "global_identity", lambda: "elsewhere:1:1@boot")
                results[0] = register(stage_key="a")
        return write_model(folder, **rest)

    monkeypatch.setattr(registering, "write_model", slow)
    assert register(stage_key="a") == results[0]
    assert "registers the same generator at the moment" in caplog.text
    assert [version.version for version in client.search_model_versions("name = 'digits'")] == [1]
    (model,) = client.search_logged_models([ensure_experiment(client, uri, "gantry")])
    assert model.model_id in client.get_model_version("digits", "1").source
    assert len(list(artifacts(client, "1").parents[1].glob("*/artifacts"))) == 1, "files of the second version stay"
    load("models:/digits/1")


def test_a_second_version_that_someone_has_named_stays(register, client, caplog):
    first = register(stage_key="a")
    second = register(stage_key="b")
    client.set_registered_model_alias("digits", "champion", second.version)
    client.set_model_version_tag("digits", second.version, "gantry.stage_key", "a")
    assert register(stage_key="a") == first
    assert "Version 2 stays, because it has the alias champion." in caplog.text
    assert artifacts(client, "2").is_dir()


@pytest.mark.parametrize(
    ("writer", "silent", "stays"),
    [
        ("{parent}@{boot}", 4000, True),
        ("{host}:999999999:1@{boot}", 0, False),
        ("{host}:999999999:1@another-boot", 0, True),  # perhaps another machine of the same name
        ("{host}:999999999:1@another-boot", 4000, False),
    ],
)
@pytest.mark.parametrize("key", ["a", "of-other-settings"])
def test_an_attempt_is_deleted_unless_its_process_may_still_run(
    register, client, uri, monkeypatch, caplog, writer, silent, stays, key
):
    parent, boot = process_identity(os.getppid()), global_identity().partition("@")[2]
    writer = writer.format(parent=parent, boot=boot, host=parent.rsplit(":", 2)[0])
    experiment = ensure_experiment(client, uri, "gantry")
    tags = {"gantry.stage_key": key, "gantry.writer": writer}
    model = client.create_logged_model(experiment, name="digits", tags=tags)
    files = Path(local_file_uri_to_path(model.artifact_location))
    files.mkdir(parents=True)
    now = model.last_updated_timestamp / 1000 + silent
    monkeypatch.setattr(attempts, "time", SimpleNamespace(time=lambda: now))
    register(stage_key="a")
    assert files.exists() == stays
    assert len(client.search_logged_models([experiment])) == 1 + stays
    assert ("registers the same generator" in caplog.text) == (stays and key == "a")
    register(stage_key="b")  # finds nothing of the finished registration to delete
    assert artifacts(client, "1").is_dir()


def test_the_files_of_a_version_stay_when_its_model_was_renamed(register, client):
    register(stage_key="a")
    client.rename_registered_model("digits", "figures")
    files = {path: path.read_bytes() for path in artifacts(client, "1", "figures").iterdir() if path.is_file()}
    register(stage_key="a")
    assert {path: path.read_bytes() for path in files} == files


def test_files_of_an_interrupted_attempt_that_cannot_be_deleted_are_named(register, client, uri, monkeypatch, caplog):
    experiment = ensure_experiment(client, uri, "gantry")
    model = client.create_logged_model(experiment, name="digits", tags={"gantry.stage_key": "a"})

    def refused(self: LocalArtifactRepository, path: str | None = None) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(LocalArtifactRepository, "delete_artifacts", refused)
    register(stage_key="a")
    assert f"stay in {model.artifact_location}: " in caplog.text
    assert len(client.search_logged_models([experiment])) == 1


def test_a_version_records_its_run_and_lineage(register, client, uri, tmp_path, generator_dir):
    RunLog(tmp_path / "track", key="pipeline-1", name="digits").finish()
    sync(tmp_path / "track", tracking_uri=uri, experiment="gantry")
    run_id = find_run(uri, "gantry", "pipeline-1").run_id
    sheet, lock = tmp_path / "sheet.png", tmp_path / "lock"
    Image.new("L", (4, 4)).save(sheet)
    lock.write_text("stages: {}")
    tags = {
        "gantry.stage_key": "k",
        "gantry.dataset": "d" * 64,
        "gantry.git_commit": "abc",
        "gantry.dvc_lock": "e" * 64,
    }
    registered = register(12.5, run_id=run_id, tags=tags, card={"samples.png": sheet, "dvc.lock": lock})
    version = client.get_model_version("digits", registered.version)
    assert version.run_id == run_id
    assert tags.items() <= version.tags.items()
    assert version.tags["gantry.run"] == run_id
    assert json.loads(version.tags["gantry.protocol"])["real_count"] == 60000
    card = (artifacts(client, registered.version) / "README.md").read_text()
    assert version.description.startswith("FID 12.50, dcgan generator, 16x16 pixels")
    assert "| git_commit | `abc` |" in version.description
    for part in ("**FID 12.50**", "| real_count | `60000` |", "| git_commit | `abc` |", "![samples.png](samples.png)"):
        assert part in card
    assert (artifacts(client, registered.version) / "samples.png").read_bytes() == sheet.read_bytes()
    assert (artifacts(client, registered.version) / "dvc.lock").read_text() == "stages: {}"
    run = client.get_run(run_id)
    (output,) = run.outputs.model_outputs
    assert output.model_id in version.source
    assert run.data.metrics == {"fid": 12.5}


def test_the_page_of_a_version_shows_its_pictures(register, client, monkeypatch, tmp_path):
    """MLflow's Markdown shows pictures of its own server only. The addresses are relative to its page."""
    from mlflow.server import app, handlers

    sheet = tmp_path / "samples.png"
    Image.new("L", (40, 40), 9).save(sheet)
    version = client.get_model_version("digits", register(card={"samples.png": sheet}).version)
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", version.description)
    (card,) = re.findall(r"\[README.md\]\((.*?)\)", version.description)
    monkeypatch.setattr(handlers, "_tracking_store", client._tracking_client.store)
    with app.test_client() as browser:
        assert [browser.get(f"/{picture}").data for picture in pictures] == [sheet.read_bytes()]
        assert browser.get(f"/{card}").text.startswith("# digits")


def test_the_next_registration_completes_an_interrupted_one(register, client, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(registering, "_link", killed)
        with pytest.raises(KeyboardInterrupt):
            register(fid=12.5, stage_key="a")
    for _ in range(2):
        registered = register(fid=12.5, stage_key="a")
    assert registered.version == "1"
    run = client.get_run(client.get_model_version("digits", "1").run_id)
    (output,) = run.outputs.model_outputs
    assert run.data.metrics == {"fid": 12.5}
    model = client.get_logged_model(output.model_id)
    assert json.loads(model.tags["mlflow.modelVersions"]) == [{"name": "digits", "version": 1}]
    assert [(metric.key, metric.value) for metric in model.metrics] == [("fid", 12.5)]


def test_a_version_whose_run_was_deleted_can_be_challenger_again(register, client):
    first = register(fid=12.5, stage_key="a")
    register(fid=11.5, stage_key="b")
    client.delete_run(client.get_model_version("digits", first.version).run_id)
    assert register(fid=12.5, stage_key="a").version == "1"
    assert client.get_model_version_by_alias("digits", "challenger").version == 1


def test_a_missing_local_file_is_not_reported_as_a_server_error(register, tmp_path):
    with pytest.raises(FileNotFoundError, match="none.png"):
        register(card={"samples.png": tmp_path / "none.png"})


def test_the_address_of_the_run_is_returned(register, client):
    registered = register()
    version = client.get_model_version("digits", registered.version)
    experiment = client.get_run(version.run_id).info.experiment_id
    assert registered.run_url == f"http://127.0.0.1:5000/#/experiments/{experiment}/runs/{version.run_id}"
    assert run_url("https://me:pass@server/mlflow/", "1", "2") == "https://server/mlflow/#/experiments/1/runs/2"


def test_a_run_is_created_for_a_version_without_one(register, client):
    version = client.get_model_version("digits", register().version)
    assert client.get_run(version.run_id).info.run_name == "register"


def test_a_damaged_generator_is_not_registered(register, client, tmp_path):
    (tmp_path / "broken").mkdir()
    with pytest.raises(CheckpointError, match="contains no exported generator"):
        register(generator_dir=tmp_path / "broken")
    assert client.search_registered_models() == []


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_figure_that_is_not_finite_is_not_registered(register, client, value):
    with pytest.raises(TrackingError, match=rf"The fid of .* is {value}. The generator is not registered"):
        register(value)
    assert client.search_registered_models() == []


def test_the_interval_of_the_figure_is_stored_if_there_is_one(register, client):
    with_one, without = register(20.0, interval=(18.5, 21.25)), register(19.0)
    tags = client.get_model_version("digits", with_one.version).tags
    assert (float(tags["gantry.low"]), float(tags["gantry.high"])) == (18.5, 21.25)
    assert "gantry.low" not in client.get_model_version("digits", without.version).tags


@pytest.mark.parametrize(("names", "known"), [(["wren", "blue tit"], "0 wren, 1 blue tit."), ([], "0 to 1.")])
def test_the_card_of_a_class_conditional_generator_explains_labels(register, client, tmp_path, names, known):
    shape = ImageShape(channels=1, height=16, width=16, classes=2)
    family = build_family("cgan", family_config("cgan", {"width": 4, "latent": 8}), shape)
    extra = {"step": 1, "dataset": "d" * 64, "classes": names}
    save_generator(tmp_path / "generator", family=family, extra=extra)
    version = register(generator_dir=tmp_path / "generator").version
    card = (artifacts(client, version) / "README.md").read_text()
    assert '{"n": 4, "seed": 0, "label": 0}' in card
    assert f"Classes: {known} Without `label`" in card


def test_the_card_says_that_all_rows_must_have_the_same_columns(register, client):
    card = (artifacts(client, register().version) / "README.md").read_text()
    assert "All rows of a request must have the same columns" in card


TAMPERED = {
    "weights": "artifacts/generator/generator.safetensors",
    "description": "artifacts/generator/generator.json",
    "signature": "MLmodel",
    "card": "README.md",
}


@pytest.mark.parametrize("what", TAMPERED)
def test_a_version_with_changed_files_is_not_loaded(register, client, load, uri, what):
    registered = register()
    path = artifacts(client, registered.version) / TAMPERED[what]
    content = path.read_bytes()
    path.write_bytes(content.replace(b"a", b"b", 1) if what != "signature" else content + b"\n")
    with pytest.raises(
        CheckpointError, match=rf"{path.name} was changed\. The folder differs from what was registered"
    ):
        load(registered.model_uri)
    with (
        pytest.raises(CheckpointError, match=rf"{path.name} was changed\. The folder differs from what was registered"),
        generator_folder("digits", tracking_uri=uri),
    ):
        pass


def test_a_replaced_manifest_does_not_match_the_registry(register, client, uri):
    version = register().version
    folder = artifacts(client, version)
    (folder / "README.md").write_text("another")
    write_manifest(folder)
    with (
        pytest.raises(CheckpointError, match="its SHA-256 differs from the one in the registry"),
        generator_folder("digits", tracking_uri=uri),
    ):
        pass


def test_a_version_without_a_manifest_loads_with_a_warning(register, client, uri, caplog):
    version = register().version
    (artifacts(client, version) / "gantry-manifest.json").unlink()
    client.delete_model_version_tag("digits", version, "gantry.manifest")
    with caplog.at_level("WARNING"), generator_folder("digits", tracking_uri=uri) as folder:
        load_generator(folder)
    assert "digits version 1 has no checksums of its files" in caplog.text


def test_the_figures_are_stored_with_the_version(register, client):
    folder = artifacts(client, register(12.5).version)
    assert json.loads((folder / "metrics.json").read_text())["fid"]["value"] == 12.5


def test_a_version_is_compared_by_the_objective_it_was_registered_with(register, client, generator_dir):
    digest = generator_digest(generator_dir)
    fid, recall = (
        Figure(name=name, value=0.5, protocol=PROTOCOL, generator_digest=digest) for name in ("fid", "recall")
    )
    version = register(figure=recall.as_dict(), figures=[fid.as_dict(), recall.as_dict()]).version
    found, _ = read_figure(artifacts(client, version), client.get_model_version("digits", version))
    assert found.name == "recall"
    assert client.get_model_version("digits", version).tags["gantry.figure"] == "recall"
    assert json.loads((artifacts(client, version) / "metrics.json").read_text())["fid"]["name"] == "fid"


def test_a_figure_measured_on_another_generator_is_not_registered(register, client, tmp_path):
    shape = ImageShape(channels=1, height=16, width=16)
    family = build_family("dcgan", family_config("dcgan", {"width": 4, "latent": 9}), shape)
    save_generator(tmp_path / "other", family=family, extra={"step": 7, "dataset": "d" * 64})
    figure = Figure(name="fid", value=1.0, protocol=PROTOCOL, generator_digest=generator_digest(tmp_path / "other"))
    with pytest.raises(TrackingError, match="The fid to register was measured on another generator"):
        register(figure=figure.as_dict())
    assert client.search_registered_models() == []


@pytest.mark.parametrize("without", ["value", "protocol", "name"])
def test_an_incomplete_figure_is_not_registered(register, client, without):
    figure = Figure(name="fid", value=1.0, protocol=PROTOCOL, generator_digest="f" * 64).as_dict()
    del figure[without]
    with pytest.raises(SettingsError, match=rf"Missing setting 'figure\.{without}'"):
        register(figure=figure)
    assert client.search_registered_models() == []
