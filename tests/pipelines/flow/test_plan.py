"""A plan says what the next run would do to each stage, and why, and changes nothing."""

import subprocess
from pathlib import Path

import pytest
import yaml

from gan_core.errors import StageError
from pipelines.flow.plan import PlannedStage, plan_stages
from pipelines.runtime import code
from pipelines.runtime.checkout import Checkout
from pipelines.runtime.code import stage_code_paths
from tests.pipelines.toy import dvc, make_project, run

DVC = """
stages:
  first:
    cmd: sort raw > sorted
    deps: [raw]
    outs: [sorted]
  second:
    cmd: head -n $(cut -d' ' -f2 params.yaml) sorted > short
    deps: [sorted]
    params: [lines]
    outs: [short]
  third:
    cmd: cp short copy
    deps: [short]
    outs: [copy]
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    root = make_project(tmp_path_factory.mktemp("plan"), {"dvc.yaml": DVC, "params.yaml": "lines: 1\n"})
    (root / "raw").write_text("b\na\n")
    dvc("add", "-q", "raw", cwd=root)
    run("git", "add", "-A", cwd=root)
    return root


def actions(root) -> dict[str, str]:
    return {stage.name: stage.action for stage in plan_stages(Checkout.at(root))}


def test_a_plan_follows_a_project_from_the_first_run_to_the_next_change(project, monkeypatch, capsys) -> None:
    monkeypatch.chdir(project)  # DVC finds earlier results from there only
    before = tracked(project)
    assert actions(project) == {"raw.dvc": "up to date", "first": "runs", "second": "runs", "third": "runs"}
    assert tracked(project) == before, "planning changed the project"
    (first,) = (stage for stage in plan_stages(Checkout.at(project)) if stage.name == "first")
    assert first == PlannedStage(name="first", action="runs", reason="it has not run yet")
    assert not (project / "sorted").exists()
    dvc("repro", "-q", cwd=project)
    assert set(actions(project).values()) == {"up to date"}

    (project / "params.yaml").write_text("lines: 2\n")
    found = {stage.name: stage for stage in plan_stages(Checkout.at(project))}
    assert [stage.action for stage in found.values()] == ["up to date", "up to date", "runs", "may run"]
    assert (found["second"].reason, found["second"].changes) == ("", ("lines is modified",))
    assert (found["third"].reason, found["third"].changes) == ("after second", ())

    dvc("repro", "-q", cwd=project)
    (project / "params.yaml").write_text("lines: 1\n")
    found = {stage.name: stage for stage in plan_stages(Checkout.at(project))}
    assert found["second"].action == "restored"
    assert capsys.readouterr().out == "", "DVC says that it checks results out, which it does not"
    assert found["second"].reason == "DVC's run cache has its results"
    assert found["second"].changes == ("lines is modified",)
    assert found["third"].action == "may run", (
        "its input is the one of two lines until the second stage restores the other"
    )
    (project / "short").unlink()
    assert actions(project)["third"] == "may run", "its input is missing until the second stage restores it"

    (project / "raw").unlink()
    found = {stage.name: stage for stage in plan_stages(Checkout.at(project))}
    assert found["raw.dvc"] == PlannedStage(
        name="raw.dvc", action="missing", reason="it is not on this machine: dvc pull, or gantry data add"
    )
    assert [found[name].reason for name in ("first", "second", "third")] == [
        "needs raw.dvc",
        "needs first",
        "needs second",
    ]


def test_data_that_is_not_there_is_missing_whatever_runs_before(tmp_path) -> None:
    """As in a new project, where the stage ``code`` always runs."""
    stages = {
        "code": {"cmd": "mkdir -p made && date > made/digest", "always_changed": True, "outs": ["made"]},
        "ingest": {"cmd": "cp data/raw/x y", "deps": ["data/raw/x", "made/digest"], "outs": ["y"]},
        "train": {"cmd": "cp y z", "deps": ["y"], "outs": ["z"]},
    }
    root = make_project(tmp_path / "new", {"dvc.yaml": yaml.safe_dump({"stages": stages})})
    found = {stage.name: stage for stage in plan_stages(Checkout.at(root))}
    assert {name: stage.action for name, stage in found.items()} == {
        "code": "runs",
        "ingest": "missing",
        "train": "missing",
    }
    assert found["ingest"].reason == "data/raw/x does not exist"
    assert "Add it (gantry data add" in found["ingest"].remedy
    (root / "data" / "raw").mkdir(parents=True)
    (root / "data" / "raw" / "x").touch()
    found = {stage.name: stage for stage in plan_stages(Checkout.at(root))}
    assert found["ingest"].action == "runs"
    dvc("repro", "-q", cwd=root)
    found = {stage.name: stage for stage in plan_stages(Checkout.at(root))}
    assert found["ingest"].reason == "after code", "by a file in the folder that the stage makes"
    assert (found["train"].action, found["train"].reason) == ("may run", "after ingest")


def test_the_digests_of_the_installed_code_say_which_stages_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stage that writes them always runs, but changes a stage after it only with the code of that stage."""
    digests = [f".gantry/code/{name}" for name in stage_code_paths()]
    stages = {
        "code": {
            "cmd": "gantry stage code",
            "always_changed": True,
            "outs": [{out: {"cache": False}} for out in digests],
        },
        "ingest": {"cmd": "cp .gantry/code/ingest a", "deps": [".gantry/code/ingest"], "outs": ["a"]},
        "train": {"cmd": "cp a b", "deps": ["a", ".gantry/code/train"], "outs": ["b"]},
    }
    root = make_project(tmp_path / "own", {"dvc.yaml": yaml.safe_dump({"stages": stages})})
    monkeypatch.chdir(root)
    dvc("repro", "-q", cwd=root)
    assert actions(root) == {"code": "runs", "ingest": "up to date", "train": "up to date"}

    places = stage_code_paths()["train"]
    digest = code.code_digest
    monkeypatch.setattr(code, "code_digest", lambda these: "upgraded" if these == places else digest(these))
    found = {stage.name: stage for stage in plan_stages(Checkout.at(root))}
    assert found["ingest"].action == "up to date"
    assert (found["train"].action, found["train"].changes) == ("runs", ("Gantry's code is modified",))


def test_an_unknown_stage_is_an_error(project) -> None:
    with pytest.raises(StageError, match="There is no stage 'thirdd'"):
        plan_stages(Checkout.at(project), ("thirdd",))


def tracked(root) -> str:
    """State of the project for git, with the content of what DVC writes."""
    listed = subprocess.run(["git", "status", "--porcelain"], cwd=root, capture_output=True, text=True, check=True)
    return listed.stdout
