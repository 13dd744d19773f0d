"""A version is made again from what it was made of: its data and settings, its search, and what it started from."""

import contextlib
import functools
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from mlflow import MlflowClient

from gan_core.errors import TrackingError
from pipelines.flow import reproduce as reproducing
from pipelines.flow.reproduce import _other_settings, _overrides, _parent_of, _steps_of, _trained_on
from pipelines.flow.workspace import run_dvc, worktree_workspace
from pipelines.registry.parent import Parent
from pipelines.runtime.checkout import Checkout
from pipelines.runtime.git import run_git
from tests.pipelines.toy import dvc, make_project
from tests.pipelines.toy import run as run_command

CHECKOUT, URI = Checkout.at("."), "sqlite:///unused.db"


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry with the version faces/1 only."""

    def find(name: str, checkout: Checkout, uri: str) -> Parent:
        assert name == "faces/1"
        return Parent(name=name, digest="a" * 64, images_seen=64, dvc="0.dir")

    monkeypatch.setattr(reproducing, "find_parent", find)


def test_the_tag_names_what_a_version_started_from() -> None:
    tags = {"gantry.parent": "faces/1", "gantry.parent_digest": "a" * 64}
    parent = _parent_of("faces/2", tags, CHECKOUT, URI)
    assert parent
    assert parent.name == "faces/1"
    assert _parent_of("faces/1", {}, CHECKOUT, URI) is None


def test_a_version_whose_start_has_changed_cannot_be_made_again() -> None:
    tags = {"gantry.parent": "faces/1", "gantry.parent_digest": "b" * 64}
    with pytest.raises(
        TrackingError, match=r"faces/2 cannot be made again: it started from faces/1 with the digest bbbb"
    ):
        _parent_of("faces/2", tags, CHECKOUT, URI)


def test_a_version_of_so_many_minutes_is_made_again_with_the_steps_that_these_were() -> None:
    budget = {"train": {"minutes": 15, "batch": 8}}
    assert _steps_of("faces/2", {"gantry.train_steps": "5400"}, budget) == 5400
    assert _steps_of("faces/2", {}, {"train": {"steps": 3000}}) is None
    with pytest.raises(
        TrackingError,
        match=r"faces/2 cannot be made again: it was trained for 15 minutes .* gantry\.train_steps .* but none",
    ):
        _steps_of("faces/2", {}, budget)


def test_a_storage_is_left_out_and_an_empty_section_is_none() -> None:
    recorded = {"train": {"batch": 8}}
    assert _overrides(recorded, {"storage": None, "train": {"batch": 4}}) == {"train.batch": 8}
    assert _overrides(recorded, {"storage": {"uri": "s3://a"}, "train": {"batch": 8}}) == {"storage.uri": ""}


@pytest.mark.parametrize("cached", [False, True])
def test_the_device_that_trained_a_version_is_known_also_if_its_training_was_cached(uri: str, cached: bool) -> None:
    """The run of a cached stage belongs to an earlier run of the pipeline."""
    client = MlflowClient(uri)
    pipeline = client.create_run("0", tags={"gantry.device": "TPU"} if cached else {}).info.run_id
    if not cached:
        stage = {"mlflow.parentRunId": pipeline, "gantry.stage": "train", "gantry.device": "TPU"}
        client.create_run("0", tags=stage)
    assert _trained_on(uri, pipeline) == "TPU"


def test_the_device_is_found_on_a_server_with_more_experiments_than_it_lists_at_once(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = MlflowClient(uri)
    pipeline = client.create_run("0", tags={"gantry.device": "TPU"}).info.run_id
    client.create_experiment("a later one")
    one_at_a_time = functools.partialmethod(MlflowClient.search_experiments, max_results=1)
    monkeypatch.setattr(MlflowClient, "search_experiments", one_at_a_time)
    assert _trained_on(uri, pipeline) == "TPU"


# -- the whole of it, with stages of one line --------------------------------------------------------------------------

PYTHON = (
    "python -c \"import sys, uuid; from pathlib import Path; p = Path('{out}'); "
    "p.parent.mkdir(parents=True, exist_ok=True); "
)
STAGES = {
    "ingest": {
        "cmd": PYTHON.format(out="data/prepared") + "p.write_text(Path('data/raw/${data.name}').read_text())\"",
        "deps": ["data/raw/${data.name}"],
        "params": ["data"],
        "outs": ["data/prepared"],
    },
    "tune": {
        "cmd": PYTHON.format(out="outputs/tune/best.json") + 'p.write_text(uuid.uuid4().hex)"',
        "deps": ["data/prepared"],
        "params": ["tune"],
        "outs": ["outputs/tune/best.json"],
    },
    "train": {
        "cmd": PYTHON.format(out="outputs/train/generator")
        + "p.write_text('${model.width}' + ''.join(map(lambda n: Path(n).read_text(), sys.argv[1:])))\""
        + " data/prepared outputs/tune/best.json",
        "deps": ["data/prepared", "outputs/tune/best.json"],
        "params": ["model"],
        "outs": ["outputs/train/generator"],
    },
}
"""The search has another result each time. Training depends on the data, the search and a setting."""


def test_a_setting_that_the_run_had_left_out_without_a_commit_is_named() -> None:
    """The commit has it, and an override cannot take it away."""

    def lock(**train: float) -> dict:
        return {"stages": {"train": {"params": {"params.yaml": {"train": train, "model": {"width": 8}}}}}}

    assert _other_settings(lock(steps=5), lock(steps=5, seed=3), ["train"]) == {"train.seed"}
    assert _other_settings(lock(steps=5), lock(steps=5), ["train"]) == set()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkout:
    """A project whose commit has the data a, a width of 4 and an empty section, with a remote."""
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "toy")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "toy@example.org")
    params = {"data": {"name": "a"}, "tune": None, "model": {"width": 4}}
    files = {"dvc.yaml": yaml.safe_dump({"stages": STAGES}), "params.yaml": yaml.safe_dump(params)}
    root = make_project(tmp_path / "project", files)
    (root / "data/raw").mkdir(parents=True)
    for name in ("a", "b"):
        (root / "data/raw" / name).write_text(f"pictures of {name}")
    dvc("add", "-q", "data/raw/a", "data/raw/b", cwd=root)
    dvc("remote", "add", "-q", "-d", "store", str(tmp_path / "store"), cwd=root)
    run_command("git", "add", "-A", cwd=root)
    run_command("git", "commit", "-qm", "data", cwd=root)
    return Checkout.at(root)


@pytest.fixture
def version(project: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A version that was made with other data, another width and a search; the folder of its files."""
    files = tmp_path / "version"
    files.mkdir()
    made = {"data.name": "b", "model.width": 8, "tune": {"trials": 2}}
    with worktree_workspace(project, revision="main", overrides=made, name="first") as workspace:
        run_dvc(workspace.checkout, workspace.environment, "repro", "-q")
        run_dvc(workspace.checkout, workspace.environment, "push", "-q")
        shutil.copy(workspace.checkout.dvc_lock, files / "dvc.lock")
    dvc("push", "-q", cwd=project.root)
    (files / "requirements.txt").write_text("")

    @contextlib.contextmanager
    def version_files(*_: object) -> Iterator[Path]:
        yield files

    commit = run_git(project.root, "rev-parse", "HEAD").strip()
    found = SimpleNamespace(name="toy", version="1", run_id="0" * 32, tags={"gantry.git_commit": f"{commit}+changes"})
    monkeypatch.setattr(reproducing, "find_version", lambda *_: found)
    monkeypatch.setattr(reproducing, "version_files", version_files)
    monkeypatch.setattr(reproducing, "_device", lambda *_: "")
    return files


def test_data_settings_and_search_are_those_of_the_version_and_a_lost_search_is_run_again(
    project: Checkout, version: Path
) -> None:
    shutil.rmtree(project.root / ".dvc/cache")  # what other hosts made is on the remote alone
    shutil.rmtree(project.raw)
    made = reproducing.reproduce("toy/1", tracking_uri=URI, checkout=project, on_line=lambda _: None)
    assert [(result.stage, result.same) for result in made.results] == [("ingest", True), ("train", True)]
    assert made.notes == ("the search was not run again; its result is the recorded one (--search runs it)",)

    lock = yaml.safe_load((version / "dvc.lock").read_text())
    digest = lock["stages"]["tune"]["outs"][0]["md5"]
    for place in (project.root / ".dvc/cache", project.root.parent / "store"):
        (place / "files/md5" / digest[:2] / digest[2:]).unlink()
    made = reproducing.reproduce("toy/1", tracking_uri=URI, checkout=project, on_line=lambda _: None)
    same = {result.stage: result.same for result in made.results}
    assert same == {"ingest": True, "tune": False, "train": False}
    assert made.notes[0].startswith("the search was run again, because its result is not in DVC's cache, ")
