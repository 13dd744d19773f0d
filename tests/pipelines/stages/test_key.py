"""The stage key follows everything that determines a stage's result, and nothing else."""

import shutil
import time

import pytest

from gan_core.errors import StageError
from pipelines.stages.key import read_stage, stage_key


def test_the_key_is_the_same_in_another_checkout(project, tmp_path):
    other = shutil.copytree(project, tmp_path / "elsewhere" / "copy")
    assert stage_key("slow", project) == stage_key("slow", other)


@pytest.mark.parametrize(
    ("place", "old", "new"),
    [
        ("data.txt", "one", "two"),
        ("stages.py", "def body", "def  body"),
        ("params.yaml", "steps: 3", "steps: 4"),
        ("dvc.yaml", "stages.py slow", "stages.py  slow"),
        ("dvc.yaml", "slow-out", "slow-results"),
    ],
    ids=["dependency", "code", "parameter", "command", "out"],
)
def test_the_key_changes_with_each_thing_that_determines_the_result(project, place, old, new):
    before = stage_key("slow", project)
    path = project / place
    path.write_text(path.read_text().replace(old, new))
    assert stage_key("slow", project) != before


def test_the_key_does_not_change_with_what_the_stage_does_not_use(project):
    before = stage_key("slow", project)
    (project / "params.yaml").write_text("other: 1\nsteps: 3\n")
    (project / "README.md").write_text("more\n")
    (project / "slow-out").mkdir()
    assert stage_key("slow", project) == before


def test_two_stages_have_two_keys(project):
    (project / "slow-out").mkdir()
    (project / "slow-out" / "text.txt").touch()
    assert stage_key("slow", project) != stage_key("quick", project)


def test_a_key_costs_less_than_three_seconds(project):
    stage_key("slow", project)
    began = time.perf_counter()
    stage_key("slow", project)
    assert time.perf_counter() - began < 3


def test_the_definition_has_what_dvc_knows(project):
    definition = read_stage("slow", project)
    assert definition.command == ("python stages.py slow",)
    assert set(definition.dependencies) == {"stages.py", "data.txt"}
    assert definition.parameters == {"params.yaml": {"steps": 3}}
    assert definition.outs == ("slow-out",)


def test_errors_name_the_thing_and_the_remedy(project, tmp_path):
    with pytest.raises(StageError, match=r"no stage 'slwo'.*Did you mean 'slow'"):
        read_stage("slwo", project)
    with pytest.raises(StageError, match=r"'quick' needs slow-out, which does not exist. Run the stages before it"):
        read_stage("quick", project)
    with pytest.raises(StageError, match="not a DVC project"):
        read_stage("slow", tmp_path)
    (project / "params.yaml").write_text("other: 1\n")
    with pytest.raises(StageError, match="'steps' are missing"):
        read_stage("slow", project)
