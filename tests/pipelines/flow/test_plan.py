"""A plan says what the next run would do to each stage, and why, and changes nothing."""

import subprocess

import pytest
import yaml

from gan_core.errors import StageError
from pipelines.flow.plan import PlannedStage, plan_stages
from pipelines.runtime.checkout import Checkout
from tests.pipelines.toy import dvc, make_project, run

DVC = """
stages:
  first:
    cmd: sort raw > sorted
    deps: [raw]
    outs: [sorted]
  second:
    cmd: head -n ${lines} sorted > short
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


def test_a_plan_follows_a_project_from_the_first_run_to_the_next_change(project, monkeypatch) -> None:
    monkeypatch.chdir(project)  # DVC finds earlier results from there only
    before = tracked(project)
    assert actions(project) == {"raw.dvc": "up to date", "first": "runs", "second": "runs", "third": "runs"}
    assert tracked(project) == before, "planning changed the project"
    (first,) = (stage for stage in plan_stages(Checkout.at(project)) if stage.name == "first")
    assert "results: sorted is missing" in first.reason, "nothing was deleted: it was never made"
    assert not (project / "sorted").exists()
    dvc("repro", "-q", cwd=project)
    assert set(actions(project).values()) == {"up to date"}

    (project / "params.yaml").write_text("lines: 2\n")
    found = {stage.name: stage for stage in plan_stages(Checkout.at(project))}
    assert [stage.action for stage in found.values()] == ["up to date", "up to date", "runs", "may run"]
    assert "lines of params.yaml is modified" in found["second"].reason
    assert found["third"].reason == "after second"

    dvc("repro", "-q", cwd=project)
    (project / "params.yaml").write_text("lines: 1\n")
    found = {stage.name: stage for stage in plan_stages(Checkout.at(project))}
    assert found["second"].action == "restored"
    assert "DVC's run cache has its results" in found["second"].reason
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
    assert found["first"].reason == "needs raw.dvc"


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
    assert found["ingest"].reason.startswith(
        "Stage 'ingest' needs data/raw/x, which does not exist. Add it (gantry data"
    )
    (root / "data" / "raw").mkdir(parents=True)
    (root / "data" / "raw" / "x").touch()
    found = {stage.name: stage for stage in plan_stages(Checkout.at(root))}
    assert found["ingest"].reason.startswith("after code"), "by a file in the folder that the stage makes"


def test_an_unknown_stage_is_an_error(project) -> None:
    with pytest.raises(StageError, match="There is no stage 'thirdd'"):
        plan_stages(Checkout.at(project), ("thirdd",))


def tracked(root) -> str:
    """State of the project for git, with the content of what DVC writes."""
    listed = subprocess.run(["git", "status", "--porcelain"], cwd=root, capture_output=True, text=True, check=True)
    return listed.stdout
