"""The stage key changes with everything that determines a stage's result, and with nothing else."""

import shutil
import time

import pytest

from gan_core.errors import StageError
from pipelines.runtime.checkout import Checkout
from pipelines.runtime.key import read_stage


def test_the_key_is_the_same_in_another_checkout(project, tmp_path):
    other = shutil.copytree(project, tmp_path / "elsewhere" / "copy")
    assert read_stage("slow", Checkout.at(project)).key == read_stage("slow", Checkout.at(other)).key


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
    before = read_stage("slow", Checkout.at(project)).key
    path = project / place
    path.write_text(path.read_text().replace(old, new))
    assert read_stage("slow", Checkout.at(project)).key != before


def test_the_key_does_not_change_with_what_the_stage_does_not_use(project):
    before = read_stage("slow", Checkout.at(project)).key
    (project / "params.yaml").write_text("other: 1\nsteps: 3\n")
    (project / "README.md").write_text("more\n")
    (project / "slow-out").mkdir()
    assert read_stage("slow", Checkout.at(project)).key == before


def test_two_stages_have_two_keys(project):
    (project / "slow-out").mkdir()
    (project / "slow-out" / "text.txt").touch()
    assert read_stage("slow", Checkout.at(project)).key != read_stage("quick", Checkout.at(project)).key


def test_a_key_costs_less_than_three_seconds(project):
    assert read_stage("slow", Checkout.at(project)).key
    began = time.perf_counter()
    assert read_stage("slow", Checkout.at(project)).key
    assert time.perf_counter() - began < 3


def test_the_definition_matches_dvc_yaml(project):
    definition = read_stage("slow", Checkout.at(project))
    assert definition.command == ("python stages.py slow",)
    assert set(definition.dependencies) == {"stages.py", "data.txt"}
    assert definition.parameters == {"params.yaml": {"steps": 3}}
    assert definition.outs == ("slow-out",)


def test_errors_name_the_cause_and_the_remedy(project, tmp_path):
    with pytest.raises(StageError, match=r"no stage 'slwo'.*Did you mean 'slow'"):
        read_stage("slwo", Checkout.at(project))
    with pytest.raises(
        StageError, match=r"'quick' needs slow-out, which does not exist. Run the stage that makes it first"
    ):
        read_stage("quick", Checkout.at(project))
    with pytest.raises(StageError, match="not a DVC project"):
        read_stage("slow", Checkout.at(tmp_path))
    (project / "params.yaml").write_text("other: 1\n")
    with pytest.raises(StageError, match="'steps' are missing"):
        read_stage("slow", Checkout.at(project))
