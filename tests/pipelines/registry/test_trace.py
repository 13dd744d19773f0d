"""From a picture, a version, a run or a commit to the settings, the data and the code."""

import base64
import io
import json

import pytest
import yaml
from click.testing import CliRunner
from mlflow import MlflowClient
from PIL import Image

from gan_core.errors import DataError, TrackingError
from gan_core.inference.description import generator_digest
from gan_core.inference.generator import load_generator
from gan_core.inference.provenance import provenance, read_provenance
from gan_core.inference.sample import save_contact_sheet, save_pictures
from pipelines.commands.trace import trace as command
from pipelines.registry.trace import trace
from pipelines.runtime.checkout import Checkout
from tests.pipelines.runtime.test_git import git

LOCK = {
    "schema": "2.0",
    "stages": {
        "ingest": {
            "deps": [{"path": "data/raw/digits", "hash": "md5", "md5": "ab12.dir", "size": 2, "nfiles": 2}],
            "params": {"params.yaml": {"data": {"name": "digits"}}},
        },
        "train": {"params": {"params.yaml": {"train": {"steps": 60}}}},
        "register": {"params": {"params.yaml": {"register": {"data_licence": "of the version before"}}}},
    },
}


@pytest.fixture
def checkout(tmp_path):
    """A git repository and DVC project with one commit, whose raw data has two files in the cache."""
    from dvc.repo import Repo

    root = tmp_path / "project"
    root.mkdir()
    git(root, "init", "-q")
    Repo.init(str(root)).close()
    git(root, "add", "-A")
    git(root, "commit", "-qm", "Add the settings")
    listing = root / ".dvc" / "cache" / "files" / "md5" / "ab" / "12.dir"
    listing.parent.mkdir(parents=True)
    listing.write_text(json.dumps([{"md5": "1" * 32, "relpath": "a.png"}, {"md5": "2" * 32, "relpath": "b.png"}]))
    return Checkout.at(root)


@pytest.fixture
def commit(checkout):
    return git(checkout.root, "rev-parse", "HEAD").strip()


@pytest.fixture
def registered(register, commit, tmp_path):
    lock = tmp_path / "dvc.lock"
    lock.write_text(yaml.safe_dump(LOCK))
    tags = {"gantry.stage_key": "k", "gantry.git_commit": commit, "gantry.dataset": "d" * 64}
    return register(tags=tags, card={"dvc.lock": lock})


def test_a_picture_is_traced_to_the_raw_files_and_the_commit(
    registered, generator_dir, uri, checkout, commit, tmp_path
):
    save_pictures(load_generator(generator_dir), tmp_path / "out", 2, 7, None, None)
    found = trace(str(tmp_path / "out" / "seed0007-000001.png"), tracking_uri=uri, checkout=checkout)
    assert found.picture == {"generator": generator_digest(generator_dir), "seed": 7, "index": 1}
    (line,) = found.versions
    assert line.version == "digits/1"
    assert line.aliases == ("challenger",)
    assert (line.commit, line.dataset) == (commit, "d" * 64)
    assert line.commit_subject.endswith(" Add the settings")
    assert line.settings == {"data": {"name": "digits"}, "train": {"steps": 60}}
    assert line.raw == {"data/raw/digits": "ab12.dir"}
    assert line.raw_files == {"data/raw/digits/a.png": "1" * 32, "data/raw/digits/b.png": "2" * 32}
    assert line.notes == ()
    assert MlflowClient(uri).get_run(line.run).info.experiment_id in line.run_url


@pytest.mark.parametrize("kind", ["version", "alias", "run", "commit"])
def test_versions_runs_and_commits_give_the_same_line(registered, uri, checkout, commit, kind):
    run = MlflowClient(uri).get_model_version("digits", "1").run_id
    thing = {"version": "digits/1", "alias": "digits@challenger", "run": run, "commit": commit[:10]}[kind]
    found = trace(thing, tracking_uri=uri, checkout=checkout)
    assert found.kind == ("version" if kind == "alias" else kind)
    assert [line.version for line in found.versions] == ["digits/1"]


def test_a_commit_finds_the_versions_that_were_trained_at_it(register, uri, checkout, commit):
    tags = {"gantry.stage_key": "k", "gantry.git_commit": "b" * 40, "gantry.train_commit": f"{commit}+changes"}
    register(tags=tags)
    assert [line.version for line in trace(commit, tracking_uri=uri, checkout=checkout).versions] == ["digits/1"]


def test_a_sheet_says_which_generator_made_it(generator_dir, tmp_path):
    save_contact_sheet(load_generator(generator_dir), tmp_path / "sheet.png", 4, 3, None, None)
    assert read_provenance(tmp_path / "sheet.png") == {
        "generator": generator_digest(generator_dir),
        "seed": 3,
        "count": 4,
    }


def test_the_chunk_does_not_change_the_pixels(tmp_path):
    picture = Image.effect_noise((8, 8), 50)
    picture.save(tmp_path / "plain.png")
    picture.save(tmp_path / "traced.png", pnginfo=provenance("f" * 64, seed=1, label=None))
    with Image.open(tmp_path / "plain.png") as plain, Image.open(tmp_path / "traced.png") as traced:
        assert plain.tobytes() == traced.tobytes()
    assert read_provenance(tmp_path / "traced.png") == {"generator": "f" * 64, "seed": 1}


def test_a_picture_of_the_registered_model_is_traced(registered, uri, checkout, tmp_path):
    import mlflow
    import pandas

    model = mlflow.pyfunc.load_model(MlflowClient(uri).get_model_version("digits", "1").source)
    png = model.predict(pandas.DataFrame({"n": [2], "seed": [5]}))["png"][1]
    png = base64.b64decode(png) if isinstance(png, str) else png
    (tmp_path / "served.png").write_bytes(png)
    found = trace(str(tmp_path / "served.png"), tracking_uri=uri, checkout=checkout)
    assert (found.picture["seed"], found.picture["index"]) == (5, 1)
    assert found.versions[0].version == "digits/1"


def test_what_cannot_be_traced_is_an_error_with_a_remedy(register, uri, checkout, tmp_path):
    register()
    content = io.BytesIO()
    Image.new("L", (2, 2)).save(content, format="PNG")
    (tmp_path / "plain.png").write_bytes(content.getvalue())
    with pytest.raises(DataError, match="does not say which generator made it"):
        trace(str(tmp_path / "plain.png"), tracking_uri=uri, checkout=checkout)
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(DataError, match="is not a PNG that can be read"):
        trace(str(tmp_path / "text.png"), tracking_uri=uri, checkout=checkout)
    Image.new("L", (2, 2)).save(tmp_path / "other.png", pnginfo=provenance("e" * 64))
    with pytest.raises(TrackingError, match="which is not registered here"):
        trace(str(tmp_path / "other.png"), tracking_uri=uri, checkout=checkout)
    with pytest.raises(TrackingError, match="is neither a file nor a registered version"):
        trace("nothing", tracking_uri=uri, checkout=checkout)


def test_parts_of_the_line_that_are_gone_are_noted(register, uri, checkout):
    register()
    (line,) = trace("digits/1", tracking_uri=uri, checkout=checkout).versions
    assert any("no dvc.lock" in note for note in line.notes)
    assert any("commit abc is not in the repository" in note for note in line.notes)


def test_the_command_prints_the_line_and_json(registered, uri, checkout, monkeypatch):
    (checkout.root / "params.yaml").write_text((Checkout.at().params).read_text())
    monkeypatch.chdir(checkout.root)
    monkeypatch.setenv("GANTRY_TRACKING_URI", uri)
    output = CliRunner().invoke(command, ["digits/1", "--files"]).output
    assert "version  digits/1 (challenger)" in output
    assert f"    {'1' * 32}  data/raw/digits/a.png" in output
    assert "  train.steps = 60" in output
    values = json.loads(CliRunner().invoke(command, ["digits/1", "--json"]).output)
    assert values["versions"][0]["dvc_lock"] == LOCK
